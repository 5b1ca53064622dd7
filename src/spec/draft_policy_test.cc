// The policy in a simulation of sequences that decode side by side, with acceptance and costs that the test knows: the
// total time against that without drafts and against the best fixed number of drafts.
#include "spec/draft_policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>
#include <random>

namespace weft {
namespace {

struct Load {
  int sequences = 1;
  int tokens = 1000;  // of each sequence
  std::function<double(double)> seconds;
  std::function<double(int sequence, int token)> chance;  // that the next draft is right
  double proposal = 0;                                    // seconds per draft made
  double proposing = 1;                                   // part of the rounds in which the drafter has any
  double noise = 0;                                       // of the step times
  int lag = 1;                                            // steps that results come late
  int rounds = 1;                                         // so many batches one after the other, on one engine
};

struct Outcome {
  double seconds = 0;
  int64_t tokens = 0, drafted = 0;
  double per_token() const { return seconds / static_cast<double>(tokens); }
};

SpeculationOptions options(int fixed = 0, DraftMethod method = DraftMethod::ngram) {
  SpeculationOptions options;
  options.method = method, options.num_tokens = fixed;
  return options;
}

class Simulation {
 public:
  Simulation(const Load& load, DraftPolicy& policy) : load_(load), policy_(policy) {}

  Outcome run() {
    for (int round = 0; round < load_.rounds; ++round) {
      histories_.assign(load_.sequences, {}), done_.assign(load_.sequences, 0);
      pending_.clear();
      while (*std::min_element(done_.begin(), done_.end()) < load_.tokens) step();
    }
    return outcome_;
  }

 private:
  struct Checked {
    int sequence, drafted, accepted;
  };
  double chance() { return std::uniform_real_distribution<double>(0, 1)(random_); }

  // A sequence goes on after its last token, so that the number of sequences stays.
  void step() {
    int rows = 0, proposals = 0;
    std::vector<Checked> checked;
    for (int i = 0; i < load_.sequences; ++i) {
      const int chosen = policy_.choose(histories_[i], load_.sequences - 1, -1);
      const int drafted = chance() < load_.proposing ? chosen : 0;
      int accepted = 0;
      while (accepted < drafted && chance() < load_.chance(i, done_[i] + accepted)) ++accepted;
      done_[i] += accepted + 1;
      rows += 1 + drafted, proposals += drafted;
      outcome_.tokens += accepted + 1, outcome_.drafted += drafted;
      if (drafted > 0) checked.push_back({i, drafted, accepted});
    }
    const double seconds = load_.seconds(rows) + load_.proposal * proposals;
    outcome_.seconds += seconds;
    pending_.push_back(std::move(checked));
    if (static_cast<int>(pending_.size()) <= load_.lag) return;
    for (const Checked& row : pending_.front()) policy_.observe(histories_[row.sequence], row.drafted, row.accepted);
    pending_.pop_front();
    policy_.measured(rows, proposals, seconds * std::exp(std::normal_distribution<double>(0, load_.noise)(random_)));
  }

