// A worker for the scheduler's simulation: it has no model. The "KV" of a position is a hash of the whole prefix up to
// it (and of the salt), kept in a shadow of the block memory; a row looks at every position that its attention would
// read and insists on finding exactly the right prefix's hash there, and "samples" a token that is a function of the
// prefix alone. So a wrong block, a block reused too early, a hole, or a cache hit across salts is seen at once, and
// the right answer of any sequence is known without a scheduler.
//
// It has pipeline stages, each with a memory of its own, and holds a step in each. A step begins when the one before
// has left the first stage and what it waits for (StepBatch::after) is finished: then slots are closed and opened,
// tables change (for all stages, also for the steps that are in them), and it is fixed where the rows begin. Each stage
// then does the step's copies, releases and rows; behind the last one tokens are sampled. Which step goes on first is
// left to chance. A slot that changes under an unfinished row, and a row that goes on from a token not sampled yet, are
// faults.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
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
inline int32_t sampled_token(uint64_t prefix, uint64_t seed) {
  return static_cast<int32_t>(mix(prefix, seed) % kVocabulary);
}
inline float row_value(uint64_t prefix) { return static_cast<float>(prefix % 1000003); }

class FakeWorker {
 public:
  FakeWorker(const CacheOptions& options, int slots, int homes = 1, int stages = 1)
      : options_(options), slots_(slots), stages_(stages, std::vector<Memory>(homes, Memory(options.groups.size()))) {}

  // Proposals are right with this probability each. `ahead`: the drafter has a cache, so a row that proposes also
  // writes behind its own positions.
  double right_drafts = 0.5;
  bool ahead = false;
  // Above this share of rows no draft is proposed though some were asked for.
  double proposing = 0.9;

  // Memory ran out for messages that blocks are given up, which then come late: they count no more from the beginning.
  bool late_releases = false;

  // How often a step begins as soon as it may and the stages are filled; else any step goes on that may.
  double eager = 1;
  // A step has begun, and its tables are there.
  std::function<void(const StepBatch&)> on_begin;

  void submit(const StepBatch& batch) { queue_.push_back(batch); }
  size_t queued() const { return queue_.size() + pipe_.size(); }  // not finished
  // Lets steps go on until the oldest is finished. Each row fails with this probability, and leaves garbage where it
  // wrote.
  StepResult execute(double failure, std::mt19937& random);

  uint64_t positions_written = 0, positions_read = 0, drafts_checked = 0, drafts_accepted = 0, rows_left_out = 0;
  uint64_t shared_steps = 0;  // that began while others were in the stages
  std::vector<std::string> faults;

  // What a block of the home holds, in all stages: a hash for each token. For blocks that come from outside and go
  // there.
  std::vector<uint64_t> read_block(int home, int group, int32_t number) {
    return block(stages_[0][home], group, number).kv;
  }
  void write_block(int home, int group, int32_t number, int token, uint64_t value) {
    for (auto& homes : stages_) block(homes[home], group, number).kv[token] = value;
  }

  // What the slot's table says of block `number`; -1: nothing since the slot was opened.
  int32_t table_entry(int group, Slot slot, int number) const;
  // The first position whose key a query at `position` reads.
  static int first_key(const CacheGroup& group, int position);

 private:
  struct SlotState {
    bool open = false;
    int unfinished = 0, unsampled = 0;  // rows in the stages, and those that will sample
    int home = 0;
    std::shared_ptr<const SamplingParams> sampling;
    uint64_t seed = 0;
    std::vector<int32_t> tokens;
    std::vector<uint64_t> prefix;  // hash up to and with the position
    int prompt = 0;
    int next = -1;  // position that the next row must begin at; -1: any, it is the first
    int max_outputs = 0;
    std::vector<int32_t> drafts;
    std::vector<std::map<int, int32_t>> tables;  // per group: number -> block
    bool failed = false;                         // a row of it failed, its KV is garbage
  };
  struct Block {
    bool resident = false;
    std::vector<uint64_t> kv;  // per token; 0: nothing
  };
  using Memory = std::vector<std::map<int32_t, Block>>;  // per group
  // Of a row: where it begins and ends, and how many of the tokens at its end are drafts.
  struct Extent {
    int first = 0, end = 0, drafts = 0;
    bool empty() const { return first == end; }
  };
  // A row in the stages: `prefix` up to its end as it was at the beginning.
  struct RowWork {
    StepBatch::Row row;
    Extent extent;
    std::vector<uint64_t> prefix;
    bool fails = false;
    RowResult result;
  };
  struct Step {
    StepBatch batch;
    std::vector<RowWork> rows;
    int stage = 0;  // where it is
  };
  void fault(const std::string& text) { faults.push_back(text); }
  bool may_begin() const;
  bool may_go_on(size_t step) const;
  bool advance(double failure, std::mt19937& random);
  void begin(double failure, std::mt19937& random);
  void change_slots(const StepBatch& batch);
  void open(const SlotOpen& open);
  Extent extent(const StepBatch::Row& row, const SlotState& slot) const;
  void begin_row(const StepBatch& batch, RowWork& work, size_t& next_token);
  void check_begin(const StepBatch& batch, const RowWork& work, size_t& next_token);
  void rows_of_prompt(RowWork& work);
  void run_stage(Step& step);
  void copy(Memory& memory, const BlockCopy& copy);
  Block& block(Memory& memory, int group, int32_t number);
  void check_budget(const std::vector<Memory>& homes);
  uint64_t& at(int stage, int group, Slot slot, int position);
  void attend(const Step& step, const RowWork& work);
  StepResult finish(Step& step, std::mt19937& random);
  void sample(RowWork& work, SlotState& slot);
  void propose(RowWork& work, SlotState& slot, std::mt19937& random);
  void append(SlotState& slot, int32_t token);

  CacheOptions options_;
  std::vector<SlotState> slots_;
  std::vector<std::vector<Memory>> stages_;  // per home
  std::deque<StepBatch> queue_;              // not begun
  std::deque<Step> pipe_;                    // oldest first, each in a stage before that of the one before
  uint64_t nowhere_ = 0;                     // stands for a position that is in no block
};

}  // namespace weft
