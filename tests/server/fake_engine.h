// An engine without a model, for tests of the server and the commands: tokens are bytes, and an answer is the prompt
// over and over. One thread gives every running request a token per step, as a batch would; steps can be slowed down or
// held.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "api/engine.h"

namespace weft {

struct FakeOptions {
  std::chrono::microseconds step{200};
  int context = 256;
  int batch = 8;
  bool cache_events = false;  // two of them for each call, behind one that was lost
  int cache_homes = 1;        // that there are
  int queue = 512;            // waiting requests; more are refused
  std::string identity = "fake", transfer;
};

class FakeEngine : public Engine {
 public:
  static constexpr int kVocabulary = 260;  // the bytes, and four special tokens

  explicit FakeEngine(FakeOptions fake = {}, EngineOptions options = {});
  ~FakeEngine() override;

  const ModelInfo& info() const override { return info_; }
  const EngineOptions& options() const override { return options_; }
  const Tokenizer* tokenizer() const override { return nullptr; }
  const SamplingParams& default_sampling() const override { return sampling_; }
  Result<std::string> render_chat(const Request& request) const override;
  AnswerFormat answer_format(const Request&) const override { return format_; }
  Result<std::vector<int32_t>> prompt_tokens(const Request& request) const override;
  std::string decode(const std::vector<int32_t>& ids, bool skip_special) const override;
  std::string token_bytes(int32_t id) const override;
  Result<RequestId> submit(Request request, EventSink sink) override;
  Result<RequestId> submit_score(Request request, ScoreSink sink) override;
  void cancel(RequestId id) override;
  void hold() override;
  void release() override;
  Status health() const override;
  EngineWatch watch() const override;
  EngineMetrics metrics() const override;
  std::vector<OpTime> op_times(bool) const override { return {}; }
  Result<KvCacheEvents> take_kv_cache_events() override;
  Result<KvCacheEvents> read_kv_cache_events(uint64_t after, size_t limit) override;
  Status load_adapter(const std::string& name, const std::string& path) override;
  Status unload_adapter(const std::string& name) override;
  bool has_adapter(const std::string& name) const override;
  std::vector<AdapterInfo> adapters() const override;
  std::string identity() const override { return fake_.identity; }
  std::string transfer_address() const override { return fake_.transfer; }
  Result<PromptBlocks> block_keys(const Request& request) const override;
  std::string plan_text() const override { return "no plan\n"; }

  // An answer that reaches this many tokens fails (0: none does).
  void fail_after(int tokens) { fail_after_ = tokens; }
  // From now on the engine is not healthy, because of this.
  void lose_ranks(std::string why);
  // From now on a prompt with this text in it is tokenized until let_go(), or until its stop flag is set if it is
  // looked at. The others are as before.
  void hang_at(std::string text, bool looks_at_stop_flag);
  void let_go();
  int hanging() const { return hanging_; }
  int tokenized() const { return tokenized_; }  // prompts so far, those that hang among them
  // Answers to chats are this text from now on (empty: the prompt again), read in this format. Not while requests run.
  void answer_chats_with(std::string text, AnswerFormat format) { answer_ = std::move(text), format_ = format; }
  // What Request::context_servers of the last request was.
  std::vector<std::string> last_context_servers() const;
  // What Request::lora of the last request was.
  std::string last_lora() const;
  // The cache of the fake has blocks of all prompts; with EngineOptions::kv_cache_events there are events of it. This
  // drops the events before `id`.
  void forget_events_before(uint64_t id);
  // Appended to rendered chats, as a template's opening of the answer.
  void open_answers_with(std::string text) { opening_ = std::move(text); }

 protected:
  // The text of the answer to a request; empty: the prompt again, until something else ends it.
  virtual std::string answer_to(const Request& request) const { return request.messages ? answer_ : std::string(); }

 private:
  struct Running {
    RequestId id = 0;
    Request request;
    EventSink sink;
    std::vector<int32_t> prompt;
    std::string answer;  // empty: the prompt again
    int generated = 0;
    std::string pending;  // bytes of a character that is not complete
    std::string text;     // of each choice, they are all the same
    // As in the real engine: cancel() delivers the last events itself, on its caller's thread, or leaves them to the
    // delivery that it was called from.
    std::recursive_mutex delivery;  // held while events are delivered; taken before the engine's mutex
    bool delivering = false;        // guarded by it
    bool done = false;              // guarded by the engine's mutex, as is outbox
    std::deque<Event> outbox;
  };
  Status check(const Request& request, const std::vector<int32_t>& prompt) const;
  void cache_blocks_of(const Request& request, const std::vector<int32_t>& prompt);
  void loop();
  void step(Running& running);
  void deliver(Running& running);
  void emit(Running& running, int32_t token, const std::string& text, FinishReason finish, Json stop_reason,
            std::optional<Error> error = {});

  const FakeOptions fake_;
  const EngineOptions options_;
  ModelInfo info_;
  SamplingParams sampling_;
  Status hang(const Request& request, const std::string& text) const;

  std::atomic<int> fail_after_{0};
  mutable std::atomic<int> hanging_{0}, tokenized_{0};
  std::atomic<int> sequences_{0};
  std::atomic<double> progress_{0};
  mutable std::mutex hang_mutex_;  // of what follows
  mutable std::condition_variable let_go_;
  std::string hang_at_;
  bool looks_ = false;
  std::string answer_, opening_;
  AnswerFormat format_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Running>> waiting_;
  std::vector<std::shared_ptr<Running>> running_;
  RequestId next_ = 1;
  int held_ = 0;
  bool stopping_ = false;
  std::string lost_;
  EngineMetrics counts_;
  std::vector<std::string> context_servers_;
  std::map<std::string, std::string> adapters_;  // paths by name
  std::string lora_;
  std::set<std::string> cached_;     // keys of blocks
  std::deque<KvCacheEvent> events_;  // of these
  uint64_t next_event_ = 0;
  std::thread thread_;
};

// What the commands call in place of Engine::load in tests.
Result<std::unique_ptr<Engine>> load_fake_engine(const std::string& model, const EngineOptions& options,
                                                 const Progress& progress);

}  // namespace weft
