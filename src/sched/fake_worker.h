// A worker for the scheduler's simulation: it has no model. The "KV" of a position is a hash of the whole prefix up to
// it (and of the salt), kept in a shadow of the block memory; a row looks at every position that its attention would
// read and insists on finding exactly the right prefix's hash there, and "samples" a token that is a function of the
// prefix alone. So a wrong block, a block reused too early, a hole, or a cache hit across salts is seen at once, and
// the right answer of any sequence is known without a scheduler.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "cache/cache_manager.h"
#include "core/step.h"

namespace weft {

// splitmix64's finaliser over the sum: any good mixing will do.
inline uint64_t mix(uint64_t state, uint64_t value) {
  uint64_t z = state + 0x9e3779b97f4a7c15u * (value + 1);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

inline constexpr int kVocabulary = 6;  // few tokens, so that prefixes often agree by chance

// SamplingParams has no salt; the simulation hides it (as a number) in top_p_reset_id, which the fake worker alone
// reads.
inline uint64_t prefix_root(const SamplingParams& sampling) {
  return mix(0x5a17, static_cast<uint64_t>(sampling.top_p_reset_id));
}
inline int32_t sampled_token(uint64_t prefix, const SamplingParams& sampling) {
  return static_cast<int32_t>(mix(prefix, sampling.seed) % kVocabulary);
}
inline float row_value(uint64_t prefix) { return static_cast<float>(prefix % 1000003); }

class FakeWorker {
 public:
  FakeWorker(const CacheOptions& options, int slots, int homes = 1)
      : options_(options), slots_(slots), memory_(homes, Memory(options.groups.size())) {}

  // Proposals are right with this probability each. `ahead`: the drafter has a cache, so a row that proposes also
  // writes behind its own positions.
  double right_drafts = 0.5;
  bool ahead = false;
  // Above this share of rows no draft is proposed though some were asked for.
  double proposing = 0.9;

  void submit(const StepBatch& batch) { queue_.push_back(batch); }
  size_t queued() const { return queue_.size(); }
  // Executes the oldest batch. Each row fails with this probability, and leaves garbage where it wrote.
  StepResult execute(double failure, std::mt19937& random);

  uint64_t positions_written = 0, positions_read = 0, drafts_checked = 0, drafts_accepted = 0, rows_left_out = 0;
  std::vector<std::string> faults;

  // What the slot's table says of block `number`; -1: nothing since the slot was opened.
  int32_t table_entry(int group, Slot slot, int number) const;
  // The first position whose key a query at `position` reads.
  static int first_key(const CacheGroup& group, int position);

 private:
  struct SlotState {
    bool open = false;
    int home = 0;
    std::shared_ptr<const SamplingParams> sampling;
    std::vector<int32_t> tokens;
    std::vector<uint64_t> prefix;  // hash up to and with the position
    int prompt = 0;
    int next = -1;  // position that the next row must begin at; -1: any, it is the first
    int max_outputs = 0;
    std::vector<int32_t> drafts;
    int rewritten = -1;                          // the last position of its row that had the right key before
    std::vector<std::map<int, int32_t>> tables;  // per group: number -> block
    bool failed = false;                         // a row of it failed, its KV is garbage
  };
  struct Block {
    bool resident = false;
    std::vector<uint64_t> kv;  // per token; 0: nothing
  };
  using Memory = std::vector<std::map<int32_t, Block>>;  // per group
  void fault(const std::string& text) { faults.push_back(text); }
  void open(const SlotOpen& open);
  void copy(const BlockCopy& copy);
  Block& block(int home, int group, int32_t number);
  void check_budget();
  // Of a row: where it begins and ends, and how many of the tokens at its end are drafts.
  struct Extent {
    int first = 0, end = 0, drafts = 0;
  };
  Extent extent(const StepBatch::Row& row, const SlotState& slot) const;
  uint64_t& at(const StepBatch& batch, int group, Slot slot, int position);
  void attend(const StepBatch& batch, const StepBatch::Row& row, SlotState& slot, Extent extent,
              const std::vector<uint64_t>& prefix);
  RowResult run_row(const StepBatch& batch, size_t row, size_t& next_token, std::mt19937& random);
  void sample(const StepBatch& batch, const StepBatch::Row& row, SlotState& slot, Extent extent,
              const std::vector<uint64_t>& prefix, RowResult& result);
  void propose(const StepBatch& batch, const StepBatch::Row& row, SlotState& slot, std::mt19937& random,
               RowResult& result);
  void spoil(const StepBatch& batch, const StepBatch::Row& row, Extent extent);
  void append(SlotState& slot, int32_t token);

  CacheOptions options_;
  std::vector<SlotState> slots_;
  std::vector<Memory> memory_;  // per home
  std::deque<StepBatch> queue_;
  uint64_t nowhere_ = 0;  // stands for a position that is in no block
};

}  // namespace weft
