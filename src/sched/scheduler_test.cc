// The scheduler's rules one by one, on the model-free worker of fake_worker.h. Random load is in simulation_test.cc.
#include "sched/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>

#include "base/count_allocations.h"
#include "sched/driver.h"

namespace weft {
namespace {

using Kind = CacheSpec::Kind;

void expect_refused(Scheduler& scheduler, NewSequence sequence, const char* param, const char* part) {
  const auto id = scheduler.add(std::move(sequence));
  ASSERT_FALSE(id.ok());
  EXPECT_EQ(id.error().code(), Code::invalid_argument);
  EXPECT_EQ(id.error().param(), param);
  EXPECT_NE(id.error().message().find(part), std::string::npos) << id.error().message();
}

TEST(Scheduler, RefusesWhatCanNeverRun) {
  Engine setup;
  setup.cache.budget_bytes = 120;  // 12 blocks: 192 tokens
  Driver driver(setup);
  expect_refused(driver.scheduler, request({}, 4), "prompt", "no tokens");
  expect_refused(driver.scheduler, request(random_prompt(256, 1), 1), "prompt", "256");
  expect_refused(driver.scheduler, request(random_prompt(10, 1), -1), "max_tokens", "-1");
  expect_refused(driver.scheduler, request(random_prompt(150, 1), 44), "max_tokens", "120");
  expect_refused(driver.scheduler, request(random_prompt(193, 1), 1), "prompt", "192");
  NewSequence whole = request(random_prompt(65, 1), 1);
  whole.whole = true;
  expect_refused(driver.scheduler, whole, "prompt", "max_num_tokens is 64");
  setup.options.chunked_prefill = false;
  Driver unchunked(setup);
  expect_refused(unchunked.scheduler, request(random_prompt(65, 1), 1), "prompt", "chunked prefill is off");
  driver.add(request(random_prompt(150, 1), 43));  // 192 positions: the last token needs none
  driver.run();
  EXPECT_EQ(driver.got.begin()->second.tokens.size(), 43u);
}

// 255 tokens and one new one fit into 256; 253 and ten end after three.
TEST(Scheduler, ContextEdge) {
  Driver driver{Engine()};
  const SequenceId one = driver.add(request(random_prompt(255, 1), 1)),
                   ten = driver.add(request(random_prompt(253, 2), 10));
  driver.run();
  EXPECT_EQ(driver.got[one].tokens.size(), 1u);
  EXPECT_EQ(driver.got[one].last.reason, FinishReason::length);
  EXPECT_EQ(driver.got[ten].tokens.size(), 3u);
  EXPECT_EQ(driver.got[ten].last.reason, FinishReason::length);
}

TEST(Scheduler, StopRules) {
  const std::vector<int32_t> prompt = random_prompt(7, 3);
  const std::vector<int32_t> right = right_tokens(request(prompt, 20), 20);
  const int32_t stop = right[3];
  const int at = static_cast<int>(std::find(right.begin(), right.end(), stop) - right.begin());  // its first place
  for (int overlap : {1, 2}) {
    Engine setup;
    setup.options.overlap = overlap;
    auto run = [&](int max_tokens, std::vector<int32_t> eos, bool ignore_eos, std::vector<int32_t> stops) {
      Driver driver(setup);
      NewSequence sequence = request(prompt, max_tokens);
      SamplingParams sampling = *sequence.sampling;
      sampling.eos_token_ids = std::move(eos), sampling.ignore_eos = ignore_eos,
      sampling.stop_token_ids = std::move(stops);
      sequence.sampling = std::make_shared<SamplingParams>(sampling);
      const SequenceId id = driver.add(sequence);
      driver.run();
      return driver.got[id];
    };
    for (const auto& got : {run(20, {100, stop}, false, {}), run(20, {}, false, {stop}), run(20, {100}, true, {stop}),
                            run(at + 1, {stop}, false, {})}) {  // at the last token allowed: stop all the same
      EXPECT_EQ(got.tokens, std::vector<int32_t>(right.begin(), right.begin() + at + 1));
      EXPECT_EQ(got.last.reason, FinishReason::stop);
      EXPECT_EQ(got.last.stop_id, stop);
    }
    const auto ignored = run(20, {stop}, true, {999999, -1});
    EXPECT_EQ(ignored.tokens, right);
    EXPECT_EQ(ignored.last.reason, FinishReason::length);
  }
}

TEST(Scheduler, OverlapWastesNoStepOnACertainEnd) {
  Engine setup;
  Driver driver(setup);
  const SequenceId id = driver.add(request(random_prompt(5, 1), 4));
  driver.run();
  EXPECT_EQ(driver.committed, 4);  // the prompt's step samples the first token
  EXPECT_EQ(driver.got[id].tokens.size(), 4u);
  EXPECT_EQ(driver.scheduler.metrics().discarded_tokens, 0u);
  ASSERT_EQ(driver.batches.size(), 4u);
  EXPECT_EQ(driver.batches[0].rows[0].source, TokenSource::host);
  for (int step : {1, 2, 3}) EXPECT_EQ(driver.batches[step].rows[0].source, TokenSource::slot);
}

TEST(Scheduler, NothingComesAfterAnEndFromOutside) {
  Driver driver{Engine()};
  const SequenceId id = driver.add(request(random_prompt(5, 1), 50)),
                   other = driver.add(request(random_prompt(5, 2), 50));
  for (int step = 0; step < 5; ++step) {
    while (driver.submit()) {
    }
    driver.commit();
  }
  while (driver.submit()) {
  }
  EXPECT_EQ(driver.worker.queued(), 2u);
  const size_t tokens = driver.got[id].tokens.size();
  EXPECT_TRUE(driver.scheduler.finish(id));
  EXPECT_FALSE(driver.scheduler.finish(id));
  driver.run();
  EXPECT_EQ(driver.got[id].tokens.size(), tokens);
  EXPECT_EQ(driver.got[other].tokens.size(), 50u);
  EXPECT_FALSE(driver.scheduler.finish(SequenceId{12345}));
}

// Twenty requests at once with one system prompt of 100 tokens: its six whole blocks are computed once, and the rest of
// it is copied from the seventh block of whoever computed that first.
TEST(Scheduler, ASharedPromptIsComputedOnce) {
  for (int overlap : {1, 2}) {
    Engine setup;
    setup.options.overlap = overlap;
    setup.options.max_batch_size = 32;
    setup.options.max_num_tokens = 256;
    Driver driver(setup);
    const std::vector<int32_t> system = random_prompt(100, 9);
    std::vector<std::pair<SequenceId, NewSequence>> all;
    for (uint32_t i = 0; i < 20; ++i) {
      NewSequence sequence = request(system, 5);
      extend_prompt(sequence, random_prompt(10, 100 + i));
      all.emplace_back(driver.add(sequence), sequence);
    }
    driver.run();
    int uncached = 0;
    for (const auto& [id, sequence] : all) {
      EXPECT_EQ(driver.got[id].tokens, right_tokens(sequence, 5));
      uncached += 110 - driver.got[id].last.cached_tokens;
    }
    EXPECT_LE(uncached, 110 + 19 * 14);
    EXPECT_EQ(driver.scheduler.metrics().cached_tokens, 20u * 110 - uncached);
  }
}

// NVIDIA/TensorRT-LLM PR 12665: reused tokens must not be counted, or counted twice, against a step.
TEST(Scheduler, ReuseKeepsToTheTokenBudget) {
  Engine setup;
  setup.options.max_batch_size = 32;
  Driver driver(setup);
  std::vector<SequenceId> ids;
  for (uint32_t i = 0; i < 32; ++i) {
    NewSequence sequence = request(random_prompt(120, 4), 6);
    extend_prompt(sequence, {static_cast<int32_t>(i % kVocabulary)});
    ids.push_back(driver.add(sequence));
  }
  driver.run();
  for (const StepBatch& batch : driver.batches) EXPECT_LE(batch.total_tokens(), 64);
  for (SequenceId id : ids) EXPECT_EQ(driver.got[id].tokens.size(), 6u);
}

TEST(Scheduler, ChunksOfOneTokenAndWholePrompts) {
  for (bool chunked : {true, false}) {
    Engine setup;
    setup.options.chunked_prefill = chunked;
    setup.options.max_num_tokens = chunked ? 1 : 40;
    Driver driver(setup);
    std::vector<std::pair<SequenceId, NewSequence>> all;
    for (int length : {40, 1, 17, 33}) {
      const NewSequence sequence = request(random_prompt(length, 70 + length), 9);
      all.emplace_back(driver.add(sequence), sequence);
    }
    driver.run();
    for (const auto& [id, sequence] : all) EXPECT_EQ(driver.got[id].tokens, right_tokens(sequence, 9));
    if (chunked) continue;
    for (const StepBatch& batch : driver.batches) {
      for (const StepBatch::Row& row : batch.rows) EXPECT_TRUE(row.sample) << "a prompt was split";
    }
  }
}

// More running streams than a step has tokens, and a long prompt: prompts and decodes take turns, and streams among
// themselves.
TEST(Scheduler, NeitherPromptsNorDecodesStarve) {
  Engine setup;
  setup.options.max_num_tokens = 2;
  Driver driver(setup);
  std::vector<SequenceId> streams;
  for (uint32_t i = 0; i < 6; ++i) streams.push_back(driver.add(request(random_prompt(1, i), 200)));
  while (driver.committed < 60) {
    while (driver.submit()) {
    }
    driver.commit();
  }
  const SequenceId prompt = driver.add(request(random_prompt(40, 50), 1));
  std::map<SequenceId, size_t> before;
  for (SequenceId id : streams) before[id] = driver.got[id].tokens.size();
  const int start = driver.committed;
  while (driver.got.count(prompt) == 0) {
    while (driver.submit()) {
    }
    driver.commit();
    ASSERT_LE(driver.committed - start, 44) << "every other step has two tokens of the prompt";
  }
  for (SequenceId id : streams)
    EXPECT_NEAR(static_cast<double>(driver.got[id].tokens.size() - before[id]), 40.0 / 6, 2.0);
}

TEST(Scheduler, AWholePromptIsNotHeldUpByDecodes) {
  Engine setup;
  setup.options.chunked_prefill = false;
  setup.options.max_num_tokens = 64;
  Driver driver(setup);
  for (uint32_t i = 0; i < 5; ++i) driver.add(request(random_prompt(3, i), 200));
  for (int step = 0; step < 10; ++step) {
    while (driver.submit()) {
    }
    driver.commit();
  }
  const SequenceId prompt = driver.add(request(random_prompt(64, 50), 1));
  const int start = driver.committed;
  while (driver.got.count(prompt) == 0) {
    while (driver.submit()) {
    }
    driver.commit();
    ASSERT_LE(driver.committed - start, 6);
  }
}

TEST(Scheduler, PriorityGoesFirst) {
  Engine setup;
  setup.options.max_batch_size = 1;
  Driver driver(setup);
  std::vector<SequenceId> ids;
  for (int priority : {0, 0, 5}) {
    NewSequence sequence = request(random_prompt(4, 1 + priority), 3);
    sequence.priority = priority;
    ids.push_back(driver.add(sequence));
  }
  driver.run();
  EXPECT_LT(driver.got[ids[2]].finished_at, driver.got[ids[0]].finished_at);
  EXPECT_LT(driver.got[ids[0]].finished_at, driver.got[ids[1]].finished_at);
}

// A stream of higher priority that never ends: with ageing the low one has its turn when the arrivals since then make
// up for the difference, and not before; with strict priorities it has none.
TEST(Scheduler, LowPriorityDoesNotStarve) {
  for (int aging_steps : {0, 4, 16}) {
    Engine setup;
    setup.options.max_batch_size = 1, setup.options.overlap = 1, setup.options.aging_steps = aging_steps;
    Driver driver(setup);
    const auto add = [&](int priority) {
      NewSequence sequence = request(random_prompt(4, 9), 3);
      sequence.priority = priority;
      return driver.add(sequence);
    };
    SequenceId high = add(5);
    const SequenceId low = add(0);
    int ended_at = 0;
    for (int step = 1; step <= 400 && ended_at == 0; ++step) {
      if (driver.scheduler.metrics().waiting < 2) high = add(5);  // another one is always there
      while (driver.submit()) {
      }
      driver.commit();
      if (driver.got[low].last.reason == FinishReason::length) ended_at = step;
    }
    if (aging_steps == 0) {
      EXPECT_EQ(ended_at, 0);
    } else {
      EXPECT_GT(ended_at, 5 * aging_steps - 3 * 3);  // who came before that goes first
      EXPECT_LT(ended_at, 5 * aging_steps + 4 * 3);
    }
    driver.run();
    EXPECT_EQ(driver.got[low].last.reason, FinishReason::length);
    EXPECT_EQ(driver.got[high].last.reason, FinishReason::length);
  }
}

// A sequence that goes on from tokens generated elsewhere is what it would have become by itself.
TEST(Scheduler, GoesOnFromOutput) {
  for (bool chunked : {true, false}) {
    Engine setup;
    setup.options.chunked_prefill = chunked, setup.options.max_num_tokens = 20;
    Driver driver(setup);
    NewSequence whole =
        request(random_prompt(19, 3), 40, [](SamplingParams& s) { s.context_logits = s.generation_logits = true; });
    const SequenceId first = driver.add(whole);
    driver.run();
    const std::vector<int32_t> tokens = driver.got[first].tokens;
    const std::vector<float> rows = driver.got[first].outputs;
    EXPECT_EQ(rows.size(), 19u + 40u);
    for (int known : {1, 15, 39}) {
      NewSequence rest = whole;
      rest.output.assign(tokens.begin(), tokens.begin() + known);
      const SequenceId id = driver.add(rest);
      driver.run();
      EXPECT_EQ(driver.got[id].tokens, std::vector<int32_t>(tokens.begin() + known, tokens.end())) << known;
      std::vector<float> want(rows.begin(), rows.begin() + 19);
      want.insert(want.end(), rows.begin() + 19 + known, rows.end());
      EXPECT_EQ(driver.got[id].outputs, want) << known;
      EXPECT_EQ(driver.got[id].last.reason, FinishReason::length);
    }
  }
}

// Four streams that fit while they are short: the latest are preempted and go on later, from the cache where it still
// holds.
TEST(Scheduler, PreemptionChangesNothing) {
  for (int overlap : {1, 2, 3}) {
    for (Kind kind : {Kind::full, Kind::window}) {
      Engine setup;
      setup.options.overlap = overlap;
      setup.cache.groups = {{Kind::full, 0, 10}, {kind, 20, 10}};
      setup.cache.tokens_per_block = 4;
      setup.cache.budget_bytes = 520;
      Driver driver(setup);
      std::vector<std::pair<SequenceId, NewSequence>> all;
      for (uint32_t i = 0; i < 4; ++i) {
        const NewSequence sequence = request(random_prompt(10 + i, i), 70);
        all.emplace_back(driver.add(sequence), sequence);
      }
      driver.run();
      for (const auto& [id, sequence] : all) {
        EXPECT_EQ(driver.got[id].tokens, right_tokens(sequence, 70));
        EXPECT_EQ(driver.got[id].last.cached_tokens, 0);
      }
      EXPECT_GT(driver.scheduler.metrics().preemptions, 0u);
      EXPECT_LT(driver.got[all[0].first].finished_at, driver.got[all[3].first].finished_at);
      EXPECT_EQ(driver.scheduler.cache(0).available_bytes(), 520);
    }
  }
}

// Every entry once, none at a chunk's edge lost, cold and on a cache that holds the prompt.
TEST(Scheduler, PromptLogprobsAndScores) {
  for (int tokens_per_step : {1, 7, 8, 16, 64}) {
    Engine setup;
    setup.options.max_num_tokens = tokens_per_step;
    setup.options.max_logit_rows = 5;
    Driver driver(setup);
    for (int round = 0; round < 2; ++round) {
      for (int length : {1, 17, 33}) {
        NewSequence sequence = request(random_prompt(length, 8), 2, [](SamplingParams& s) { s.prompt_logprobs = 0; });
        std::vector<float> rows;
        uint64_t prefix = prefix_root(*sequence.sampling);
        for (int32_t token : sequence.prompt)
          rows.push_back(row_value(prefix = mix(prefix, static_cast<uint64_t>(token))));
        NewSequence score = sequence, last = sequence,
                    echo = request(sequence.prompt.copy(), 0, [](SamplingParams& s) { s.prompt_logprobs = 0; });
        score.task = last.task = Task::score;
        last.score_rows = LogitRows::last;
        const SequenceId a = driver.add(sequence), b = driver.add(score), c = driver.add(last), d = driver.add(echo);
        driver.run();
        EXPECT_EQ(driver.got[b].outputs, rows);
        EXPECT_EQ(driver.got[c].outputs, std::vector<float>{rows.back()});
        rows.pop_back();
        EXPECT_EQ(driver.got[a].prompt_logprobs, rows);
        EXPECT_EQ(driver.got[a].tokens, right_tokens(sequence, 2));
        EXPECT_EQ(driver.got[d].prompt_logprobs, rows);
        EXPECT_TRUE(driver.got[d].tokens.empty());
        EXPECT_EQ(driver.got[d].last.reason, FinishReason::length);
      }
    }
    for (const StepBatch& batch : driver.batches) {
      int rows = 0;
      for (const StepBatch::Row& row : batch.rows)
        rows += row.logits == LogitRows::all ? row.tokens : row.logits == LogitRows::last;
      EXPECT_LE(rows, 5);
    }
  }
}

TEST(Scheduler, EncodersRunWholeAndWithoutACache) {
  Engine setup;
  setup.cache.groups = {};
  setup.cache.budget_bytes = 0;
  Driver driver(setup);
  std::vector<SequenceId> ids;
  for (uint32_t i = 0; i < 6; ++i) {
    NewSequence sequence = request(random_prompt(30, i), 1);
    sequence.task = Task::score, sequence.score_rows = LogitRows::last, sequence.whole = true;
    ids.push_back(driver.add(sequence));
  }
  driver.run();
  for (SequenceId id : ids) EXPECT_EQ(driver.got[id].outputs.size(), 1u);
  for (const StepBatch& batch : driver.batches) {
    for (const StepBatch::Row& row : batch.rows) EXPECT_EQ(row.tokens, 30);
  }
}

TEST(Scheduler, PrefillBudgetLimitsPromptTokensOnly) {
  Driver driver{Engine()};
  driver.scheduler.set_prefill_budget(6);
  for (uint32_t i = 0; i < 4; ++i) driver.add(request(random_prompt(20, i), 10));
  driver.run();
  for (const StepBatch& batch : driver.batches) {
    int prompt = 0;
    for (const StepBatch::Row& row : batch.rows) prompt += row.first < 20 ? row.tokens : 0;
    EXPECT_LE(prompt, 6);
  }
}

// A step brings the blocks that are new to its rows, however many they hold.
TEST(Scheduler, AStepSendsNewBlocksOnly) {
  Engine setup;
  setup.cache.groups = {{Kind::full, 0, 10}, {Kind::window, 40, 10}};
  setup.options.overlap = 2;
  Driver driver(setup);
  for (uint32_t i = 0; i < 2; ++i) driver.add(request(random_prompt(60, i), 100));
  driver.run();
  size_t steps = 0;
  for (const StepBatch& batch : driver.batches) {
    size_t begun = 0;  // blocks of 16 that a row begins to write, in two groups
    for (const StepBatch::Row& row : batch.rows)
      begun += 2 * static_cast<size_t>((row.first + row.tokens + 15) / 16 - (row.first + 15) / 16);
    EXPECT_EQ(batch.entries.size(), begun) << "step " << batch.step;
    ++steps;
  }
  EXPECT_GT(steps, 100u);
}

// Blocks of 4 are filled, published and, in the window group, freed all the time; still nothing is allocated.
TEST(Scheduler, ASteadyDecodeStepDoesNotAllocate) {
  Engine setup;
  setup.cache.groups = {{Kind::full, 0, 10}, {Kind::window, 9, 10}};
  setup.cache.tokens_per_block = 4;
  setup.options.max_logit_rows = 64;
  setup.options.speculation.method = DraftMethod::ngram;
  for (const auto& [stages, overlap, drafts] :
       {std::array{1, 1, 0}, {1, 2, 0}, {1, 1, 3}, {1, 2, 3}, {2, 3, 0}, {4, 5, 0}, {2, 3, 3}, {4, 5, 3}}) {
    setup.options.stages = stages, setup.options.overlap = overlap;
    setup.options.speculation.num_tokens = 3;
    Scheduler scheduler = make_scheduler(setup.options, setup.cache);
    for (uint32_t i = 0; i < 8; ++i) {
      NewSequence sequence = request(random_prompt(10 + i, i), 230);
      if (drafts == 0) sequence = request(random_prompt(10 + i, i), 230, [](auto& s) { s.max_draft_tokens = 0; });
      ASSERT_TRUE(scheduler.add(std::move(sequence)).ok());
    }
    std::vector<StepResult> results(overlap);  // a ring
    StepBatch batch;
    size_t steady_steps = 0;
    uint64_t spent_at_first = 0;
    for (size_t submitted = 0, committed = 0; !scheduler.idle();) {
      const uint64_t before_schedule = allocations();
      const bool any = scheduler.schedule(batch);
      uint64_t spent = allocations() - before_schedule;
      if (any) {
        StepResult& result = results[submitted++ % overlap];
        result.step = batch.step;
        result.rows.resize(batch.rows.size());
        for (size_t r = 0; r < batch.rows.size(); ++r) {
          RowResult& row = result.rows[r];
          row.tokens.clear(), row.drafts.clear();
          row.drafted = batch.rows[r].drafts;
          if (batch.rows[r].sample) row.tokens.assign(1 + (submitted + r) % (row.drafted + 1), static_cast<int32_t>(r));
          row.drafts.assign(static_cast<size_t>(std::max(0, batch.rows[r].propose)), 0);
        }
      }
      if (any && submitted - committed < static_cast<size_t>(overlap)) continue;
      const uint64_t before_commit = allocations();
      const bool ended =
          std::ranges::any_of(scheduler.commit(results[committed++ % overlap]),
                              [](const SequenceOutput& output) { return output.reason != FinishReason::none; });
      spent += allocations() - before_commit;
      if (committed < 20) spent_at_first += spent;
      if (committed < 20 || ended) continue;  // warm, and nobody comes or goes
      ++steady_steps;
      EXPECT_EQ(spent, 0u) << "step " << committed;
    }
    EXPECT_GT(steady_steps, drafts > 0 ? 50u : 200u);
    EXPECT_GT(spent_at_first, 0u);  // the counter works
  }
}

}  // namespace
}  // namespace weft
