// A target and its draft, run step by step without engine and scheduler: as a worker would, with caches whose blocks
// never move.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runtime/model_drafter.h"

namespace weft::testing {

constexpr int kMaxLength = 256;  // of a sequence

struct Sequence {
  Slot slot = 0;
  std::vector<int32_t> tokens;  // of the step
  std::vector<int32_t> next;    // behind each
  int first = 0;                // position of the first
  int drafts = 0;
  int first_key = 0;
  int end = kMaxLength;  // see DraftRow
  DraftNoise noise = {};
};

class DraftPair {
 public:
  static constexpr int kSlots = 3, kMaxTokens = 128, kBlock = 16;

  static Result<std::unique_ptr<DraftPair>> load(const std::string& target, const SpeculationOptions& options,
                                                 int threads, bool all_logits, ModelOptions model_options = {});

  // One step of the target over the sequences, and the drafts behind it. `features`: rows for the draft in place of the
  // target's own, one list for all sequences. Drafts by sequence.
  std::vector<std::vector<int32_t>> step(const std::vector<Sequence>& sequences,
                                         const std::vector<float>& features = {});

  const Model& target() const { return *target_; }
  const CpuExecutor& executor() const { return *executor_; }
  ModelDrafter& drafter() { return *drafter_; }
  // Of operator new, while the last step's drafts were made.
  uint64_t drafting_allocations() const { return drafting_allocations_; }
  int taps() const { return target_->plan().taps.cols; }

 private:
  explicit DraftPair(int threads) : ranks_(threads) {}
  CacheMemory reserve(const std::vector<LayerGroup>& groups, DType dtype);
  Taps taps_of(const std::vector<float>& features) const;
  static void fill_table(std::vector<int32_t>& table);

  RankTeam ranks_;
  std::unique_ptr<Model> target_;
  std::vector<Memory> memory_;
  std::unique_ptr<CpuExecutor> executor_;
  std::unique_ptr<ModelDrafter> drafter_;
  uint64_t drafting_allocations_ = 0;
};

}  // namespace weft::testing
