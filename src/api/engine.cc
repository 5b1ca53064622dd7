#include "api/engine.h"

#include <algorithm>
#include <future>
#include <mutex>
#include <random>
#include <unordered_map>

#include "api/beam_request.h"
#include "api/image_prompt.h"
#include "api/model_info.h"
#include "api/running_request.h"
#include "api/scores.h"
#include "api/text_side.h"
#include "base/available_memory.h"
#include "base/cpu_layout.h"
#include "base/log.h"
#include "grammar/grammar_cache.h"
#include "runtime/engine_core.h"
#include "sampling/philox.h"
#include "sampling/validate.h"

namespace weft {
namespace {

// The cache takes half of what is free, or less where all sequences at their longest need less. Memory is taken as it
// is used.
int64_t default_cache_bytes(int64_t per_token, int64_t max_seq_len, int64_t max_batch) {
  const int64_t wanted = per_token * (max_seq_len + 2 * 256) * max_batch;
  return std::clamp<int64_t>(wanted, int64_t{64} << 20,
                             std::max<int64_t>(static_cast<int64_t>(available_memory()) / 2, int64_t{64} << 20));
}

Result<std::unique_ptr<ThreadTeam>> make_team(const EngineOptions& options) {
  const CpuLayout layout = read_cpu_layout();
  const int threads = options.threads > 0 ? options.threads : default_threads(layout);
  WEFT_TRY(std::vector<std::vector<int>> places, place_threads(layout, threads, *pinning_of(options.pin_threads)));
  const bool on_nodes = layout.nodes().size() > 1 && !places[0].empty();
  return std::make_unique<ThreadTeam>(std::move(places), on_nodes);
}

constexpr int kLongestDefault = 1 << 20;  // tokens, for models that claim more

// What generation_config.json says about sampling, where it makes sense.
SamplingParams default_sampling_of(const Json& file, int vocab) {
  SamplingParams params;
  const auto read = [&](const char* key, auto SamplingParams::*field) {
    const Json* value = file.find(key);
    if (!value || value->is_null()) return;
    SamplingParams changed = params;
    if (value->is_number())
      changed.*field = static_cast<std::remove_reference_t<decltype(changed.*field)>>(value->as_number());
    if (value->is_number() && validate(changed, {.vocab_size = vocab}).ok()) params = changed;
    else log_warning("generation_config.json: ", key, " is ", value->dump(), " and ignored");
  };
  read("temperature", &SamplingParams::temperature);
  read("top_p", &SamplingParams::top_p);
  read("top_k", &SamplingParams::top_k);
  read("min_p", &SamplingParams::min_p);
  read("repetition_penalty", &SamplingParams::repetition_penalty);
  return params;
}

std::string model_name(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  std::string name = path.substr(path.find_last_of('/') + 1);
  if (name.ends_with(".gguf")) name.resize(name.size() - 5);
  return name;
}

// ---- The engine -----------------------------------------------------------------------------------------------------

class CoreEngine : public Engine {
 public:
  CoreEngine(std::unique_ptr<EngineCore> core, TextSide text, EngineOptions options, ModelInfo info)
      : core_(std::move(core)), text_(std::move(text)), options_(std::move(options)), info_(std::move(info)),
        defaults_(default_sampling_of(core_->model().checkpoint->generation_config(), info_.vocab_size)) {
    if (text_.tokenizer) step_separator_ = text_.tokenizer->find_token("<extra_0>").value_or(-1);
    if (text_.tokenizer && info_.generative)
      grammars_ = std::make_unique<GrammarCache>(std::make_unique<const GrammarFactory>(
          text_.tokenizer->handle(), info_.vocab_size, core_->model().eos_token_ids));
    if (text_.chat_template) format_ = format_of(*text_.chat_template);
  }
  ~CoreEngine() override { core_.reset(); }

