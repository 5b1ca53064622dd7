// The latency budget against machines whose speed is known.
#include "runtime/step_budget.h"

#include <gtest/gtest.h>

#include <functional>

namespace weft {
namespace {

using Machine = std::function<double(int tokens)>;  // seconds of a step

// Steps of a prompt that never ends; returns the tokens of the last one.
int settle(StepBudget& budget, const Machine& machine, int steps = 60) {
  int tokens = 0;
  for (int i = 0; i < steps; ++i) {
    tokens = budget.tokens();
    budget.measured(tokens, tokens, machine(tokens));
  }
  return tokens;
}

TEST(StepBudget, SettlesWhereAStepTakesTheTarget) {
  StepBudget budget(0.050, 4096);
  const int tokens = settle(budget, [](int n) { return 0.010 + n * 1e-4; });
  EXPECT_NEAR(tokens, 400, 4);  // 10 ms + 400 x 0.1 ms
}

TEST(StepBudget, FollowsTheMachine) {
  StepBudget budget(0.050, 4096);
  settle(budget, [](int n) { return 0.010 + n * 1e-4; });
  EXPECT_NEAR(settle(budget, [](int n) { return 0.010 + n * 4e-4; }), 100, 2);   // four times as slow
  EXPECT_NEAR(settle(budget, [](int n) { return 0.030 + n * 1e-4; }), 200, 3);   // more decode rows beside it
  EXPECT_NEAR(settle(budget, [](int n) { return 0.001 + n * 1e-6; }), 4096, 0);  // all that a step may take
}

TEST(StepBudget, GetsOnWhenTheTargetCannotBeMet) {
  StepBudget budget(0.001, 4096);
  EXPECT_EQ(settle(budget, [](int n) { return 0.010 + n * 1e-4; }), StepBudget::kLeast);
  StepBudget small(0.001, 5);
  EXPECT_EQ(settle(small, [](int) { return 1.0; }), 5);
}

TEST(StepBudget, TheEndOfAPromptTeachesNothing) {
  StepBudget budget(0.050, 4096);
  const int tokens = settle(budget, [](int n) { return 0.010 + n * 1e-4; });
  budget.measured(tokens, 3, 0.0103);  // three tokens were left
  EXPECT_NEAR(budget.tokens(), tokens, 2);
  budget.measured(tokens, 0, 0.010);  // decode rows alone
  EXPECT_NEAR(budget.tokens(), tokens, 2);
}

TEST(StepBudget, OneOddStepIsNoDisaster) {
  StepBudget budget(0.050, 4096);
  const int tokens = settle(budget, [](int n) { return 0.010 + n * 1e-4; });
  budget.measured(tokens, tokens, 30.0);  // the machine was asleep
  EXPECT_GE(budget.tokens(), tokens / 4 - 1);
  EXPECT_NEAR(settle(budget, [](int n) { return 0.010 + n * 1e-4; }), 400, 4);
}

}  // namespace
}  // namespace weft
