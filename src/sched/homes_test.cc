// Several homes: where sequences go, how a step's prompt tokens are shared out, and that answers are those of one home.
// Random load is in simulation_test.cc.
#include <gtest/gtest.h>

#include <array>
#include <numeric>

#include "base/count_allocations.h"
#include "sched/driver.h"
#include "sched/home.h"

namespace weft {
namespace {

using Kind = CacheSpec::Kind;

Engine engine(int homes) {
  Engine setup;
  setup.options.homes = homes;
  return setup;
}

// One step, and its result.
void step(Driver& driver) {
  ASSERT_TRUE(driver.submit());
  driver.commit();
}

TEST(Homes, TheLevelTakesTheBudgetAndNoMore) {
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) {
    std::vector<Home> homes;
    int64_t wanted = 0;
    for (uint32_t h = 0; h < 1 + random() % 5; ++h) {
      Home& home = homes.emplace_back(std::move(*CacheManager::create({})));
      home.depth = static_cast<int>(random() % 40), home.demand = static_cast<int>(random() % 3 * (random() % 50));
      wanted += home.demand;
    }
    const int tokens = static_cast<int>(random() % 120);
    const auto taken = [&](int level) {
      return std::accumulate(homes.begin(), homes.end(), int64_t{0}, [&](int64_t sum, const Home& home) {
        return sum + std::clamp(level - home.depth, 0, home.demand);
      });
    };
    const int64_t goal = std::min<int64_t>(tokens, wanted);
    const int level = fill_level(homes, tokens);
    EXPECT_GE(taken(level), goal);
    if (level > 0) {
      EXPECT_LT(taken(level - 1), goal);
    }
  }
}

TEST(Homes, RefusesOptionsOutOfRange) {
  std::vector<CacheManager> caches;
  caches.push_back(std::move(*CacheManager::create(Engine().cache)));
  SchedulerOptions options;
  options.homes = 0;
  EXPECT_EQ(Scheduler::create(options, {}).error().param(), "homes");
  options.homes = 1, options.balance_wait_us = -1;
  EXPECT_EQ(Scheduler::create(options, std::move(caches)).error().param(), "balance_wait_us");
}

// The answers of one home, for any number of them; the load is uneven, the cache small, blocks are copied.
TEST(Homes, AnswersDoNotDependOnThem) {
  size_t copies = 0;
  for (int homes : {1, 2, 4, 8}) {
    Engine setup = engine(homes);
    setup.cache.groups = {{Kind::full, 0, 10}, {Kind::window, 20, 10}};
    setup.cache.tokens_per_block = 4, setup.cache.budget_bytes = 350, setup.options.max_batch_size = 32;
    Driver driver(setup);
    std::vector<std::pair<SequenceId, NewSequence>> all;
    for (uint32_t i = 0; i < 24; ++i) {
      NewSequence sequence = request(random_prompt(static_cast<int>(i % 5) * 9 + 2, i % 3), 40);
      extend_prompt(sequence, {static_cast<int32_t>(i % kVocabulary)});
      all.emplace_back(driver.add(sequence), sequence);
    }
    driver.run();
    for (const auto& [id, sequence] : all) EXPECT_EQ(driver.got[id].tokens, right_tokens(sequence, 40));
    for (const StepBatch& batch : driver.batches) copies += batch.copies.size();
    EXPECT_GT(driver.scheduler.metrics().preemptions, 0u) << homes << " homes";
  }
  EXPECT_GT(copies, 0u);
}

TEST(Homes, SequencesSpread) {
  Driver driver(engine(4));
  for (uint32_t i = 0; i < 8; ++i) driver.add(request(random_prompt(20, i), 30));
  for (int i = 0; i < 6; ++i) step(driver);
  for (const HomeMetrics& home : driver.scheduler.home_metrics()) EXPECT_EQ(home.running, 2);
  driver.run();
}

// A prompt goes where most of it is cached, unless the others' work there outweighs that.
TEST(Homes, PrefixesAttractAndLoadRepels) {
  Engine setup = engine(4);
  setup.options.max_batch_size = 32, setup.options.max_seq_len = 512;
  Driver driver(setup);
  const std::vector<int32_t> system = random_prompt(200, 1);
  std::vector<SequenceId> others;
  for (uint32_t i = 2; i < 5; ++i) others.push_back(driver.add(request(random_prompt(200, i), 1)));
  const SequenceId first = driver.add(request(system, 1));  // the last home
  driver.run();
  const int home = driver.homes[first].front();
  const auto follow = [&](uint32_t seed, int max_tokens) {
    NewSequence sequence = request(system, max_tokens);
    extend_prompt(sequence, random_prompt(10, 100 + seed));
    const SequenceId id = driver.add(sequence);
    step(driver);
    return driver.homes[id].front();
  };
  // 192 tokens of 210 are cached. Each that runs there counts 50 decode rows to come; the fifth had better begin anew.
  for (uint32_t i = 0; i < 4; ++i) EXPECT_EQ(follow(i, 51), home) << i;
  EXPECT_NE(follow(4, 51), home);
  driver.run();
}

// The steps of a beam are short sequences, which find the beam in the cache.
TEST(Homes, ShortContinuationsStayWithTheirParent) {
  Driver driver(engine(4));
  const std::vector<int32_t> prompt = random_prompt(100, 1);
  const SequenceId parent = driver.add(request(prompt, 1));
  driver.add(request(random_prompt(90, 2), 1)), driver.add(request(random_prompt(80, 3), 1));
  driver.run();
  for (int round = 0; round < 5; ++round) {
    std::vector<SequenceId> beams;
    for (int beam = 0; beam < 4; ++beam) {
      NewSequence sequence = request(prompt, round + 2);
      sequence.output.assign(static_cast<size_t>(round) + 1, beam);
      beams.push_back(driver.add(sequence));
    }
    driver.run();
    for (SequenceId beam : beams) EXPECT_EQ(driver.homes[beam].front(), driver.homes[parent].front());
  }
}

// Its prefix is cached at a home without room: it goes to the other at once.
TEST(Homes, NobodyWaitsForAFullHome) {
  Engine setup = engine(2);
  setup.cache.budget_bytes = 110;  // 11 blocks of 16 at each
  Driver driver(setup);
  const std::vector<int32_t> prompt = random_prompt(64, 1);
  const SequenceId first = driver.add(request(prompt, 1));
  driver.run();
  const int home = driver.homes[first].front();
  NewSequence large = request(prompt, 100);  // holds the cached prompt and comes to hold the rest of the home
  const SequenceId holder = driver.add(large);
  for (int i = 0; i < 80; ++i) step(driver);
  EXPECT_EQ(driver.homes[holder].front(), home);
  const auto metrics = driver.scheduler.home_metrics();
  EXPECT_EQ(metrics[home].blocks.used, 9);
  EXPECT_EQ(metrics[1 - home].blocks.used, 0);
  NewSequence next = request(prompt, 2);
  extend_prompt(next, random_prompt(40, 2));  // three blocks more
  const SequenceId other = driver.add(next);
  step(driver);
  EXPECT_EQ(driver.homes[other], std::vector<int>{1 - home});
  driver.run();
  EXPECT_EQ(driver.got[holder].tokens, right_tokens(large, 100));
  EXPECT_EQ(driver.got[other].tokens, right_tokens(next, 2));
}

// Both are full; the one that gets room first takes the sequence that waits, though nothing happens at the other.
TEST(Homes, RoomIsSeenAtAnyHome) {
  for (int ends_first : {0, 1}) {
    Engine setup = engine(2);
    setup.cache.budget_bytes = 100, setup.cache.block_reuse = false;
    Driver driver(setup);
    for (int home : {0, 1}) driver.add(request(random_prompt(30, home), home == ends_first ? 5 : 120));
    step(driver);
    const SequenceId large = driver.add(request(random_prompt(140, 3), 1));
    for (int i = 0; i < 15; ++i) step(driver);
    EXPECT_EQ(driver.homes[large], std::vector<int>{ends_first});
    driver.run();
  }
}

// Three streams of which two share a home that cannot hold both: the later one is preempted and goes on at the other
// home, whose stream has ended meanwhile.
TEST(Homes, PreemptedGoOnElsewhere) {
  Engine setup = engine(2);
  setup.cache.tokens_per_block = 4, setup.cache.budget_bytes = 200;  // 20 blocks, 80 tokens
  Driver driver(setup);
  std::vector<std::pair<SequenceId, NewSequence>> all;
  for (uint32_t i = 0; i < 3; ++i) {
    const NewSequence sequence = request(random_prompt(10, i), std::array{60, 50, 50}[i]);
    all.emplace_back(driver.add(sequence), sequence);
    step(driver);
  }
  EXPECT_EQ(driver.homes[all[1].first], driver.homes[all[2].first]);
  for (int i = 0; i < 20; ++i) step(driver);
  driver.scheduler.finish(all[0].first);
  driver.run();
  for (int i : {1, 2}) EXPECT_EQ(driver.got[all[i].first].tokens, right_tokens(all[i].second, 50));
  EXPECT_EQ(driver.scheduler.metrics().preemptions, 1u);
  EXPECT_EQ(driver.homes[all[2].first], (std::vector<int>{1, 0}));
}

// The same three, and the one by itself is the lowest in rank: its blocks would help nobody at the other home.
TEST(Homes, PreemptionMakesRoomAtItsHomeOnly) {
  Engine setup = engine(2);
  setup.cache.tokens_per_block = 4, setup.cache.budget_bytes = 200;
  Driver driver(setup);
  std::vector<SequenceId> ids;
  for (uint32_t i = 0; i < 3; ++i) {
    NewSequence sequence = request(random_prompt(10, i), std::array{60, 50, 50}[i]);
    sequence.priority = i == 0 ? -1 : 0;
    ids.push_back(driver.add(sequence));
    step(driver);
  }
  driver.run();
  EXPECT_EQ(driver.scheduler.metrics().preemptions, 1u);
  EXPECT_EQ(driver.homes[ids[0]], std::vector<int>{0});
  EXPECT_EQ(driver.homes[ids[2]].size(), 2u);
}

// Waiting for blocks that another sequence computes makes sense at its home only.
TEST(Homes, EqualPromptsBeginAtOnceAtDifferentHomes) {
  Driver driver(engine(2));
  const SequenceId a = driver.add(request(random_prompt(30, 1), 1)), b = driver.add(request(random_prompt(30, 1), 1)),
                   c = driver.add(request(random_prompt(30, 1), 1));
  step(driver);
  EXPECT_EQ(driver.loads.back(), (std::vector<int>{30, 30}));
  EXPECT_NE(driver.homes[a], driver.homes[b]);
  driver.run();
  EXPECT_EQ(driver.got[b].last.cached_tokens, 0);
  EXPECT_EQ(driver.got[c].last.cached_tokens, 16);
}

// Sixty-four prompts on four homes: every step of the prefill is level, and so are the caches.
TEST(Homes, PrefillIsLevel) {
  for (bool chunked : {true, false}) {
    Engine setup = engine(4);
    setup.options.max_batch_size = 64, setup.options.max_num_tokens = 1024, setup.options.max_logit_rows = 64;
    setup.options.chunked_prefill = chunked, setup.options.max_seq_len = 1024;
    setup.cache.budget_bytes = 10000;
    Driver driver(setup);
    std::mt19937 random(7);
    for (uint32_t i = 0; i < 64; ++i) driver.add(request(random_prompt(20 + static_cast<int>(random() % 380), i), 100));
    int sum = 0, paced = 0;
    while (driver.scheduler.metrics().waiting > 0 || driver.scheduler.prompt_tokens_of_last_step() > 0) {
      step(driver);
      const std::vector<int>& load = driver.loads.back();
      sum += std::accumulate(load.begin(), load.end(), 0), paced += 4 * *std::max_element(load.begin(), load.end());
    }
    const double ratio = static_cast<double>(sum) / paced;
    const SchedulerMetrics metrics = driver.scheduler.metrics();
    EXPECT_EQ(metrics.scheduled_tokens, static_cast<uint64_t>(sum));
    EXPECT_EQ(metrics.paced_tokens, static_cast<uint64_t>(paced));
    std::printf("chunked %d: balance %.3f of %d positions\n", chunked, ratio, sum);
    EXPECT_GT(ratio, chunked ? 0.95 : 0.55);  // a step takes only five whole prompts or so
    int64_t all = 0;
    const std::vector<HomeMetrics> homes = driver.scheduler.home_metrics();
    for (const HomeMetrics& home : homes) all += home.cache_bytes;
    for (const HomeMetrics& home : homes)
      EXPECT_NEAR(static_cast<double>(home.cache_bytes) / all, 0.25, chunked ? 0.03 : 0.08);
    driver.run();
    EXPECT_GT(driver.scheduler.metrics().balance_ratio, 0.8);
  }
}

// Decode rows count: the home that has many of them gets fewer prompt tokens.
TEST(Homes, PromptsFillUpWhatDecodesLeave) {
  Engine setup = engine(2);
  setup.options.max_batch_size = 32, setup.options.max_num_tokens = 60, setup.options.max_logit_rows = 64;
  Driver driver(setup);
  std::vector<SequenceId> streams;
  for (uint32_t i = 0; i < 20; ++i) streams.push_back(driver.add(request(random_prompt(20, i), 60)));
  while (driver.scheduler.metrics().waiting > 0 || driver.scheduler.prompt_tokens_of_last_step() > 0) step(driver);
  int at_home_0 = 0;
  for (SequenceId id : streams)
    if (driver.homes[id].front() == 0 && at_home_0++ > 1) driver.scheduler.finish(id);
  step(driver);
  EXPECT_EQ(driver.loads.back(), (std::vector<int>{2, 10}));
  for (uint32_t i = 0; i < 12; ++i) driver.add(request(random_prompt(100, 50 + i), 1));
  for (int i = 0; i < 5; ++i) {
    step(driver);
    EXPECT_NEAR(driver.loads.back()[0], driver.loads.back()[1], 1);
    EXPECT_EQ(driver.batch.total_tokens(), 60);
  }
  driver.run();
}

// A prompt by itself takes all of the budget: nothing is held back for homes that have nothing to do.
TEST(Homes, NothingIsLeftOverForTheLevel) {
  Driver driver(engine(4));
  driver.add(request(random_prompt(60, 1), 1));
  step(driver);
  EXPECT_EQ(driver.batch.total_tokens(), 60);
  driver.add(request(random_prompt(150, 2), 1)), driver.add(request(random_prompt(10, 3), 1));
  step(driver);
  EXPECT_EQ(driver.batch.total_tokens(), 64);
  EXPECT_EQ(*std::max_element(driver.loads.back().begin(), driver.loads.back().end()), 54);
  driver.run();
}

// Its home is so full of decode rows that the level is below them; it goes on all the same while others arrive.
TEST(Homes, TheFirstInRankGoesOnAtAFullHome) {
  Engine setup = engine(2);
  setup.options.max_batch_size = 24, setup.options.max_num_tokens = 24, setup.options.max_logit_rows = 64;
  setup.options.max_seq_len = 1000;
  Driver driver(setup);
  const std::vector<int32_t> stem = random_prompt(800, 1);
  driver.add(request(stem, 1));
  driver.run();
  driver.scheduler.set_prefill_budget(6);
  for (uint32_t i = 0; i < 9; ++i) driver.add(request(stem, 150));
  while (driver.scheduler.metrics().waiting > 0 || driver.scheduler.prompt_tokens_of_last_step() > 0) step(driver);
  const auto running = driver.scheduler.home_metrics();
  const int full = running[0].running > running[1].running ? 0 : 1;
  EXPECT_EQ(running[full].running, 9);
  NewSequence first = request(stem, 1);
  extend_prompt(first, random_prompt(100, 2));
  const SequenceId id = driver.add(first);
  const int start = driver.committed;
  for (uint32_t seed = 100; driver.got[id].last.reason == FinishReason::none; ++seed) {
    if (driver.scheduler.metrics().waiting < 3) driver.add(request(random_prompt(100, seed), 1));
    step(driver);
    ASSERT_LT(driver.committed - start, 40) << "an even part of six tokens is three";
  }
  EXPECT_EQ(driver.homes[id], std::vector<int>{full});
  driver.run();
}

// Beside a stream, a prompt waits for others so that both homes have one, but no longer than it may.
TEST(Homes, PromptsWaitForEachOtherIfAsked) {
  for (int64_t wait : {0, 500}) {
    Engine setup = engine(2);
    setup.options.balance_wait_us = wait, setup.options.overlap = 1;
    Driver driver(setup);
    const auto begins = [&](std::initializer_list<uint32_t> seeds, int64_t until) {
      std::vector<SequenceId> ids;
      for (uint32_t seed : seeds) ids.push_back(driver.add(request(random_prompt(30, seed), 1)));
      const int64_t start = driver.now_us;
      while (driver.homes[ids[0]].empty() && driver.now_us - start < until) driver.now_us += 100, step(driver);
      return driver.now_us - start;
    };
    EXPECT_EQ(begins({1}, 1000), 100) << "nothing runs that could use the time";
    driver.add(request(random_prompt(3, 2), 200));
    step(driver);
    EXPECT_EQ(begins({3}, 1000), std::max<int64_t>(wait, 100));
    EXPECT_EQ(begins({4, 5}, 1000), 100) << "one for each home";
    const SequenceId lone = driver.add(request(random_prompt(30, 6), 1));
    driver.now_us += 100, step(driver);
    EXPECT_EQ(driver.homes[lone].empty(), wait > 0);
    EXPECT_EQ(begins({7}, 1000), 100) << "the second of two";
    EXPECT_FALSE(driver.homes[lone].empty());
    driver.run();
  }
}

TEST(Homes, EventsAreNumberedThrough) {
  Engine setup = engine(3);
  setup.cache.event_capacity = 4;
  Driver driver(setup);
  for (uint32_t i = 0; i < 3; ++i) driver.add(request(random_prompt(40, i), 1));  // two blocks each
  driver.run();
  auto [events, next] = driver.scheduler.take_cache_events();
  EXPECT_EQ(next, 6u);
  ASSERT_EQ(events.size(), 6u);
  std::vector<int> of_home(3, 0);
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(events[i].id, i);
    ++of_home[events[i].home];
  }
  EXPECT_EQ(of_home, std::vector<int>(3, 2));
  driver.add(request(random_prompt(100, 9), 1));  // six, of which two are lost
  driver.run();
  std::tie(events, next) = driver.scheduler.take_cache_events();
  EXPECT_EQ(next, 12u);
  ASSERT_EQ(events.size(), 4u);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(events[i].id, 8 + i);
}