  const ModelInfo& info() const override { return info_; }
  const EngineOptions& options() const override { return options_; }
  const Tokenizer* tokenizer() const override { return text_.tokenizer.get(); }
  const SamplingParams& default_sampling() const override { return defaults_; }

  Result<std::string> render_chat(const Request& request) const override {
    WEFT_TRY(const std::shared_ptr<const ChatTemplate> chat, template_of(request));
    if (!chat)
      return fail(Code::invalid_argument,
                  "the model has no chat template; send a prompt instead of messages, or a chat_template")
          .about("messages");
    const ChatTemplateOptions how{
        .add_generation_prompt = request.add_generation_prompt && !request.continue_final_message,
        .continue_final_message = request.continue_final_message};
    auto text = chat->render(*request.messages, request.tools, request.chat_template_kwargs, how);
    if (!text.ok()) return std::move(text).error().about("messages");
    return text;
  }

  AnswerFormat answer_format(const Request& request) const override {
    if (!request.chat_template) return format_;
    const auto chat = template_of(request);
    return chat.ok() ? format_of(**chat) : AnswerFormat{};  // render_chat() says what is wrong with it
  }

  Result<std::vector<int32_t>> prompt_tokens(const Request& request) const override {
    WEFT_TRY(ImagePrompt prompt, build_prompt(request));
    return std::move(prompt.tokens);
  }

  // The prompt's tokens, and its images.
  Result<ImagePrompt> build_prompt(const Request& request) const {
    const bool images = !request.images.empty() || !request.videos.empty();
    // A placeholder that a user typed into a prompt without images is the processor's to find.
    if (!images && (!text_.media || request.prompt_token_ids)) {
      WEFT_TRY(std::vector<int32_t> tokens, text_tokens(request));
      return ImagePrompt{std::move(tokens), {}, nullptr, {}};
    }
    if (!text_.media)
      return fail(Code::invalid_argument, "the model ", info_.name, " takes no images")
          .about(request.images.empty() ? "videos" : "images");
    std::string text;
    if (request.rendered) {
      text = *request.rendered;
    } else if (request.messages) {
      WEFT_TRY(text, render_chat(request));
    } else if (request.prompt) {
      text = *request.prompt;
    }
    const UrlOptions urls{.allowed_hosts = options_.allowed_media_domains};
    return image_prompt(request, text, !request.messages && request.add_special_tokens, *text_.media, *text_.tokenizer,
                        urls, core_->model());
  }

  Result<std::vector<int32_t>> text_tokens(const Request& request) const {
    if (request.prompt_token_ids) return *request.prompt_token_ids;
    if (!text_.tokenizer)
      return fail(Code::invalid_argument, "the model has no tokenizer; send prompt_token_ids")
          .about(request.messages ? "messages" : "prompt");
    if (!request.messages)
      return text_.tokenizer->encode(*request.prompt, {.add_special_tokens = request.add_special_tokens});
    // Templates write the special tokens themselves.
    if (request.rendered) return text_.tokenizer->encode(*request.rendered, {.add_special_tokens = false});
    WEFT_TRY(const std::string text, render_chat(request));
    return text_.tokenizer->encode(text, {.add_special_tokens = false});
  }

  std::string decode(const std::vector<int32_t>& ids, bool skip_special) const override {
    return text_.tokenizer ? text_.tokenizer->decode(ids, skip_special) : "";
  }
  std::string token_bytes(int32_t id) const override { return text_.tokenizer ? text_.tokenizer->token_bytes(id) : ""; }

  Result<RequestId> submit(Request request, EventSink sink) override;
  Result<RequestId> submit_score(Request request, ScoreSink sink) override;
  void cancel(RequestId id) override;
  void hold() override { core_->hold(); }
  void release() override { core_->release(); }
  EngineMetrics metrics() const override;
  std::vector<OpTime> op_times(bool decode) const override;
  Result<KvCacheEvents> take_kv_cache_events() override;
  std::string plan_text() const override { return plan_to_text(core_->model().plan, core_->model().form); }

