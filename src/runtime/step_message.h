// What rank 0 tells ranks in other processes, which follow it (follower.h): everything that a step needs besides the
// weights, the cache and the block tables, which they have. Rank 0 decides what runs and which tokens come out; nothing
// of that is computed twice.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "core/step.h"
#include "plan/ranked_executor.h"
#include "runtime/model_drafter.h"

namespace weft {

// What a message begins with, of those that do not belong to a step that has begun. Drafts' rows and tokens do.
enum class MessageKind : uint8_t { step, image, drop_images, adapter };  // images: image_encoders.h

// What becomes of slots, blocks and tables before a step's rows: all of a StepBatch that a stage needs besides its
// rows.
void write_changes(const StepBatch& batch, ByteWriter& to);
void read_changes(ByteReader& from, StepBatch& batch);
// A step's inputs of every home, for `whole` (Model::whole), as they have been filled. They are for other processes,
// and for the later pipeline stages of this one.
void write_inputs(const RankedExecutor& executor, const Plan& whole, ByteWriter& to);
void read_inputs(ByteReader& from, const Plan& whole, RankedExecutor& executor);
// What has become of a number of the AdapterTable before the next step: another adapter, or none.
void write_adapter(int number, const AdapterFiles* files, ByteWriter& to);
std::optional<AdapterFiles> read_adapter(ByteReader& from, int& number);
// A draft's rows, behind the target's sampling.
void write_draft_rows(std::span<const DraftRow> rows, ByteWriter& to);

// The rows, and what they point to; of the parameters what draws a draft.
struct ReadDraftRows {
  std::vector<DraftRow> rows;
  std::vector<std::vector<int32_t>> next, out;
};
void read_draft_rows(ByteReader& from, ReadDraftRows& into);

}  // namespace weft
