// What rank 0 tells ranks in other processes, which follow it (follower.h): everything that a step needs besides the
// weights, the cache and the block tables, which they have. Rank 0 decides what runs and which tokens come out; nothing
// of that is computed twice.
#pragma once

#include <span>
#include <vector>

#include "base/bytes.h"
#include "core/step.h"
#include "runtime/model_runner.h"

namespace weft {

// What becomes of slots, blocks and tables before a step's rows.
void write_changes(const StepBatch& batch, ByteWriter& to);
// The step's inputs of every home, as they have been filled.
void write_inputs(ModelRunner& runner, bool replay, ByteWriter& to);
// A draft's rows, behind the target's sampling.
void write_draft_rows(std::span<const DraftRow> rows, ByteWriter& to);

// The other side: applies the changes, fills the inputs. Returns whether to replay.
bool read_step(ByteReader& from, ModelRunner& runner);
// The rows, and the tokens that they point to.
struct ReadDraftRows {
  std::vector<DraftRow> rows;
  std::vector<std::vector<int32_t>> next, out;
};
void read_draft_rows(ByteReader& from, ReadDraftRows& into);

}  // namespace weft
