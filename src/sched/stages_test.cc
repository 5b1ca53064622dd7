// Steps that follow each other through pipeline stages: whose turn it is, and what a step waits for.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "sched/driver.h"

namespace weft {
namespace {

Engine with_stages(int stages) {
  Engine setup;
  setup.options.stages = stages, setup.options.overlap = stages + 1;
  return setup;
}

std::set<Slot> slots_of(const StepBatch& batch) {
  std::set<Slot> slots;
  for (const StepBatch::Row& row : batch.rows) slots.insert(row.slot);
  return slots;
}

// Four streams whose blocks are too few: the later ones are preempted.
Engine with_few_blocks(int stages) {
  Engine setup = with_stages(stages);
  setup.cache.tokens_per_block = 4, setup.cache.budget_bytes = 260;
  return setup;
}

TEST(Stages, ThereIsOneAtLeast) {
  SchedulerOptions options;
  options.stages = 0;
  std::vector<CacheManager> caches;
  const auto scheduler = Scheduler::create(options, std::move(caches));
  ASSERT_FALSE(scheduler.ok());
  EXPECT_EQ(scheduler.error().param(), "stages");
}

// Eight streams: with two stages, four of them in each step, by turns, and no step waits for the one before.
TEST(Stages, StreamsTakeTurns) {
  for (int stages : {2, 4}) {
    Driver driver(with_stages(stages));
    std::vector<std::pair<SequenceId, NewSequence>> all;
    for (uint32_t i = 0; i < 8; ++i) {
      const NewSequence sequence = request(random_prompt(3, i), 50);
      all.emplace_back(driver.add(sequence), sequence);
    }
    driver.run();
    for (const auto& [id, sequence] : all) EXPECT_EQ(driver.got[id].tokens, right_tokens(sequence, 50));
    const auto n = static_cast<size_t>(stages);
    for (size_t i = 3 * n; i + 4 * n < driver.batches.size(); ++i) {
      const StepBatch& batch = driver.batches[i];
      EXPECT_EQ(batch.rows.size(), 8 / n);
      EXPECT_EQ(batch.after, batch.step - n);
      EXPECT_EQ(slots_of(batch), slots_of(driver.batches[i - n]));
      EXPECT_NE(slots_of(batch), slots_of(driver.batches[i - 1]));
    }
    EXPECT_LE(driver.batches.size(), 1 + 50 * n);  // the prompts' step, n for each further token, and who comes last
  }
}

// The turns are of each home, for a step lasts as long as its fullest home.
TEST(Stages, EachHomeHasItsPart) {
  Engine setup = with_stages(2);
  setup.options.homes = 2, setup.options.max_batch_size = 16;
  Driver driver(setup);
  for (uint32_t i = 0; i < 12; ++i) driver.add(request(random_prompt(3, i), 50));
  driver.run();
  for (size_t i = 8; i + 8 < driver.batches.size(); ++i) EXPECT_EQ(driver.loads[i], (std::vector<int>{3, 3})) << i;
}

TEST(Stages, FewerStreamsThanStages) {
  Driver driver(with_stages(4));
  for (uint32_t i = 0; i < 2; ++i) driver.add(request(random_prompt(3, i), 50));
  driver.run();
  for (const StepBatch& batch : driver.batches) {
    if (batch.step == 1) continue;
    EXPECT_EQ(batch.rows.size(), 1u);
    if (batch.step > 3) {
      EXPECT_EQ(batch.after, batch.step - 2);
    }
  }
}

// Its next step is there when the worker has done the last one, and no more than that: who comes then has to wait for
// one step.
TEST(Stages, ASingleStreamIsOneStepAhead) {
  Driver driver(with_stages(3));
  const NewSequence sequence = request(random_prompt(5, 1), 20);
  const SequenceId id = driver.add(sequence);
  while (!driver.scheduler.idle()) {
    while (driver.submit()) {
    }
    EXPECT_EQ(driver.worker.queued(), driver.batches.size() == 20 && driver.committed == 19 ? 1u : 2u);
    driver.commit();
  }
  EXPECT_EQ(driver.got[id].tokens, right_tokens(sequence, 20));
  EXPECT_EQ(driver.batches.size(), 20u);
  for (const StepBatch& batch : driver.batches) EXPECT_EQ(batch.after, batch.step - 1);
}

// Without results there is nothing to take turns for.
TEST(Stages, SynchronousStepsTakeAll) {
  Engine setup = with_stages(4);
  setup.options.overlap = 1;
  Driver driver(setup);
  for (uint32_t i = 0; i < 8; ++i) driver.add(request(random_prompt(3, i), 20));
  driver.run();
  EXPECT_EQ(driver.batches.size(), 20u);
}

// Chunks of a long prompt fill the stages behind each other; a short one, and one that must not be split, has one step.
TEST(Stages, ALongPromptFollowsItself) {
  Engine setup = with_stages(4);
  for (bool chunked : {true, false}) {
    setup.options.chunked_prefill = chunked;
    Driver driver(setup);
    const NewSequence sequence = request(random_prompt(60, 1), 3);
    const SequenceId id = driver.add(sequence);
    if (chunked) {
      for (int step = 0; step < 4; ++step) {
        ASSERT_TRUE(driver.submit());
        EXPECT_EQ(driver.scheduler.prompt_tokens_of_last_step(), step < 3 ? 16 : 12);
        EXPECT_EQ(driver.batch.after, 0u);
        ASSERT_EQ(driver.batch.rows.size(), 1u);
        EXPECT_EQ(driver.batch.rows[0].first, 16 * step);
      }
    } else {
      ASSERT_TRUE(driver.submit());
      EXPECT_EQ(driver.scheduler.prompt_tokens_of_last_step(), 60);
    }
    driver.run();
    EXPECT_EQ(driver.got[id].tokens, right_tokens(sequence, 3));
    EXPECT_EQ(driver.worker.shared_steps, chunked ? 3u : 0u);
  }
}

// Beside a long prompt a stream has a row in every other step, and waits for nothing.
TEST(Stages, AStreamBesideAPrompt) {
  Driver driver(with_stages(2));
  driver.scheduler.set_prefill_budget(8);
  driver.add(request(random_prompt(3, 1), 100));
  for (int step = 0; step < 4; ++step) driver.submit(), driver.commit();
  driver.add(request(random_prompt(80, 2), 1));
  const size_t first = driver.batches.size();
  driver.run();
  size_t rows = 0;
  for (size_t i = first + 1; i < first + 19; ++i) {
    const StepBatch& batch = driver.batches[i];
    EXPECT_LE(batch.after + 2, batch.step);
    rows += batch.rows.size();
  }
  EXPECT_EQ(rows, 18u + 9u);
}

// The slot of a cancelled sequence is closed when its rows have come out, and then opened for the next.
TEST(Stages, ACancelledSlotWaitsForItsRow) {
  Engine setup = with_stages(3);
  setup.options.max_batch_size = 2;
  Driver driver(setup);
  const SequenceId cancelled = driver.add(request(random_prompt(5, 1), 50));
  driver.add(request(random_prompt(5, 2), 50));
  for (int step = 0; step < 6; ++step) {
    while (driver.submit()) {
    }
    driver.commit();
  }
  while (driver.submit()) {
  }
  uint64_t last = 0;
  for (const StepBatch& batch : driver.batches)
    for (const StepBatch::Row& row : batch.rows)
      if (driver.scheduler.sequence_in_slot(row.slot) == cancelled) last = batch.step;
  ASSERT_GT(last, static_cast<uint64_t>(driver.committed));
  driver.scheduler.finish(cancelled);
  const NewSequence next = request(random_prompt(5, 3), 20);
  const SequenceId id = driver.add(next);
  uint64_t closed = 0;
  while (!driver.scheduler.idle()) {
    while (driver.submit()) {
      if (driver.batch.closes.empty() || closed > 0) continue;
      closed = driver.batch.step;
      EXPECT_GE(static_cast<uint64_t>(driver.committed), last);
      ASSERT_EQ(driver.batch.opens.size(), 1u);
      EXPECT_EQ(driver.batch.opens[0].slot, driver.batch.closes[0]);
    }
    driver.commit();
  }
  EXPECT_GT(closed, last);
  EXPECT_EQ(driver.got[id].tokens, right_tokens(next, 20));
}

// A preempted sequence loses its slot at once; the step that closes it waits for its rows.
TEST(Stages, APreemptedSlotWaitsForItsRow) {
  for (int stages : {2, 3, 4}) {
    Driver driver(with_few_blocks(stages));
    std::vector<std::pair<SequenceId, NewSequence>> all;
    for (uint32_t i = 0; i < 4; ++i) {
      const NewSequence sequence = request(random_prompt(10 + i, i), 70);
      all.emplace_back(driver.add(sequence), sequence);
    }
    int waited = 0;
    std::map<Slot, uint64_t> last;  // step with a row of the slot
    while (!driver.scheduler.idle()) {
      while (driver.submit()) {
        for (Slot slot : driver.batch.closes) {
          EXPECT_TRUE(driver.batch.after >= last[slot] || last[slot] <= static_cast<uint64_t>(driver.committed));
          waited += last[slot] > static_cast<uint64_t>(driver.committed);
        }
        for (const StepBatch::Row& row : driver.batch.rows) last[row.slot] = driver.batch.step;
      }
      driver.commit();
    }
    EXPECT_GT(waited, 0);
    EXPECT_GT(driver.scheduler.metrics().preemptions, 0u);
    for (const auto& [id, sequence] : all) EXPECT_EQ(driver.got[id].tokens, right_tokens(sequence, 70));
  }
}

// That the worker of these tests would notice: with nothing to wait for, rows begin before their token is there; and
// slots are closed under their rows.
TEST(Stages, NothingGoesWithoutWaiting) {
  for (bool closes : {false, true}) {
    const Engine setup = with_few_blocks(2);
    Scheduler scheduler = make_scheduler(setup.options, setup.cache);
    FakeWorker worker(setup.cache, setup.options.max_batch_size, 1, 2);
    for (uint32_t i = 0; i < (closes ? 4 : 1); ++i)
      ASSERT_TRUE(scheduler.add(request(random_prompt(10 + i, i), 70)).ok());
    std::mt19937 random{1};
    StepBatch batch;
    while (worker.faults.empty() && !scheduler.idle()) {
      while (scheduler.schedule(batch)) {
        if (closes != batch.closes.empty()) batch.after = 0;
        worker.submit(batch);
      }
      StepResult result = worker.execute(0, random);
      if (worker.faults.empty()) (void)scheduler.commit(result);
    }
    ASSERT_FALSE(worker.faults.empty());
    EXPECT_NE(worker.faults[0].find(closes ? "has an unfinished row" : "not sampled yet"), std::string::npos);
  }
}

}  // namespace
}  // namespace weft
