// Turns of clients and requests: nobody's many sequences keep others waiting, and whoever is alone notices nothing.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "sched/driver.h"

namespace weft {
namespace {

NewSequence of_client(uint64_t client, uint64_t number, int prompt, int tokens) {
  NewSequence sequence = request(random_prompt(prompt, static_cast<uint32_t>(number)), tokens);
  sequence.client = client, sequence.request = number;
  return sequence;
}

void steps(Driver& driver, int count) {
  for (int i = 0; i < count && !driver.scheduler.idle(); ++i) {
    while (driver.submit()) {
    }
    driver.commit();
  }
}

// How many steps it takes from now until the sequence has its first token.
int steps_to_first_token(Driver& driver, SequenceId id) {
  const int begin = driver.committed;
  while (driver.got[id].tokens.empty()) steps(driver, 1);
  return driver.committed - begin;
}

// A step is in flight when it comes, and the one after that has its row.
TEST(Fairness, ThousandsOfOneClientLeaveOthersTheirTurn) {
  Driver driver{Engine()};
  for (uint64_t i = 1; i <= 3000; ++i) driver.add(of_client(1, i, 20, 100));
  steps(driver, 30);
  EXPECT_EQ(driver.scheduler.metrics().running, 8);
  for (uint64_t client = 2; client <= 4; ++client) {
    const NewSequence sequence = of_client(client, 10000 + client, 9, 12);
    const SequenceId id = driver.add(sequence);
    EXPECT_LE(steps_to_first_token(driver, id), 3) << "client " << client;
    steps(driver, 11);
    EXPECT_EQ(driver.got[id].tokens, right_tokens(sequence, 12)) << "it runs in every step";
  }
  EXPECT_LE(driver.scheduler.metrics().yields, 3u);
}

// The choices of one request are many sequences as well.
TEST(Fairness, ManyChoicesLeaveOtherRequestsTheirTurn) {
  Driver driver{Engine()};
  NewSequence choice = of_client(1, 77, 20, 100);
  for (uint64_t i = 0; i < 128; ++i) choice.seed = i, driver.add(choice);
  steps(driver, 30);
  EXPECT_EQ(driver.scheduler.metrics().running, 8);
  const SequenceId other = driver.add(of_client(1, 78, 9, 12));
  EXPECT_LE(steps_to_first_token(driver, other), 3);
  const SequenceId third = driver.add(of_client(1, 79, 9, 12));
  EXPECT_LE(steps_to_first_token(driver, third), 3);
}

// A prompt that takes many steps lets the prompts of others in between.
TEST(Fairness, LongPromptsLetOthersIn) {
  Engine setup;
  setup.options.max_num_tokens = 8;
  Driver driver(setup);
  for (uint64_t i = 1; i <= 10; ++i) driver.add(of_client(1, i, 240, 1));
  steps(driver, 4);
  for (uint64_t i = 0; i < 10; ++i) {
    const SequenceId id = driver.add(of_client(2, 100 + i, 7, 1));
    EXPECT_LE(steps_to_first_token(driver, id), 4);
  }
}

// Each of three clients that never have enough has about a third of the rows, however many sequences each brings and
// however long they are; and they keep what they have.
TEST(Fairness, SharesAreEqual) {
  for (const int homes : {1, 2}) {
    Engine setup;
    setup.options.homes = homes, setup.options.max_batch_size = 12;
    Driver driver(setup);
    std::map<SequenceId, NewSequence> brought;
    const auto bring = [&](uint64_t client, int count, int prompt, int tokens) {
      for (int i = 0; i < count; ++i) {
        const NewSequence sequence = of_client(client, 1 + brought.size(), prompt, tokens);
        brought[driver.add(sequence)] = sequence;
      }
    };
    bring(1, 400, 5, 200);
    steps(driver, 20);
    bring(2, 300, 50, 40), bring(3, 300, 3, 9);
    steps(driver, 20);
    std::map<uint64_t, int> rows;
    int all = 0;
    const size_t from = driver.batches.size();
    const auto yields = driver.scheduler.metrics().yields;
    for (int i = 0; i < 300; ++i) {
      if (!driver.submit()) {
        driver.commit();
        continue;
      }
      for (const StepBatch::Row& row : driver.batch.rows)
        ++rows[brought[driver.scheduler.sequence_in_slot(row.slot)].client], ++all;
    }
    ASSERT_GT(driver.batches.size(), from + 100);
    for (uint64_t client = 1; client <= 3; ++client)
      EXPECT_GE(rows[client] * 3, all * 8 / 10) << "client " << client << " of " << homes << " homes";
    // Slots change hands when sequences end; hardly any is taken away.
    EXPECT_LE(driver.scheduler.metrics().yields - yields, 20u);
    for (const auto& [id, got] : driver.got) {
      EXPECT_EQ(got.tokens, right_tokens(brought[id], static_cast<int>(got.tokens.size())));
    }
  }
}

// Where the cache is full of one client's sequences, and not the slots.
TEST(Fairness, MemoryIsSharedToo) {
  Engine setup;
  setup.cache.budget_bytes = 400;  // 40 blocks of 16 tokens
  setup.options.max_batch_size = 32;
  Driver driver(setup);
  for (uint64_t i = 1; i <= 100; ++i) driver.add(of_client(1, i, 60, 100));
  steps(driver, 40);
  const NewSequence sequence = of_client(2, 1000, 100, 20);
  const SequenceId id = driver.add(sequence);
  EXPECT_LE(steps_to_first_token(driver, id), 12);
  steps(driver, 40);
  EXPECT_EQ(driver.got[id].tokens, right_tokens(sequence, 20)) << "it is not preempted by older ones";
}

// One after the other, short ones of one client take a slot of the other each, and no more.
TEST(Fairness, YieldsAreBounded) {
  Driver driver{Engine()};
  for (uint64_t i = 1; i <= 16; ++i) driver.add(of_client(1, i, 20, 200));
  steps(driver, 20);
  for (uint64_t i = 0; i < 40; ++i) {
    driver.add(of_client(2, 1000 + i, 4, 2));
    steps(driver, 5);
  }
  EXPECT_LE(driver.scheduler.metrics().yields, 40u);
  driver.run();
  EXPECT_EQ(driver.scheduler.metrics().finished, 56u);
}

// Clients with one sequence each, more than slots: in the order in which they came, and none of short ones loses its
// slot.
TEST(Fairness, MoreClientsThanSlots) {
  Driver driver{Engine()};
  std::vector<SequenceId> ids;
  for (uint64_t i = 1; i <= 30; ++i) ids.push_back(driver.add(of_client(i, i, 10, 20)));
  driver.run();
  EXPECT_EQ(driver.scheduler.metrics().preemptions, 0u);
  for (size_t i = 8; i < ids.size(); ++i) EXPECT_GE(driver.got[ids[i]].finished_at, driver.got[ids[i - 8]].finished_at);
}

// Answers that are longer than a turn: whoever comes waits for a turn at most, those behind it in their order, and
// everything is said to its end. With 0 it waits for the end of an answer.
TEST(Fairness, NobodyWaitsBehindLongAnswers) {
  for (const int turn : {20, 0}) {
    Engine setup;
    setup.options.max_batch_size = 2, setup.options.turn_steps = turn;
    Driver driver(setup);
    std::map<SequenceId, NewSequence> all;
    const auto bring = [&](uint64_t client, int tokens) {
      const NewSequence sequence = of_client(client, client, 10, tokens);
      const SequenceId id = driver.add(sequence);
      all[id] = sequence;
      return id;
    };
    bring(1, 200), bring(2, 200);
    steps(driver, 5);
    const SequenceId third = bring(3, 200), fourth = bring(4, 10);
    const int first = steps_to_first_token(driver, third);
    if (turn == 0) {
      EXPECT_GE(first, 190);
      continue;
    }
    EXPECT_LE(first, turn + 3);
    EXPECT_LE(steps_to_first_token(driver, fourth), turn + 3);
    for (uint64_t client = 5; client < 9; ++client) bring(client, 200);
    steps(driver, 4 * turn);
    for (const auto& [id, sequence] : all)
      EXPECT_FALSE(driver.got[id].tokens.empty()) << "client " << sequence.client << " has had no turn";
    driver.run();
    for (const auto& [id, sequence] : all)
      EXPECT_EQ(driver.got[id].tokens, right_tokens(sequence, sequence.sampling->max_tokens));
    // 1,610 tokens by twos take some 800 steps, with a change of each slot in a turn at most.
    EXPECT_LE(driver.scheduler.metrics().yields, 2u * 1000u / 20u);
  }
}

// Its turn does not take a slot from whoever has a higher priority.
TEST(Fairness, TurnsRespectPriorities) {
  Engine setup;
  setup.options.max_batch_size = 1, setup.options.turn_steps = 10;
  Driver driver(setup);
  NewSequence high = of_client(1, 1, 10, 100);
  high.priority = 1;
  const SequenceId first = driver.add(high);
  steps(driver, 3);
  const SequenceId low = driver.add(of_client(2, 2, 10, 5));
  driver.run();
  EXPECT_EQ(driver.scheduler.metrics().yields, 0u);
  EXPECT_LT(driver.got[first].finished_at, driver.got[low].finished_at);
}

// A client alone, whose requests are a sequence each, is served as sequences of nobody are: step by step the same rows.
TEST(Fairness, AClientAloneNoticesNothing) {
  std::vector<StepBatch> batches[2];
  for (const bool named : {false, true}) {
    Engine setup;
    setup.cache.budget_bytes = 250;
    setup.options.aging_steps = 3;
    Driver driver(setup);
    std::mt19937 random(5);
    for (uint64_t i = 1; i <= 120; ++i) {
      NewSequence sequence = of_client(9, i, 1 + static_cast<int>(random() % 90), 1 + static_cast<int>(random() % 60));
      sequence.priority = static_cast<int>(random() % 5);
      if (!named) sequence.client = sequence.request = 0;
      driver.add(std::move(sequence));
      steps(driver, static_cast<int>(random() % 4));
    }
    driver.run();
    EXPECT_GT(driver.scheduler.metrics().preemptions, 0u);
    EXPECT_EQ(driver.scheduler.metrics().yields, 0u);
    batches[named] = driver.batches;
  }
  ASSERT_EQ(batches[0].size(), batches[1].size());
  for (size_t i = 0; i < batches[0].size(); ++i) {
    ASSERT_EQ(batches[0][i].rows.size(), batches[1][i].rows.size());
    for (size_t r = 0; r < batches[0][i].rows.size(); ++r) {
      const StepBatch::Row &a = batches[0][i].rows[r], &b = batches[1][i].rows[r];
      ASSERT_EQ(std::tuple(a.slot, a.first, a.tokens), std::tuple(b.slot, b.first, b.tokens)) << "step " << i;
    }
  }
}

// Between clients priority decides where neither has more than the other, and waiting makes up for it.
TEST(Fairness, Priorities) {
  Engine setup;
  setup.options.max_batch_size = 1;
  Driver driver(setup);
  driver.add(of_client(1, 1, 5, 10));
  steps(driver, 3);
  NewSequence low = of_client(2, 2, 5, 10), high = of_client(3, 3, 5, 10);
  low.priority = 1, high.priority = 2;
  const SequenceId first = driver.add(low), second = driver.add(high);
  driver.run();
  EXPECT_GT(driver.got[first].finished_at, driver.got[second].finished_at);
}

}  // namespace
}  // namespace weft
