// The engine behind api/engine.h: texts, images and grammars around an EngineCore. Made by Engine::load() (load.cc);
// prompts and their checks are in engine_prompt.cc, what other
// servers of a deployment ask for in engine_cluster.cc, the rest in engine.cc.
#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "api/beam_request.h"
#include "api/engine.h"
#include "api/image_prompt.h"
#include "api/running_request.h"
#include "api/text_side.h"
#include "grammar/grammar_cache.h"
#include "runtime/engine_core.h"

namespace weft {

class CoreEngine : public Engine {
 public:
  // `defaults`: what requests begin with.
  CoreEngine(std::unique_ptr<EngineCore> core, TextSide text, EngineOptions options, ModelInfo info,
             SamplingParams defaults);
  ~CoreEngine() override;

  const ModelInfo& info() const override { return info_; }
  const EngineOptions& options() const override { return options_; }
  const Tokenizer* tokenizer() const override { return text_.tokenizer.get(); }
  const SamplingParams& default_sampling() const override { return defaults_; }

  Result<std::string> render_chat(const Request& request) const override;
  AnswerFormat answer_format(const Request& request) const override;
  Result<std::vector<int32_t>> prompt_tokens(const Request& request) const override;
  std::string decode(const std::vector<int32_t>& ids, bool skip_special) const override;
  std::string token_bytes(int32_t id) const override;

  Result<RequestId> submit(Request request, EventSink sink) override;
  Result<RequestId> submit_score(Request request, ScoreSink sink) override;
  void cancel(RequestId id) override;
  void hold() override { core_->hold(); }
  void release() override { core_->release(); }
  Status health() const override { return core_->health(); }
  EngineWatch watch() const override { return core_->watch(); }
  int retry_seconds() const override { return core_->retry_seconds(); }
  EngineMetrics metrics() const override;
  std::vector<OpTime> op_times(bool decode) const override;
  Result<KvCacheEvents> take_kv_cache_events() override;
  Result<KvCacheEvents> read_kv_cache_events(uint64_t after, size_t limit) override;
  Status load_adapter(const std::string& name, const std::string& path) override;
  Status unload_adapter(const std::string& name) override;
  bool has_adapter(const std::string& name) const override { return core_->adapters() && core_->adapters()->has(name); }
  std::vector<AdapterInfo> adapters() const override;
  std::string identity() const override;
  std::string transfer_address() const override { return core_->transfer_address(); }
  Result<PromptBlocks> block_keys(const Request& request) const override;
  std::string plan_text() const override;

 private:
  struct Active {
    std::shared_ptr<RunningRequest> running;  // null for scores
    std::shared_ptr<BeamRequest> beams;       // null without beam search
    ScoreSink score_sink;
    std::vector<SequenceId> sequences;
    bool cancelled = false;  // sequences that enter later are to be cancelled at once
  };
  // A request that was found to be right, ready to enter the core.
  struct Checked {
    ImagePrompt prompt;   // without its tokens
    SharedTokens tokens;  // of the prompt
    SamplingParams params;
    std::unique_ptr<Grammar> grammar;  // may be null
    AdapterLease adapter;
    uint64_t seed = 0;
    double deadline = 0;  // see Submission
  };

  // engine_prompt.cc
  Result<std::shared_ptr<const ChatTemplate>> template_of(const Request& request) const;
  AnswerFormat format_of(const ChatTemplate& chat) const;
  Status check_tool_names(const Request& request) const;
  // `media`: the request's images, where they are prepared already.
  Result<std::string> render(const Request& request, std::span<const PreparedMedia> media) const;
  // `fits`: a text with far more tokens than the context is not encoded to its end, and is an error.
  Result<ImagePrompt> build_prompt(const Request& request, bool fits = true) const;
  Result<std::vector<int32_t>> text_tokens(const Request& request, bool fits) const;
  Result<std::vector<int32_t>> encode_prompt(const Request& request, const std::string& text, bool add_special_tokens,
                                             bool fits) const;
  Status check_prompt(const Request& request, const ImagePrompt& prompt) const;

  // engine.cc
  Result<double> admit(Request& request) const;
  Result<Checked> check(Request& request) const;
  Status check_logits(const Request& request, int prompt_tokens, int max_tokens) const;
  std::vector<std::pair<int32_t, size_t>> special_stops(const Request& request) const;
  Result<SamplingParams> sampling_of(const Request& request, int prompt_tokens) const;
  Result<std::unique_ptr<Grammar>> grammar_of(const Request& request) const;
  CacheIdentity cache_identity(const Request& request, const ImagePrompt& prompt, const AdapterLease& adapter) const;
  RunningRequest::Setup running_setup(const Request& request, const Checked& checked) const;
  RequestId enter(const std::shared_ptr<Active>& active);
  void leave(RequestId id, const Event& last);
  void forget(RequestId id);
  class Entered;
  Result<RequestId> submit_request(Request request, EventSink sink);
  Result<RequestId> submit_scoring(Request request, ScoreSink sink);
  Status start_sampling(const Request& request, Checked checked, RequestId id, Active& active);
  std::vector<Submission> choices_of(const Request& request, Checked checked, RequestId id, const Active& active) const;
  Status start_beams(const Request& request, Checked checked, RequestId id, Active& active);
  bool leave_score(RequestId id, const ImagePrompt& prompt, const SequenceOutput& output);
  // What came for a score so far.
  struct Scored {
    std::vector<float> rows;
    std::vector<RowResult::DraftScores> drafts;
  };
  Result<ScoreResult> end_of_score(const ImagePrompt& prompt, Scored scored, const SequenceOutput& output) const;

  Status fetch_events();
  KvCacheEvents events_from(uint64_t after, size_t limit) const;

  std::unique_ptr<EngineCore> core_;
  TextSide text_;
  MediaAccount media_account_;
  const EngineOptions options_;
  const ModelInfo info_;
  const SamplingParams defaults_;
  int32_t step_separator_ = -1;  // of process reward models
  std::unique_ptr<GrammarCache> grammars_;
  AnswerFormat format_;  // of the model's own template

  mutable std::mutex mutex_;  // guards what follows; never held while calling the core or a sink
  std::unordered_map<RequestId, std::shared_ptr<Active>> active_;
  RequestId next_id_ = 1;
  RequestMetrics counts_;
  std::mutex events_mutex_;          // of the next members
  std::deque<KvCacheEvent> events_;  // that have been fetched from the core, for its readers; without a gap
  uint64_t next_event_ = 0;          // to be fetched
  int event_homes_ = 1;              // that they are of
  uint64_t first_wanted_event_ = 0;  // of take_kv_cache_events()
};

}  // namespace weft
