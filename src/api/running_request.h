// The text side of one request: turns the engine core's token outputs into events. Per choice it keeps the detokenizer
// and the stop strings; per request the counts, the prompt's logprobs and, with best_of, the choices that compete.
#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "api/engine.h"
#include "sched/scheduler.h"
#include "text/detokenizer.h"
#include "text/stop_strings.h"
#include "text/tokenizer.h"

namespace weft {

class RunningRequest {
 public:
  struct Setup {
    int choices = 1;  // sequences
    int shown = 1;    // of them, the best by mean logprob; choices if all are shown
    SharedTokens prompt;
    std::vector<std::string> stop;
    bool include_stop = false, skip_special = true;
    std::vector<std::string> kept_special;
    bool show_logprobs = false;  // the caller asked; best_of needs them anyway
    std::vector<int32_t> request_stop_ids;
    // Special tokens whose text is not shown, and the one of `stop` that names each; they are request_stop_ids too.
    std::vector<std::pair<int32_t, size_t>> special_stops;
    uint64_t seed = 0;
    std::vector<std::string> warnings;
    bool prompt_results = false;  // logprobs or logits of the prompt: no events are sent before these are complete
    size_t context_logits = 0;    // how many values of the prompt's logits come, from choice 0
  };
  // `tokenizer` may be null: events then carry ids only.
  RunningRequest(Setup setup, std::shared_ptr<const Tokenizer> tokenizer, EventSink sink);

  // An output of the sequence of `choice`. False: this choice has its end. Engine thread. Where memory runs out
  // (std::bad_alloc), an output with an error may be given in its place; events that were not delivered come first
  // then.
  bool on_output(int choice, const SequenceOutput& output);
  // Ends what still runs with finish == cancelled. Any thread; from inside the sink, the events come when it returns.
  void cancel();
  bool finished() const;

 private:
  struct Choice {
    std::unique_ptr<Detokenizer> detokenizer;
    std::optional<StopStrings> stops;
    bool done = false;
    double logprob_sum = 0;
    Event kept;  // the choice's result so far, with best_of
  };

  bool take(int choice, const SequenceOutput& output);
  void add_tokens(Choice& choice, const SequenceOutput& output, Event& event);
  void count_drafts(const SequenceOutput& output, const Event& event);
  void end_at_special(Choice& choice, size_t stop, Event& event);
  void end_text(Choice& choice, Event& event);
  void emit(int index, Event event);
  void add_prompt(Event& event);
  void send(Event event, bool last);
  void emit_best();
  void deliver();
  const Event* next_event() const;

  const Setup setup_;
  const std::shared_ptr<const StopSet> stops_;
  EventSink sink_;
  std::recursive_mutex delivery_;  // held while events are delivered, so that they come in order; taken before mutex_
  bool delivering_ = false;        // guarded by it
  mutable std::mutex mutex_;       // guards what follows; not held while an event is delivered
  std::deque<Event> outbox_;
  std::vector<Choice> choices_;
  int running_ = 0;
  bool prompt_sent_ = false;
  std::vector<Event> early_;          // of other choices, before choice 0 has brought the prompt's results
  std::vector<TokenInfo> prompt_;     // with logprobs as they come in
  std::vector<float> prompt_logits_;  // until they are sent
  size_t prompt_values_ = 0;          // of them that have come
  Usage usage_;
};

}  // namespace weft