 private:
  struct Active {
    std::shared_ptr<RunningRequest> running;  // null for scores
    std::shared_ptr<BeamRequest> beams;       // null without beam search
    ScoreSink score_sink;
    std::vector<SequenceId> sequences;
  };
  // The model's or the request's own; null if there is none.
  Result<std::shared_ptr<const ChatTemplate>> template_of(const Request& request) const {
    if (!request.chat_template) return text_.chat_template;
    return ChatTemplate::from_source(*request.chat_template,
                                     text_.chat_template ? text_.chat_template->special_tokens() : Json::object());
  }
  AnswerFormat format_of(const ChatTemplate& chat) const {
    AnswerFormat format = detect_answer_format(chat.source(), chat.tool_source());
    if (options_.reasoning_parser != "auto") format.thinks = options_.reasoning_parser == "think";
    if (const auto named = tool_format_of_name(options_.tool_call_parser)) format.tools = *named;
    return format;
  }
  Status check_prompt(const Request& request, const ImagePrompt& prompt) const;
  Status check_logits(const Request& request, int prompt_tokens, int max_tokens) const;
  std::optional<Error> start_sampling(const Request& request, const ImagePrompt& prompt, const SamplingParams& params,
                                      uint64_t seed, const Grammar* grammar, Active& active);
  std::optional<Error> start_beams(const Request& request, const ImagePrompt& prompt, const SamplingParams& params,
                                   std::unique_ptr<Grammar> grammar, Active& active);
  Result<SamplingParams> sampling_of(const Request& request, int prompt_tokens) const;
  Result<std::unique_ptr<Grammar>> grammar_of(const Request& request) const;
  CacheIdentity cache_identity(const Request& request, const ImagePrompt& prompt) const;
  void forget(RequestId id);

  std::unique_ptr<EngineCore> core_;
  TextSide text_;
  const EngineOptions options_;
  const ModelInfo info_;
  const SamplingParams defaults_;
  int32_t step_separator_ = -1;  // of process reward models
  std::unique_ptr<GrammarCache> grammars_;
  AnswerFormat format_;  // of the model's own template

