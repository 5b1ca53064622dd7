// How many prompt tokens a step may take so that it stays within a time, learnt from the steps that were measured. Long
// prompts then do not hold up the answers beside them for longer than that. It moves only where prompts are cut; no
// answer depends on it.
#pragma once

namespace weft {

class StepBudget {
 public:
  // `target_s`: the time of a step; `max_tokens`: the budget's upper limit.
  StepBudget(double target_s, int max_tokens);

  // The prompt tokens that the next step may take. At least kLeast (or max_tokens, where that is less): a few rows cost
  // a step that has to read all weights nearly nothing, and prompts must get on even if the target cannot be met.
  int tokens() const { return tokens_; }
  // A step that was allowed `allowed` prompt tokens (tokens() when it was scheduled) took `prompt_tokens` of them,
  // besides its decode rows, and `seconds`.
  void measured(int allowed, int prompt_tokens, double seconds);

  static constexpr int kLeast = 16, kFirst = 32;

 private:
  const double target_s_;
  const int max_tokens_, least_;
  int tokens_;
};

}  // namespace weft
