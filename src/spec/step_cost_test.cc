// Learning a curve of costs that the test knows.
#include "spec/step_cost.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>

namespace weft {
namespace {

double flat_then_linear(double rows) { return 0.010 * std::max(1.0, rows / 8); }
double linear(double rows) { return 0.002 * rows; }
double affine(double rows) { return 0.010 + 0.0015 * rows; }

// Relative to a step of one row.
double relative(const StepCost& cost, double rows) { return cost.step(rows) / cost.step(1); }

TEST(StepCost, StartsFromThePrior) {
  const StepCost cost(0);
  EXPECT_DOUBLE_EQ(cost.step(1), 1);
  EXPECT_DOUBLE_EQ(cost.step(2.5), 1 + 1.5 * StepCost::kPriorRow);
  for (const double rows : {8, 9, 17, 100, 1088, 2047, 2048, 3000}) {
    EXPECT_NEAR(cost.step(rows), 1 + (rows - 1) * StepCost::kPriorRow, 1e-9) << rows;
  }
  EXPECT_EQ(cost.most_rows(), 0);
}

TEST(StepCost, LearnsACurve) {
  for (double (*curve)(double) : {flat_then_linear, linear, affine}) {
    std::mt19937 random(1);
    std::normal_distribution<double> noise(1, 0.03);
    StepCost cost(0);
    for (int i = 0; i < 2000; ++i) {
      const int rows = 1 + static_cast<int>(random() % 40);
      cost.measured(rows, 0, curve(rows) * noise(random));
    }
    for (int rows = 1; rows <= 40; ++rows) {
      EXPECT_NEAR(relative(cost, rows) / (curve(rows) / curve(1)), 1, 0.08) << rows;
    }
    EXPECT_EQ(cost.most_rows(), 40);
  }
}

TEST(StepCost, AFewStepsSuffice) {
  StepCost cost(0);
  for (int i = 0; i < 5; ++i) cost.measured(1, 0, linear(1));
  for (int i = 0; i < 3; ++i) cost.measured(4, 0, linear(4));
  EXPECT_NEAR(relative(cost, 4), 4, 0.6);
  EXPECT_NEAR(relative(cost, 2.5), 2.5, 0.5);
}

TEST(StepCost, WhatSlowsAllStepsLeavesTheShape) {
  StepCost cost(0);
  for (int i = 0; i < 200; ++i) cost.measured(i % 2 ? 1 : 5, 0, affine(i % 2 ? 1 : 5));
  const double before = relative(cost, 5);
  // Texts get longer: steps of one row alone become slower and slower, up to five times.
  for (int i = 0; i < 4000; ++i) cost.measured(1, 0, affine(1) * (1 + i / 1000.0));
  EXPECT_NEAR(relative(cost, 5), before, 0.02 * before);
  EXPECT_NEAR(before, affine(5) / affine(1), 0.03);
}

TEST(StepCost, AStepThatWasHeldUpIsForgotten) {
  StepCost cost(0);
  cost.measured(1, 0, 3.0);  // the weights came from the disk
  for (int i = 0; i < 50; ++i) cost.measured(1 + i % 5, 0, affine(1 + i % 5));
  EXPECT_NEAR(relative(cost, 5), affine(5) / affine(1), 0.1);
  for (int i = 0; i < 300; ++i) cost.measured(1 + i % 5, 0, affine(1 + i % 5));
  cost.measured(5, 0, 1.0);
  EXPECT_NEAR(relative(cost, 5), affine(5) / affine(1), 0.06);
}

TEST(StepCost, NeverFallsAndNeverGrowsFasterThanRows) {
  std::mt19937 random(9);
  std::lognormal_distribution<double> noise(0, 1);
  StepCost cost(0.1);
  for (int i = 0; i < 3000; ++i) {
    const int rows = 1 + static_cast<int>(random() % (1 << random() % 12));
    cost.measured(rows, static_cast<int>(random() % 9), noise(random));
    for (double at = 1; at < 2500; at *= 1.3) {
      const double here = cost.step(at), more = cost.step(at * 1.3);
      ASSERT_GT(here, 0);
      ASSERT_GE(more, here * (1 - 1e-12));
      ASSERT_LE(more, here * 1.3 * (1 + 1e-9)) << at;
    }
    ASSERT_GE(cost.proposal(), 0);
  }
}

TEST(StepCost, LearnsWhatProposalsCost) {
  StepCost cost(0.1);
  const double proposal = 0.003;
  for (int i = 0; i < 2000; ++i) {
    const int rows = i % 3 ? 5 : 1, proposals = i % 2 ? 4 : 0;
    cost.measured(rows, proposals, affine(rows) + proposal * proposals);
  }
  EXPECT_NEAR(cost.proposal() / cost.step(1), proposal / affine(1), 0.03);
  EXPECT_NEAR(relative(cost, 5), affine(5) / affine(1), 0.05);
  StepCost free(0);
  for (int i = 0; i < 100; ++i) free.measured(1, i % 4, affine(1) * (1 + i % 4));
  EXPECT_EQ(free.proposal(), 0);
}

TEST(StepCost, NonsenseIsIgnored) {
  StepCost cost(0);
  cost.measured(0, 0, 1), cost.measured(1, 0, 0), cost.measured(1, 0, -1), cost.measured(1, 0, std::nan(""));
  EXPECT_EQ(cost.most_rows(), 0);
  cost.measured(100000, 0, 1);
  EXPECT_GT(cost.step(5), 0);
}

}  // namespace
}  // namespace weft