TEST(Homes, ASteadyDecodeStepDoesNotAllocate) {
  Engine setup = engine(4);
  setup.options.overlap = 1, setup.cache.tokens_per_block = 4;
  Scheduler scheduler = make_scheduler(setup.options, setup.cache);
  for (uint32_t i = 0; i < 8; ++i) ASSERT_TRUE(scheduler.add(request(random_prompt(10 + i, i), 200)).ok());
  StepBatch batch;
  StepResult result;
  size_t steady_steps = 0;
  for (int number = 0; !scheduler.idle(); ++number) {
    const uint64_t before = allocations();
    ASSERT_TRUE(scheduler.schedule(batch));
    uint64_t spent = allocations() - before;
    result.step = batch.step;
    result.rows.resize(batch.rows.size());
    for (size_t r = 0; r < batch.rows.size(); ++r) {
      if (batch.rows[r].sample) result.rows[r].tokens.assign(1, static_cast<int32_t>(r));
      else result.rows[r].tokens.clear();
    }
    const uint64_t before_commit = allocations();
    const bool ended = std::ranges::any_of(
        scheduler.commit(result), [](const SequenceOutput& output) { return output.reason != FinishReason::none; });
    spent += allocations() - before_commit;
    if (number < 20 || ended) continue;
    ++steady_steps;
    EXPECT_EQ(spent, 0u) << "step " << number;
  }
  EXPECT_GT(steady_steps, 150u);
}

}  // namespace
}  // namespace weft