  const Load& load_;
  DraftPolicy& policy_;
  std::mt19937 random_{1};
  std::vector<DraftHistory> histories_;
  std::vector<int> done_;
  std::deque<std::vector<Checked>> pending_;
  Outcome outcome_;
};

Outcome run(const Load& load, int fixed = 0, DraftMethod method = DraftMethod::ngram) {
  DraftPolicy policy(options(fixed, method));
  return Simulation(load, policy).run();
}

// Seconds per token as a part of those without drafts.
double relative(const Load& load, const Outcome& outcome) {
  return outcome.per_token() / (load.seconds(load.sequences) / load.sequences);
}
double best_fixed(const Load& load, DraftMethod method = DraftMethod::ngram) {
  double best = 1;
  for (int fixed = 1; fixed <= 8; ++fixed) best = std::min(best, relative(load, run(load, fixed, method)));
  return best;
}

struct Curve {
  const char* name;
  std::function<double(double)> seconds;
};
const std::vector<Curve>& curves() {
  static const std::vector<Curve> all = {
      {"flat", [](double rows) { return 0.010 + 0.0001 * rows; }},
      {"flat up to 8 rows", [](double rows) { return 0.010 * std::max(1.0, rows / 8); }},
      {"affine", [](double rows) { return 0.010 + 0.002 * rows; }},
      {"linear", [](double rows) { return 0.002 * rows; }},
  };
  return all;
}

TEST(DraftPolicy, NeverCostsMoreThanTwoPercent) {
  for (const Curve& curve : curves()) {
    for (const int sequences : {1, 2, 4, 8, 32, 64}) {
      for (const double chance : {0.0, 0.02, 0.1, 0.3, 0.6, 0.9}) {
        for (const double proposing : {1.0, 0.2}) {
          for (const double noise : {0.0, 0.05}) {
            const Load load = {.sequences = sequences,
                               .tokens = std::max(600, 2000 / sequences),
                               .seconds = curve.seconds,
                               .chance = [&](int, int) { return chance; },
                               .proposing = proposing,
                               .noise = noise};
            EXPECT_LE(relative(load, run(load)), 1.02) << curve.name << ", " << sequences << " sequences, chance "
                                                       << chance << ", proposing " << proposing << ", noise " << noise;
          }
        }
      }
    }
  }
}

TEST(DraftPolicy, IsNearTheBestFixedNumber) {
  for (const Curve& curve : curves()) {
    for (const int sequences : {1, 2, 4, 8, 32}) {
      for (const double chance : {0.3, 0.6, 0.8, 0.9, 1.0}) {
        const Load load = {.sequences = sequences,
                           .tokens = std::max(1500, 4000 / sequences),
                           .seconds = curve.seconds,
                           .chance = [&](int, int) { return chance; },
                           .noise = 0.05};
        EXPECT_LE(relative(load, run(load)), 1.11 * best_fixed(load))
            << curve.name << ", " << sequences << " sequences, chance " << chance;
      }
    }
  }
}

// Short answers, one batch after the other: what is known of acceptance carries over.
TEST(DraftPolicy, ShortAnswersCostLittleToo) {
  for (const Curve& curve : curves()) {
    for (const int sequences : {1, 16}) {
      const Load load = {.sequences = sequences,
                         .tokens = 40,
                         .seconds = curve.seconds,
                         .chance = [](int, int) { return 0.0; },
                         .rounds = 100};
      EXPECT_LE(relative(load, run(load)), 1.02) << curve.name << " " << sequences;
    }
  }
}

TEST(DraftPolicy, FollowsThePhasesOfAText) {
  for (const Curve& curve : curves()) {
    for (const int sequences : {1, 8}) {
      const auto phases = [](int, int token) { return token / 400 % 2 ? 0.9 : 0.0; };
      const Load load = {.sequences = sequences, .tokens = 4000, .seconds = curve.seconds, .chance = phases};
      const auto alone = [&](double chance) {
        Load one = load;
        one.chance = [=](int, int) { return chance; };
        return best_fixed(one);
      };
      const double ideal = (alone(0.0) + alone(0.9)) / 2;
      EXPECT_LE(relative(load, run(load)), 1.1 * ideal) << curve.name << " " << sequences;
    }
  }
}

// One sequence copies, the others do not repeat.
TEST(DraftPolicy, SequencesOfAStepAreJudgedApart) {
  const Load load = {.sequences = 8,
                     .tokens = 1000,
                     .seconds = [](double rows) { return 0.010 + 0.0002 * rows; },
                     .chance = [](int sequence, int) { return sequence == 0 ? 0.95 : 0.0; }};
  DraftPolicy policy(options());
  Simulation simulation(load, policy);
  // Eight rows cost little more than one, so the one gains: six tokens a step beside seven.
  EXPECT_LE(relative(load, simulation.run()), 0.70);
}

TEST(DraftPolicy, CountsWhatProposalsCost) {
  for (const double chance : {0.0, 0.3, 0.6, 0.9}) {
    for (const double proposal : {0.0002, 0.001, 0.004}) {
      const Load load = {.sequences = 1,
                         .tokens = 2000,
                         .seconds = curves()[0].seconds,
                         .chance = [&](int, int) { return chance; },
                         .proposal = proposal};
      const double is = relative(load, run(load, 0, DraftMethod::eagle3));
      EXPECT_LE(is, 1.02) << chance << " " << proposal;
      EXPECT_LE(is, 1.1 * best_fixed(load, DraftMethod::eagle3)) << chance << " " << proposal;
    }
  }
}

TEST(DraftPolicy, SwitchesOffAfterAHandfulOfFailures) {
  for (const Curve& curve : curves()) {
    DraftPolicy policy(options());
    DraftHistory history;
    for (int i = 0; i < 200; ++i) {
      const int drafts = policy.choose(history, 0, -1);
      if (drafts > 0) policy.observe(history, drafts, drafts);
      policy.measured(1 + drafts, 0, curve.seconds(1 + drafts));
    }
    int failed = 0, last = 0;
    double lost = 0;
    for (int step = 1; step <= 400; ++step) {
      const int drafts = policy.choose(history, 0, -1);
      if (drafts > 0) policy.observe(history, drafts, 0);
      if (drafts > 1) ++failed, last = step;
      lost += curve.seconds(1 + drafts) / curve.seconds(1) - 1;
      policy.measured(1 + drafts, 0, curve.seconds(1 + drafts));
    }
    EXPECT_LE(failed, 45) << curve.name;  // and then single ones, now and then
    EXPECT_LE(last, 40) << curve.name;
    EXPECT_LE(lost, 12) << curve.name;
  }
}

// Steps in which the drafter has nothing are no failures, however many they are.
TEST(DraftPolicy, NothingProposedIsNoFailure) {
  DraftPolicy policy(options());
  DraftHistory history;
  for (int i = 0; i < 5000; ++i) {
    const int drafts = policy.choose(history, 0, -1);
    EXPECT_GT(drafts, i < 100 ? -1 : 0);  // at first it wants to know what a step costs
    policy.measured(1, 0, 0.010);
  }
  EXPECT_EQ(history.misses, 0);
}

TEST(DraftPolicy, ProbesBecomeRarer) {
  DraftPolicy policy(options());
  DraftHistory history;
  std::vector<int> probes;
  for (int step = 0; step < 20000; ++step) {
    const int drafts = policy.choose(history, 0, -1);
    ASSERT_LE(drafts, step < 100 ? 8 : 1);
    if (drafts > 0) policy.observe(history, drafts, 0), probes.push_back(step);
    policy.measured(1 + drafts, 0, 0.002 * (1 + drafts));
  }
  ASSERT_GT(probes.size(), 20u);
  EXPECT_LT(probes.size(), 20000 * 0.015);
  const auto gap = [&](size_t i) { return probes[i + 10] - probes[i]; };
  EXPECT_GT(gap(probes.size() - 11), 1.5 * gap(probes.size() / 8));
}

TEST(DraftPolicy, AFixedNumberStays) {
  DraftPolicy policy(options(3));
  DraftHistory history;
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(policy.choose(history, 31, -1), 3);
    policy.observe(history, 3, 0);
    policy.measured(128, 96, 1);
  }
  EXPECT_EQ(history.drafted, 300);
  EXPECT_EQ(history.accepted, 0);
  EXPECT_EQ(policy.choose(history, 0, 2), 2);
  EXPECT_EQ(policy.choose(history, 0, 0), 0);
  EXPECT_EQ(policy.choose(history, 0, 9), 3);
  EXPECT_EQ(policy.most(), 3);
}

TEST(DraftPolicy, ARequestsLimitHolds) {
  for (const int limit : {0, 1, 2}) {
    DraftPolicy policy(options());
    DraftHistory history;
    for (int i = 0; i < 200; ++i) {
      const int drafts = policy.choose(history, 0, limit);
      ASSERT_LE(drafts, limit);
      if (drafts > 0) policy.observe(history, drafts, drafts);
      policy.measured(1 + drafts, 0, 0.01);
    }
    EXPECT_EQ(history.accepted > 0, limit > 0);
  }
  DraftPolicy none{SpeculationOptions{}};
  DraftHistory history;
  EXPECT_EQ(none.choose(history, 0, -1), 0);
}

TEST(DraftPolicy, SameCallsSameChoices) {
  const Load load = {.sequences = 5,
                     .seconds = curves()[2].seconds,
                     .chance = [](int sequence, int) { return 0.2 * sequence; },
                     .noise = 0.1};
  const Outcome a = run(load), b = run(load);
  EXPECT_EQ(a.drafted, b.drafted);
  EXPECT_EQ(a.tokens, b.tokens);
}

}  // namespace
}  // namespace weft
