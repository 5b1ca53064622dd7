// Grammars whose masks take long: their sequences sit steps out, and others do not notice. Times are the test's own.
#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <vector>

#include "sched/driver.h"

namespace weft {
namespace {

constexpr double kBudget = Scheduler::kLeastMaskBudget;

// A driver whose guided sequences are charged for each token.
class Masks {
 public:
  explicit Masks(const Engine& setup = {}) : driver(setup) {}

  SequenceId add(uint64_t client, int tokens, double seconds_of_a_mask = -1) {
    NewSequence sequence = request(random_prompt(5, ++number_), tokens);
    sequence.client = client, sequence.request = number_, sequence.guided = seconds_of_a_mask >= 0;
    const SequenceId id = driver.add(sequence);
    cost_[id] = seconds_of_a_mask, asked_[id] = sequence;
    return id;
  }
  // As in the engine, a mask is charged before its token comes. Returns the time of the masks of the step that came.
  double step() {
    while (driver.submit()) {
      std::vector<SequenceId>& guided = in_flight_.emplace_back();
      for (const StepBatch::Row& row : driver.batch.rows)
        if (row.guide >= 0) guided.push_back(driver.scheduler.sequence_in_slot(row.slot));
    }
    double seconds = 0;
    for (const SequenceId id : in_flight_.front()) {
      driver.scheduler.charge_masks(id, cost_[id]);
      seconds += cost_[id];
    }
    in_flight_.pop_front();
    driver.commit();
    return seconds;
  }
  double steps(int count) {
    double seconds = 0;
    for (int i = 0; i < count && !driver.scheduler.idle(); ++i) seconds += step();
    return seconds;
  }
  size_t tokens(SequenceId id) { return driver.got[id].tokens.size(); }
  void expect_all_right() {
    while (!driver.scheduler.idle()) step();
    for (const auto& [id, sequence] : asked_)
      EXPECT_EQ(driver.got[id].tokens, right_tokens(sequence, sequence.sampling->max_tokens));
  }

  Driver driver;

 private:
  uint32_t number_ = 0;
  std::deque<std::vector<SequenceId>> in_flight_;  // of each step, whose rows have masks
  std::map<SequenceId, double> cost_;
  std::map<SequenceId, NewSequence> asked_;
};

// Five masks of 50 ms in every step would make it five times 50 ms long; now the masks of a step take 10 ms on average.
TEST(MaskDebts, HostileGrammarsTakeTheBudgetAndNoMore) {
  Masks masks;
  std::vector<SequenceId> hostile;
  for (uint64_t client = 1; client <= 5; ++client) hostile.push_back(masks.add(client, 200, 0.05));
  const SequenceId plain = masks.add(6, 150), cheap = masks.add(7, 150, 0.0005);
  masks.steps(5);
  const size_t plain_before = masks.tokens(plain), cheap_before = masks.tokens(cheap);
  const double seconds = masks.steps(100);
  EXPECT_EQ(masks.tokens(plain), plain_before + 100) << "it has a row in every step";
  EXPECT_EQ(masks.tokens(cheap), cheap_before + 100) << "so has a grammar as people write them";
  EXPECT_LE(seconds, 100 * (kBudget + 0.0005) + 2 * 5 * 0.05) << "what they owe at the end is not paid yet";
  for (const SequenceId id : hostile) EXPECT_GE(masks.tokens(id), 3u) << "they go on, if slowly";
  masks.expect_all_right();
}

// Where the step takes longer by itself, masks may too.
TEST(MaskDebts, TheBudgetGrowsWithTheStep) {
  for (const double budget : {0.001, 0.04}) {
    Masks masks;
    masks.driver.scheduler.set_mask_budget(budget);
    const SequenceId slow = masks.add(1, 240, 0.02);
    masks.add(2, 240);
    masks.steps(3);
    const size_t before = masks.tokens(slow);
    masks.steps(100);
    if (budget > kBudget) EXPECT_EQ(masks.tokens(slow), before + 100);
    else EXPECT_NEAR(static_cast<double>(masks.tokens(slow) - before), 45, 8) << "two at a time, for steps overlap";
  }
}

// Who disturbs nobody has its row in every step, however long its masks take.
TEST(MaskDebts, AloneNobodyWaits) {
  Masks masks;
  const SequenceId slow = masks.add(1, 100, 0.05);
  const int begin = masks.driver.committed;
  masks.expect_all_right();
  EXPECT_EQ(masks.tokens(slow), 100u);
  EXPECT_LE(masks.driver.committed - begin, 103);
}

// Where all have slow grammars, those that are ten times as slow have fewer tokens, and nobody stands still.
TEST(MaskDebts, SlowOnesAmongEachOther) {
  Masks masks;
  const SequenceId slower = masks.add(1, 240, 0.2), slow = masks.add(2, 240, 0.02), other = masks.add(3, 240, 0.02);
  masks.steps(150);
  EXPECT_GE(masks.tokens(slow), 3 * masks.tokens(slower));
  EXPECT_NEAR(static_cast<double>(masks.tokens(slow)), static_cast<double>(masks.tokens(other)), 4);
  EXPECT_GE(masks.tokens(slower), 5u);
  masks.expect_all_right();
}

// One hostile request after the other, each for a token or two: the next of the client waits for what the last one
// took, and those of others do not.
TEST(MaskDebts, AnEndPaysNothing) {
  Masks masks;
  masks.add(1, 240);
  for (int i = 0; i < 100; ++i) masks.add(2, 2, 0.05);
  masks.steps(10);
  const double seconds = masks.steps(100);
  EXPECT_LE(seconds, 100 * kBudget + 8 * 2 * 0.05) << "all slots may owe for two masks at the end";
  const SequenceId good = masks.add(3, 20, 0.0001);
  masks.steps(25);
  EXPECT_EQ(masks.tokens(good), 20u);
  masks.expect_all_right();
}

}  // namespace
}  // namespace weft
