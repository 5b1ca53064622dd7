// What the scheduler's tests share: a scheduler with the model-free worker of fake_worker.h, and sequences for it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <utility>
#include <vector>

#include "base/check.h"
#include "sched/fake_worker.h"
#include "sched/scheduler.h"

namespace weft {

// With a cache of these options for each home.
inline Scheduler make_scheduler(const SchedulerOptions& options, const CacheOptions& cache) {
  std::vector<CacheManager> caches;
  for (int home = 0; home < options.homes; ++home) caches.push_back(std::move(*CacheManager::create(cache)));
  return std::move(*Scheduler::create(options, std::move(caches)));
}

struct Engine {
  SchedulerOptions options;
  CacheOptions cache;
  Engine() {
    options.max_batch_size = 8, options.max_num_tokens = 64, options.max_logit_rows = 16, options.max_seq_len = 256;
    cache.groups = {{CacheSpec::Kind::full, 0, 10}};
    cache.tokens_per_block = 16;
    cache.budget_bytes = 100000;
  }
};

// Runs steps as the engine would, keeping `overlap` of them in flight, and collects what each sequence got.
class Driver {
 public:
  explicit Driver(const Engine& setup)
      : scheduler(make_scheduler(setup.options, setup.cache)),
        worker(setup.cache, setup.options.max_batch_size, setup.options.homes, setup.options.stages) {}

  struct Got {
    std::vector<int32_t> tokens;
    std::vector<float> prompt_logprobs, outputs;
    SequenceOutput last;
    int finished_at = 0;  // committed steps by then
  };

  SequenceId add(NewSequence sequence) {
    auto id = scheduler.add(std::move(sequence));
    WEFT_CHECK(id.ok()) << id.error().message();
    return *id;
  }
  bool submit() {
    if (!scheduler.schedule(batch, now_us)) return false;
    batches.push_back(batch);
    note_homes();
    worker.submit(batch);
    return true;
  }
  void commit() {
    StepResult result = worker.execute(0, random);
    ++committed;
    for (const SequenceOutput& output : scheduler.commit(result)) {
      Got& g = got[output.id];
      g.tokens.insert(g.tokens.end(), output.tokens.begin(), output.tokens.end());
      g.outputs.insert(g.outputs.end(), output.outputs.begin(), output.outputs.end());
      for (const auto& entry : output.prompt_logprobs) g.prompt_logprobs.push_back(entry[0].logprob);
      g.last = output, g.finished_at = committed;
    }
    scheduler.check_integrity();
    for (const std::string& fault : worker.faults) ADD_FAILURE() << fault;
  }
  void run() {
    while (!scheduler.idle()) {
      while (submit()) {
      }
      commit();
    }
  }

  void note_homes() {
    std::vector<int>& load = loads.emplace_back(scheduler.homes(), 0);
    for (const SlotOpen& open : batch.opens) {
      homes[scheduler.sequence_in_slot(open.slot)].push_back(open.home);
      slot_homes[open.slot] = open.home;
    }
    for (const StepBatch::Row& row : batch.rows) load[slot_homes[row.slot]] += row.tokens + row.drafts;
  }

  Scheduler scheduler;
  FakeWorker worker;
  StepBatch batch;
  std::vector<StepBatch> batches;
  std::map<SequenceId, Got> got;
  std::mt19937 random{1};
  int committed = 0;
  int64_t now_us = 0;
  std::map<SequenceId, std::vector<int>> homes;  // of its admissions
  std::map<Slot, int> slot_homes;
  std::vector<std::vector<int>> loads;  // of each batch, per home: positions
};

inline std::vector<int32_t> random_prompt(int tokens, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> prompt(tokens);
  for (int32_t& token : prompt) token = static_cast<int32_t>(random() % kVocabulary);
  return prompt;
}

inline NewSequence request(std::vector<int32_t> prompt, int max_tokens, void (*change)(SamplingParams&) = nullptr) {
  SamplingParams sampling;
  sampling.max_tokens = max_tokens;
  if (change) change(sampling);
  NewSequence sequence;
  sequence.prompt = std::move(prompt);
  sequence.sampling = std::make_shared<SamplingParams>(sampling), sequence.seed = 1;
  return sequence;
}

// Adds to the prompt.
inline void extend_prompt(NewSequence& sequence, const std::vector<int32_t>& tokens) {
  std::vector<int32_t> prompt = sequence.prompt.copy();
  prompt.insert(prompt.end(), tokens.begin(), tokens.end());
  sequence.prompt = std::move(prompt);
}

// What the fake model says after this prompt.
inline std::vector<int32_t> right_tokens(const NewSequence& sequence, int count) {
  uint64_t prefix = prefix_root(*sequence.sampling);
  for (int32_t token : sequence.prompt) prefix = mix(prefix, static_cast<uint64_t>(token));
  std::vector<int32_t> tokens;
  while (static_cast<int>(tokens.size()) < count) {
    tokens.push_back(sampled_token(prefix, sequence.seed));
    prefix = mix(prefix, static_cast<uint64_t>(tokens.back()));
  }
  return tokens;
}

// The answer, without a scheduler.
struct Answer {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs, prompt_rows;  // prompt_rows: a value for each position of the prompt
  FinishReason reason = FinishReason::none;
};

inline Answer answer_alone(const NewSequence& request, int max_seq_len) {
  Answer answer;
  const SamplingParams& sampling = *request.sampling;
  uint64_t prefix = prefix_root(sampling);
  for (int32_t token : request.prompt) {
    prefix = mix(prefix, static_cast<uint64_t>(token));
    answer.prompt_rows.push_back(row_value(prefix));
  }
  if (request.task == Task::score) return answer.reason = FinishReason::stop, answer;
  const size_t room = max_seq_len - request.prompt.size(), before = request.output.size();
  for (int32_t token : request.output) prefix = mix(prefix, static_cast<uint64_t>(token));
  auto in = [](const std::vector<int32_t>& ids, int32_t id) {
    return std::find(ids.begin(), ids.end(), id) != ids.end();
  };
  while (answer.reason == FinishReason::none) {
    if (before + answer.tokens.size() == std::min<size_t>(room, sampling.max_tokens))
      return answer.reason = FinishReason::length, answer;
    const int32_t token = sampled_token(prefix, request.seed);
    answer.tokens.push_back(token);
    answer.logprobs.push_back(row_value(prefix));
    prefix = mix(prefix, static_cast<uint64_t>(token));
    const bool eos = !sampling.ignore_eos && in(sampling.eos_token_ids, token);
    if (eos || in(sampling.stop_token_ids, token)) answer.reason = FinishReason::stop;
  }
  return answer;
}

}  // namespace weft
