// One call of /v1/chat/completions or /v1/completions: its requests go to the engine, and the engine's events become
// the response, whole or streamed.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "api/engine.h"
#include "api/request_json.h"
#include "base/memory_account.h"
#include "forms/reasoning.h"
#include "forms/tool_calls.h"
#include "server/answer_json.h"
#include "server/http.h"
#include "server/metrics.h"

namespace weft {

// Lives as long as the exchange or the engine refers to it. Apart from start(), everything happens in work posted to
// the exchange: one piece after the other, and off the server's thread.
class Generation : public std::enable_shared_from_this<Generation> {
 public:
  // `memory`: what the call has been charged.
  // On a handler thread: submits the requests of `call` and sees to it that `exchange` gets an answer. `engine` and
  // `metrics` must outlive the server.
  static void start(Engine& engine, ServerMetrics& metrics, std::shared_ptr<Exchange> exchange, bool chat,
                    ClientRequest call, AnswerHead head, MemoryCharge memory);

 private:
  using Clock = std::chrono::steady_clock;

  struct Choice {
    Choice(Thinking thinking, std::shared_ptr<const ToolCallFinder::Rules> rules)
        : splitter(thinking), finder(std::move(rules)) {}
    std::string text, reasoning;
    std::vector<TokenInfo> tokens;  // all of a whole response; in a stream those not sent yet
    std::vector<ToolCall> calls;
    FinishReason finish = FinishReason::none;
    Json stop_reason;
    std::vector<float> logits;
    ReasoningSplitter splitter;
    ToolCallFinder finder;
    int reasoning_tokens = 0;
    bool opened = false;  // a stream's first chunk is out
    size_t text_offset = 0;
  };
  // What an event adds to a choice.
  struct Fresh {
    std::string reasoning, text;
    std::vector<ToolDelta> calls;
  };
  // One per prompt.
  struct Part {
    RequestId id = 0;
    bool started = false;  // id is valid
    bool done = false;
    std::string prompt_text;                               // with echo
    std::shared_ptr<const std::vector<TokenInfo>> prompt;  // from the first event
    std::shared_ptr<const std::vector<float>> prompt_logits;
    std::vector<Choice> choices;
    Usage usage;
    uint64_t seed = 0;
    int generated = 0;  // so far
  };

  Generation(Engine& engine, ServerMetrics& metrics, std::shared_ptr<Exchange> exchange, bool chat, ClientRequest call,
             AnswerHead head, MemoryCharge memory);
  static Status read_format(const Engine& engine, Request& request, const ClientRequest& call, AnswerFormat& format,
                            Thinking& thinking);
  void prepare();
  void submit(std::vector<Request> requests);
  void submitted(size_t part, RequestId id);
  void on_event(size_t part_index, const Event& event);
  void take(Part& part, Choice& choice, const Event& event, Fresh& fresh);
  size_t bytes_kept_of(const Event& event) const;
  Status charge_kept(size_t bytes);
  void read_text(Choice& choice, const Event& event, Fresh& fresh);
  void stream(Part& part, size_t choice_index, const Event& event, Fresh fresh);
  void open(Part& part, Choice& choice, size_t index, Fresh& fresh);
  void send_text(const Part& part, Choice& choice, size_t index, const Fresh& fresh, bool first, bool last);
  void send_fresh(Choice& choice, size_t index, const Fresh& fresh);
  void send_delta(Choice& choice, size_t index, Json delta);
  void send_end(Choice& choice, size_t index);
  void send_chunk(Json choice);
  void finish();
  std::string whole_answer();
  Json whole_choice(Part& part, Choice& choice, size_t index);
  void fail_with(const Error& error, bool began = false);
  void end(Ending why);
  void cancel_all();
  void record();
  Usage usage() const;
  const char* finish_name(const Choice& choice) const;
  std::string call_stem(size_t index) const;

  Engine& engine_;
  ServerMetrics& metrics_;
  const std::shared_ptr<Exchange> exchange_;
  const bool chat_;
  const ClientRequest call_;  // its requests have been moved to the engine
  const AnswerHead head_;
  const AnswerWriter writer_;
  std::vector<Part> parts_;
  MemoryCharge memory_;                // of the requests, and of what is kept of the answer
  int64_t kept_ = 0;                   // bytes of the answer that are kept
  int64_t charged_kept_ = 0;           // of them charged
  std::vector<std::string> warnings_;  // of all parts, each once
  size_t done_parts_ = 0;
  bool ended_ = false;  // answered, failed or cancelled: events are ignored
  Clock::time_point begin_ = Clock::now();
  std::optional<Clock::time_point> first_token_;
};

}  // namespace weft
