#include "runtime/step_budget.h"

#include <algorithm>
#include <cmath>

namespace weft {

StepBudget::StepBudget(double target_s, int max_tokens)
    : target_s_(target_s), max_tokens_(max_tokens), least_(std::min(kLeast, max_tokens)),
      tokens_(std::min(kFirst, max_tokens)) {}

// A step takes a + b p seconds for p prompt tokens; neither is known, and both move with the batch and the context.
// Repeating p <- p target / (a + b p) ends at a + b p = target, from either side and in one direction. It is at most
// doubled or quartered at once, so that one odd measurement does little. A step that did not use its whole budget is
// taken into account only if it took too long.
void StepBudget::measured(int allowed, int prompt_tokens, double seconds) {
  if (prompt_tokens <= 0 || seconds <= 0) return;
  const bool used_up = prompt_tokens >= std::min(allowed, tokens_);
  if (!used_up && seconds <= target_s_) return;
  const double next = std::clamp(prompt_tokens * target_s_ / seconds, prompt_tokens / 4.0, prompt_tokens * 2.0);
  tokens_ =
      static_cast<int>(std::clamp(std::floor(next), static_cast<double>(least_), static_cast<double>(max_tokens_)));
}

}  // namespace weft
