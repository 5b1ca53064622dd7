// Runs a beam search on the engine core. Every step of every beam is a sequence of its own, whose prompt is the
// request's prompt and the beam's tokens and whose result is the best continuations. Common tokens of the beams are
// found in the prefix cache (whole blocks, so a beam computes at most the tokens of its last block again). Beams are
// therefore batched, preempted and cancelled like everything else, and hold no blocks between the steps.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "api/beam_search.h"
#include "api/running_request.h"
#include "cache/cache_manager.h"
#include "grammar/grammar.h"
#include "runtime/engine_core.h"

namespace weft {

// Refuses, by name, parameters that beam search does not support (sampling filters, stop strings and such), and a
// beam_width or length_penalty out of range.
Status check_beams(const Request& request);

class BeamRequest : public std::enable_shared_from_this<BeamRequest> {
 public:
  struct Setup {
    SharedTokens prompt;
    std::vector<std::shared_ptr<const PreparedMedia>> media;  // images of the prompt
    std::shared_ptr<MediaPrompt> places;                      // with `media`: where their features go (unset)
    SamplingParams params;                                    // max_tokens is what there is room for
    int shown = 1;                                            // hypotheses that are answers
    int priority = 0;
    CacheIdentity cache;
    AdapterLease adapter;
    uint64_t client = 0, request = 0;          // see NewSequence
    double deadline = 0;                       // see Submission
    std::vector<std::string> context_servers;  // likewise
    std::unique_ptr<Grammar> grammar;          // may be null
    BeamSettings beams;
  };
  // `answer` gets one output per shown hypothesis when the search is over.
  BeamRequest(EngineCore& core, Setup setup, std::shared_ptr<RunningRequest> answer);

  // The first step. An error means that nothing will come.
  Status start();
  // Any thread. Once it returns, `answer` gets no more outputs from this search, except one that is being delivered.
  void cancel();

 private:
  Status submit_step();
  bool on_output(size_t beam, const SequenceOutput& output);
  Status advance(bool& over);
  Status follow_grammar();
  void deliver();
  void fail(const Error& error);
  void tell(const SequenceOutput& error);

  EngineCore& core_;
  Setup setup_;
  const int64_t arrival_step_;  // all steps of the search rank as if they had come with its first
  const std::shared_ptr<RunningRequest> answer_;
  std::mutex mutex_;
  BeamSearch search_;
  std::vector<std::unique_ptr<Grammar>> grammars_;     // per running beam, if there is one
  std::vector<std::vector<TokenLogprob>> candidates_;  // per running beam, as they come in
  std::vector<SequenceId> sequences_;                  // of the step
  size_t waiting_ = 0;                                 // beams of the step whose candidates are still missing
  int cached_tokens_ = -1;                             // of the first step
  bool done_ = false, cancelled_ = false;
  int told_ = 0;  // answers that have been given, or their errors; the engine thread's
};

}  // namespace weft
