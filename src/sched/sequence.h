// All state of one generation. Owned by the Scheduler and changed by it only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <vector>

#include "cache/cache_manager.h"
#include "sched/scheduler.h"
#include "sched/turns.h"
#include "spec/draft_policy.h"

namespace weft {

struct Sequence {
  enum class State : uint8_t { held, waiting, running, finished };

  SequenceId id{};
  int priority = 0;
  int64_t rank = 0;  // lower goes first; see Scheduler
  // Of Turns: its request, the step in which it came, and the walk that has passed it.
  RequestQueue* queue = nullptr;
  WaitingSet::node_type waiting_node;  // while it does not wait
  int64_t added_step = 0;
  uint64_t walk = 0;
  int place = 0;  // among the running ones of its client, see Scheduler::order_running
  Task task = Task::generate;
  LogitRows score_rows = LogitRows::all;
  bool whole = false, guided = false, whole_media = false;
  std::shared_ptr<const SamplingParams> sampling;
  uint64_t seed = 0;
  bool prompt_results = true;
  CacheIdentity identity;  // until the first attempt at admission
  int prompt_tokens = 0;
  int max_outputs = 0;      // the smaller of max_tokens and what max_seq_len leaves
  int rows_end = 0;         // rows of the head are wanted for positions below this (score, prompt_logprobs)
  bool speculates = false;  // drafts are made for it

  State state = State::waiting;
  int home = 0;            // while it is running; chosen anew for each admission
  uint64_t placed_at = 0;  // Scheduler::sharing_ at which it was chosen
  int64_t added_us = 0;    // time of the last schedule() before it came
  Slot slot = -1;
  SharedTokens prompt;
  std::vector<int32_t> first_output;  // tokens generated elsewhere, until it starts
  std::vector<int32_t> tokens;        // known, prompt and output; only once it has started
  std::vector<int32_t> token_types;
  std::shared_ptr<const MediaPrompt> media;
  AdapterLease adapter;
  // Positions that submitted steps cover, since the last (re)start, if they accept no draft; and how many more if they
  // accept all.
  int scheduled = 0, slack = 0;
  int computed = 0;         // positions whose KV is certainly written
  int in_flight = 0;        // submitted steps that mention it
  int pending_samples = 0;  // of these, those that sample
  uint32_t epoch = 0;       // counts preemptions: a row of an earlier epoch does not advance `computed`
  int promised = 0;         // drafts that the last submitted row proposes, at most
  DraftHistory drafts;
  int rows_done = 0;       // wanted rows that have come out
  uint64_t last_step = 0;  // that has a row of it
  bool started = false;    // `cache` has been started with `identity`, and `tokens` are its own
  bool given_up = false;   // there was no memory for it in the step being filled
  bool admitted_before = false;
  int cached_tokens = 0;       // at the first admission
  uint64_t retry_version = 0;  // Scheduler::cache_version() at which admission failed last
  double mask_debt = 0;        // see mask_debts.cc
  int shared_block = -1;       // it failed because another sequence of this home computes this block; -1: it did not
  int64_t admitted_step = 0;
  int64_t decodes_since = -1;  // step of its first decode row since it was admitted; -1: it has had none
  CacheSequence cache;

  // The end of the span of whole media that position `at` cuts (first < at < end), else `at`; and its beginning
  // likewise.
  int span_end(int at) const { return cut_span(at, true); }
  int span_begin(int at) const { return cut_span(at, false); }
  int cut_span(int at, bool end) const {
    if (whole_media && media)
      for (const MediaPrompt::Span& span : media->spans)
        if (span.position < at && at < span.position + span.count)
          return end ? span.position + span.count : span.position;
    return at;
  }

  int known() const { return static_cast<int>(started ? tokens.size() : prompt.size() + first_output.size()); }
  // Known tokens become the sequence's own, with room for `expected`. Until then it shares its prompt with others.
  void start(size_t expected) {
    started = true;
    tokens.reserve(expected);
    tokens.assign(prompt.begin(), prompt.end());
    tokens.insert(tokens.end(), first_output.begin(), first_output.end());
    first_output = {};
  }
  int outputs() const { return known() - prompt_tokens; }
  bool wants_rows() const { return rows_done < rows_end; }
  // What is sampled by the steps in flight reaches the limit.
  bool end_is_certain() const { return outputs() + pending_samples >= max_outputs; }
  // Known positions that no step covers yet.
  int remaining() const { return known() - scheduled; }
  bool ready_to_decode() const {
    if (remaining() == 1 && pending_samples == 0) return true;  // the last known token
    return pending_samples > 0 && remaining() == 1 - pending_samples && !end_is_certain();
  }
  bool ready_to_prefill() const { return remaining() > 1; }
  bool outranks(const Sequence& other) const { return rank != other.rank ? rank < other.rank : id < other.id; }
};

inline bool by_rank(const Sequence* a, const Sequence* b) { return a->outranks(*b); }
// Of running ones: the first of each client, then the second of each, and so on.
inline bool by_place(const Sequence* a, const Sequence* b) {
  return a->place != b->place ? a->place < b->place : a->outranks(*b);
}

// Does `work` for the sequence in the step being filled. Where memory runs out, nothing of it is left in the batch, the
// sequence counts as served and will end. False: that was so.
template <class Work>
bool Scheduler::try_for(Sequence& sequence, StepBatch* batch, Work work) {
  const size_t copies = batch ? batch->copies.size() : 0, entries = batch ? batch->entries.size() : 0;
  const size_t opens = batch ? batch->opens.size() : 0;
  try {
    work();
    return true;
  } catch (const std::bad_alloc&) {
    if (batch) batch->copies.resize(copies), batch->entries.resize(entries);
    give_up(sequence, batch, opens);
    return false;
  }
}

}  // namespace weft