  mutable std::mutex mutex_;  // guards what follows; never held while calling the core or a sink
  std::unordered_map<RequestId, std::shared_ptr<Active>> active_;
  RequestId next_id_ = 1;
  EngineMetrics counts_;
  std::mutex events_mutex_;  // of the next member; held while events are taken, so that they are counted in their order
  uint64_t first_wanted_event_ = 0;
};

Status CoreEngine::check_prompt(const Request& request, const ImagePrompt& whole) const {
  const std::vector<int32_t>& prompt = whole.tokens;
  const char* field = request.prompt_token_ids ? "prompt_token_ids" : request.messages ? "messages" : "prompt";
  if (prompt.empty()) return fail(Code::invalid_argument, "the prompt is empty").about(field);
  // the image's token has a row in the table, behind the logits' rows
  const bool cross = whole.places && !whole.places->cross.empty();
  size_t span = 0;  // places of features hold ids that may lie behind the vocabulary
  for (size_t i = 0; i < prompt.size(); ++i) {
    while (whole.places && span < whole.places->spans.size() &&
           static_cast<int>(i) >= whole.places->spans[span].position + whole.places->spans[span].count)
      ++span;
    const bool in_vocabulary = prompt[i] >= 0 && prompt[i] < info_.vocab_size;
    if (in_vocabulary ||
        (cross && prompt[i] >= 0 && prompt[i] < info_.vocab_size + 8 && request.sampling.prompt_logprobs < 0))
      continue;
    if (whole.places && span < whole.places->spans.size() &&
        static_cast<int>(i) >= whole.places->spans[span].position) {
      if (request.sampling.prompt_logprobs < 0) continue;
      return fail(Code::unsupported, "prompt_logprobs are not available here: the image's token ", prompt[i],
                  " has no logit")
          .about("prompt_logprobs");
    }
    return fail(Code::invalid_argument, "token id ", prompt[i], " is outside the vocabulary of ", info_.vocab_size)
        .about(field);
  }
  if (static_cast<int>(prompt.size()) > info_.max_seq_len)
    return fail(Code::invalid_argument, "the prompt has ", prompt.size(), " tokens, the context ", info_.max_seq_len)
        .about(field);
  return {};
}

// Logits are returned whole, so that what a request can bring together is bounded.
Status CoreEngine::check_logits(const Request& request, int prompt_tokens, int max_tokens) const {
  constexpr int64_t kMost = int64_t{1} << 26;
  const auto check = [&](const char* field, int64_t rows) -> Status {
    if (rows * info_.vocab_size <= kMost) return {};
    return fail(Code::invalid_argument, field, " would bring ", rows, " rows of ", info_.vocab_size,
                " values; at most ", kMost, " values can be returned")
        .about(field);
  };
  const SamplingParams& p = request.sampling;
  if (p.context_logits) WEFT_RETURN_IF_ERROR(check("return_context_logits", prompt_tokens));
  if (p.generation_logits)
    WEFT_RETURN_IF_ERROR(check("return_generation_logits", int64_t{max_tokens} * std::max(request.n, request.best_of)));
  return {};
}

Result<SamplingParams> CoreEngine::sampling_of(const Request& request, int prompt_tokens) const {
  SamplingParams params = request.sampling;
  const int room = info_.max_seq_len - prompt_tokens;
  if (room < 1)
    return fail(Code::invalid_argument, "the prompt has ", prompt_tokens,
                " tokens and leaves no room for an answer in the context of ", info_.max_seq_len)
        .about("max_tokens");
  params.max_tokens = request.max_tokens.value_or(room);
  params.eos_token_ids = core_->model().eos_token_ids;
  WEFT_RETURN_IF_ERROR(validate(params, {.vocab_size = info_.vocab_size}));
  if (const auto made = create_processors(core_->options().processors, params.logits_processors, info_.vocab_size);
      !made.ok())
    return made.error();
  params.max_tokens = std::min(params.max_tokens, room);
  return params;
}

Result<std::unique_ptr<Grammar>> CoreEngine::grammar_of(const Request& request) const {
  if (request.guide.kind == GuideSpec::Kind::none) return std::unique_ptr<Grammar>();
  if (!grammars_)
    return fail(Code::invalid_argument, "the model has no tokenizer, so its output cannot be guided")
        .about("response_format");
  using Kind = GrammarSpec::Kind;
  static constexpr Kind kinds[] = {Kind::json_object, Kind::json_object, Kind::json_schema,   Kind::regex,
                                   Kind::ebnf,        Kind::choice,      Kind::structural_tag};
  static_assert(std::size(kinds) == static_cast<size_t>(GuideSpec::Kind::structural_tag) + 1);
  GrammarSpec spec{kinds[static_cast<int>(request.guide.kind)], request.guide.text, request.guide.choices};
  if (request.rendered) spec.thinking = thinking_of(answer_format(request), request, *request.rendered);
  auto grammar = grammars_->get(spec);
  if (!grammar.ok()) return std::move(grammar).error().about("response_format");
  return grammar;
}

CacheIdentity CoreEngine::cache_identity(const Request& request, const ImagePrompt& prompt) const {
  CacheIdentity identity;
  identity.content = prompt.content;
  identity.salt = request.cache_salt;
  if (request.priority != kDefaultPriority) {
    identity.retention.ranges.push_back({0, -1, request.priority, 0});
    identity.retention.decode_priority = request.priority;
  }
  return identity;
}

void CoreEngine::forget(RequestId id) {
  const std::lock_guard lock(mutex_);
  active_.erase(id);
}

Result<RequestId> CoreEngine::submit(Request request, EventSink sink) {
  if (!info_.generative)
    return fail(Code::invalid_argument, info_.architecture, " does not generate text; use classify, score or reward")
        .about("model");
  if (request.messages && !request.rendered) {
    WEFT_TRY(request.rendered, render_chat(request));
  }
  WEFT_TRY(const ImagePrompt whole, build_prompt(request));
  const std::vector<int32_t>& prompt = whole.tokens;
  WEFT_RETURN_IF_ERROR(check_prompt(request, whole));
  WEFT_RETURN_IF_ERROR(check_image_types(request, whole, core_->model().plan));
  WEFT_TRY(SamplingParams params, sampling_of(request, static_cast<int>(prompt.size())));
  WEFT_TRY(std::unique_ptr<Grammar> grammar, grammar_of(request));
  WEFT_RETURN_IF_ERROR(check_logits(request, static_cast<int>(prompt.size()), params.max_tokens));
  if (request.beams) WEFT_RETURN_IF_ERROR(check_beams(request));
  const int choices = request.beams ? request.n : std::max(request.n, request.best_of);
  uint64_t seed = options_.seed >= 0 ? static_cast<uint64_t>(options_.seed)
                                     : (uint64_t{std::random_device{}()} << 21) ^ std::random_device{}();
  if (request.seed) seed = *request.seed;

  RunningRequest::Setup setup{choices,
                              request.n,
                              prompt,
                              request.stop,
                              request.include_stop_str_in_output,
                              request.skip_special_tokens,
                              request.kept_special_tokens,
                              params.logprobs >= 0,
                              params.stop_token_ids,
                              seed,
                              params.prompt_logprobs >= 0 || params.context_logits,
                              params.context_logits ? prompt.size() * static_cast<size_t>(info_.vocab_size) : 0};
  if (choices > request.n) params.logprobs = std::max(params.logprobs, 0);
  RequestId id = 0;
  auto active = std::make_shared<Active>();
  {
    const std::lock_guard lock(mutex_);
    id = next_id_++;
    ++counts_.requests;
    active_[id] = active;
  }
  active->running = std::make_shared<RunningRequest>(
      std::move(setup), text_.tokenizer, [this, id, sink = std::move(sink)](const Event& event) {
        if (event.last_of_request) {
          const std::lock_guard lock(mutex_);
          active_.erase(id);
          counts_.prompt_tokens += event.usage.prompt_tokens, counts_.cached_tokens += event.usage.cached_tokens;
          counts_.generation_tokens += event.usage.completion_tokens;
          ++(event.finish == FinishReason::error       ? counts_.requests_failed
             : event.finish == FinishReason::cancelled ? counts_.requests_cancelled
                                                       : counts_.requests_finished);
        }
        sink(event);
      });

  const std::optional<Error> error = request.beams
                                         ? start_beams(request, whole, params, std::move(grammar), *active)
                                         : start_sampling(request, whole, params, seed, grammar.get(), *active);
  if (!error) return id;
  forget(id);
  return *error;
}

// One sequence per choice; they enter together.
std::optional<Error> CoreEngine::start_sampling(const Request& request, const ImagePrompt& whole,
                                                const SamplingParams& params, uint64_t seed, const Grammar* grammar,
                                                Active& active) {
  core_->hold();
  std::optional<Error> error;
  for (int i = 0; i < std::max(request.n, request.best_of) && !error; ++i) {
    SamplingParams own = params;
    own.seed = derive_seed(seed, static_cast<uint64_t>(i));
    if (i > 0) own.prompt_logprobs = -1, own.context_logits = false;
    Submission submission;
    submission.sequence.prompt = whole.tokens;
    submission.sequence.sampling = std::make_shared<const SamplingParams>(std::move(own));
    submission.sequence.priority = request.priority;
    submission.sequence.cache = cache_identity(request, whole);
    submission.media = whole.media;
    if (whole.places) submission.media_prompt = std::make_shared<MediaPrompt>(*whole.places);
    if (grammar) submission.grammar = grammar->clone();
    submission.sink = [running = active.running, i](const SequenceOutput& output) {
      return running->on_output(i, output);
    };
    auto added = core_->submit(std::move(submission));
    if (!added.ok()) error = added.error();
    else {
      const std::lock_guard lock(mutex_);
      active.sequences.push_back(*added);
    }
  }
  if (error)
    for (SequenceId sequence : active.sequences) core_->cancel(sequence);
  core_->release();
  return error;
}

std::optional<Error> CoreEngine::start_beams(const Request& request, const ImagePrompt& whole,
                                             const SamplingParams& params, std::unique_ptr<Grammar> grammar,
                                             Active& active) {
  BeamRequest::Setup setup;
  setup.prompt = whole.tokens, setup.media = whole.media, setup.places = whole.places;
  setup.params = params, setup.shown = request.n, setup.priority = request.priority;
  setup.cache = cache_identity(request, whole), setup.grammar = std::move(grammar);
  setup.beams = {request.beams->width, request.beams->length_penalty, request.beams->early_stopping,
                 params.max_tokens,    params.stop_token_ids,         std::max(0, params.logprobs)};
  for (int32_t id : params.eos_token_ids)
    if (!params.ignore_eos &&
        std::find(setup.beams.end_ids.begin(), setup.beams.end_ids.end(), id) == setup.beams.end_ids.end())
      setup.beams.end_ids.push_back(id);
  {
    const std::lock_guard lock(mutex_);
    active.beams = std::make_shared<BeamRequest>(*core_, std::move(setup), active.running);
  }
  Status started = active.beams->start();
  if (started.ok()) return std::nullopt;
  return std::move(started).error();
}

Result<RequestId> CoreEngine::submit_score(Request request, ScoreSink sink) {
  WEFT_TRY(ImagePrompt images, build_prompt(request));
  const Plan& plan = core_->model().plan;
  WEFT_RETURN_IF_ERROR(check_image_types(request, images, plan));
  WEFT_TRY(ScorePrompt whole, score_prompt(request, std::move(images.tokens), text_.tokenizer.get(), plan));
  images.tokens = std::move(whole.tokens);
  WEFT_RETURN_IF_ERROR(check_prompt(request, images));
  const std::vector<int32_t> prompt = images.tokens;
  RequestId id = 0;
  auto active = std::make_shared<Active>();
  active->score_sink = sink;
  {
    const std::lock_guard lock(mutex_);
    id = next_id_++;
    ++counts_.requests;
    active_[id] = active;
  }
  Submission submission;
  submission.sequence.prompt = prompt;
  submission.sequence.task = Task::score;
  submission.sequence.score_rows = score_rows(plan.head);
  submission.sequence.whole = !plan.local_groups.empty();
  submission.sequence.token_types = std::move(whole.types);
  submission.sequence.priority = request.priority;
  submission.sequence.cache = cache_identity(request, images);
  submission.media = images.media, submission.media_prompt = images.places;
  submission.sink = [this, id, &plan, sink = std::move(sink), prompt, images = std::move(images),
                     rows = std::vector<float>()](const SequenceOutput& output) mutable {
    rows.insert(rows.end(), output.outputs.begin(), output.outputs.end());
    if (output.reason == FinishReason::none) return true;
    {
      const std::lock_guard lock(mutex_);
      active_.erase(id);
      counts_.prompt_tokens += static_cast<int64_t>(prompt.size());
      ++(output.reason == FinishReason::error ? counts_.requests_failed : counts_.requests_finished);
    }
    if (output.reason == FinishReason::error) {
      sink(Error(Code::internal, output.error));
      return false;
    }
    ScoreResult result = score_result(prompt, std::move(rows), plan.output.cols, plan.head, step_separator_);
    if (images.places) add_images(result, *text_.media, images);
    sink(std::move(result));
    return false;
  };
  auto added = core_->submit(std::move(submission));
  if (!added.ok()) {
    forget(id);
    return std::move(added).error();
  }
  const std::lock_guard lock(mutex_);
  active->sequences.push_back(*added);
  return id;
}

void CoreEngine::cancel(RequestId id) {
  std::shared_ptr<Active> active;
  std::shared_ptr<BeamRequest> beams;
  std::vector<SequenceId> sequences;
  {
    const std::lock_guard lock(mutex_);
    const auto found = active_.find(id);
    if (found == active_.end()) return;
    active = found->second;
    sequences = active->sequences, beams = active->beams;
  }
  for (SequenceId sequence : sequences) core_->cancel(sequence);
  if (beams) beams->cancel();
  if (active->running) return active->running->cancel();
  forget(id);
  active->score_sink(Error(Code::cancelled, "the request was cancelled"));
}

EngineMetrics CoreEngine::metrics() const {
  const CoreMetrics core = core_->metrics();
  EngineMetrics m;
  {
    const std::lock_guard lock(mutex_);
    m = counts_;
  }
  m.preemptions = static_cast<int64_t>(core.scheduler.preemptions),
  m.steps = static_cast<int64_t>(core.scheduler.steps);
  m.running = core.scheduler.running, m.waiting = core.scheduler.waiting;
  for (const CacheGauges& gauges : core.cache)
    m.blocks_total += gauges.max_blocks, m.blocks_used += gauges.used, m.blocks_cached += gauges.cached;
  m.prefill_budget = core.prefill_budget, m.sample_seconds = core.sample_seconds;
  m.mask_p50_seconds = core.mask_p50_seconds, m.mask_p99_seconds = core.mask_p99_seconds;
  m.images_encoded = static_cast<int64_t>(core.images_encoded),
  m.images_reused = static_cast<int64_t>(core.images_reused);
  m.step_seconds = core.step_seconds, m.idle_gap_seconds = core.idle_gap_seconds;
  if (grammars_) {
    const GrammarCacheMetrics g = grammars_->metrics();
    m.grammar_hits = g.hits, m.grammar_misses = g.misses, m.grammar_evictions = g.evictions,
    m.grammar_failures = g.failures;
    m.grammar_entries = g.entries, m.grammar_bytes = g.bytes, m.grammar_compile_seconds = g.compile_seconds;
  }
  return m;
}

std::vector<OpTime> CoreEngine::op_times(bool decode) const {
  const OpTimes* times = core_->op_times();
  return times ? times->read(decode) : std::vector<OpTime>();
}

Result<KvCacheEvents> CoreEngine::take_kv_cache_events() {
  if (options_.kv_cache_events == 0)
    return fail(Code::invalid_argument,
                "events of the KV cache are not recorded; start with --kv-cache-events N to keep the last N");
  const std::lock_guard lock(events_mutex_);
  auto [taken, next] = core_->take_cache_events();
  KvCacheEvents result;
  result.next_id = next;
  result.lost = (taken.empty() ? next : taken.front().id) - first_wanted_event_;
  first_wanted_event_ = next;
  for (CacheEvent& event : taken) {
    const bool stored = event.kind == CacheEvent::Kind::stored;
    result.events.push_back(
        {event.id, stored, event.group, event.key.hex(), stored ? event.parent.hex() : "", std::move(event.tokens)});
  }
  return result;
}

}  // namespace

Thinking thinking_of(const AnswerFormat& format, const Request& request, std::string_view rendered) {
  std::optional<std::string_view> continued;
  if (request.continue_final_message && request.messages && !request.messages->items().empty()) {
    const Json* content = request.messages->items().back().find("content");
    if (content && content->is_string()) continued = content->as_string();
  }
  return thinking_after(format.thinks, rendered, continued);
}

namespace {

// Prompt tokens of a step. 512 rows are as many as products can use; experts each get a few of a step's rows only, and
// their weights are read for these.
int prefill_tokens(const EngineOptions& options, const Model& model) {
  constexpr int kDefault = 512;
  if (!options.enable_chunked_prefill) return options.max_num_tokens;
  if (options.chunked_prefill_size > 0) return options.chunked_prefill_size;
  const bool experts = std::any_of(model.plan.ops.begin(), model.plan.ops.end(),
                                   [](const Op& op) { return std::holds_alternative<ExpertsOp>(op.kind); });
  return experts ? options.max_num_tokens : kDefault;
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::load(const std::string& path, const EngineOptions& options,
                                             const Progress& progress) {
  WEFT_RETURN_IF_ERROR(check_options(options));
  WEFT_TRY(ProcessorKinds processors, load_logits_plugins(options.logits_processors, options.logits_processor_kinds));
  // The tokenizer takes about as long as the weights, so both are read at once.
  auto text_side = std::async(std::launch::async, load_text, path);
  WEFT_TRY(std::unique_ptr<ThreadTeam> team, make_team(options));
  const int threads = team->size();
  WEFT_TRY(Model model, load_model(path, *team,
                                   {.dtype = options.dtype,
                                    .kv_dtype = options.kv_cache_dtype,
                                    .dummy = options.load_format == "dummy",
                                    .quantize = *quantize_of(options.quantize),
                                    .dequantize = options.dequantize,
                                    .pack_weights = *pack_weights_of(options.pack_weights),
                                    .progress = progress}));
  WEFT_TRY(TextSide text, text_side.get());

  if (options.max_seq_len > model.max_positions)
    return fail(Code::invalid_argument, "--max-seq-len ", options.max_seq_len, " is more than the model's ",
                model.max_positions)
        .about("max-seq-len");
  CoreOptions core{
      .max_batch_size = options.max_batch_size,
      .max_num_tokens = options.max_num_tokens,
      .max_outputs = std::max(options.max_batch_size, 256),
      .max_seq_len = options.max_seq_len > 0 ? options.max_seq_len : std::min(model.max_positions, kLongestDefault),
      .tokens_per_block = options.tokens_per_block,
      .cache_bytes = options.kv_cache_memory,
      .cache_events = options.kv_cache_events,
      .prefill_tokens = prefill_tokens(options, model),
      .max_step_ms = options.max_step_ms,
      .chunked_prefill = options.enable_chunked_prefill,
      .block_reuse = options.enable_block_reuse,
      .overlap = options.overlap_scheduler,
      .replay = options.cuda_graph,
      .measure_ops = options.measure_ops,
      .sampler = options.sampler == "reference" ? SamplerKind::reference : SamplerKind::fused,
      .processors = std::move(processors),
      .trace = options.trace};
  if (core.cache_bytes == 0)
    core.cache_bytes = default_cache_bytes(model.kv_bytes_per_token(), core.max_seq_len, core.max_batch_size);

  ModelInfo info = describe(model);
  info.name = model_name(path), info.path = path, info.threads = threads;
  info.kv_cache_bytes = core.cache_bytes;
  if (model.plan.head == HeadKind::classify_first) info.labels = label_names(model.checkpoint->config());
  info.takes_images = text.media != nullptr && model.vision.has_value();
  if (!info.takes_images) text.media.reset();
  info.has_chat_template = text.chat_template != nullptr;
  WEFT_TRY(std::unique_ptr<EngineCore> running, EngineCore::create(std::move(model), std::move(team), core));
  info.max_seq_len = running->options().max_seq_len;
  if (info.max_seq_len < options.max_seq_len)
    return fail(Code::resource_exhausted, "--max-seq-len ", options.max_seq_len, " does not fit: the KV cache of ",
                core.cache_bytes, " bytes holds ", info.max_seq_len, " tokens of one sequence; raise --kv-cache-memory")
        .about("max-seq-len");
  return std::unique_ptr<Engine>(
      std::make_unique<CoreEngine>(std::move(running), std::move(text), options, std::move(info)));
}

}  // namespace weft
