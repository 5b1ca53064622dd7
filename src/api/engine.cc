#include "api/core_engine.h"

#include <algorithm>
#include <functional>
#include <random>

#include "api/scores.h"
#include "base/clock.h"
#include "sampling/philox.h"
#include "sampling/validate.h"

namespace weft {

namespace {

// By which the scheduler tells clients apart; 0: nobody's, and so a request of its own.
uint64_t client_number(const Request& request) {
  return request.client.empty() ? 0 : std::hash<std::string>()(request.client) | 1;
}

}  // namespace

CoreEngine::CoreEngine(std::unique_ptr<EngineCore> core, TextSide text, EngineOptions options, ModelInfo info,
                       SamplingParams defaults)
    : core_(std::move(core)), text_(std::move(text)), media_account_(options.media_limits.max_held_bytes),
      options_(std::move(options)), info_(std::move(info)), defaults_(std::move(defaults)) {
  if (text_.tokenizer) step_separator_ = text_.tokenizer->find_token("<extra_0>").value_or(-1);
  if (text_.tokenizer && info_.generative)
    grammars_ = std::make_unique<GrammarCache>(std::make_unique<const GrammarFactory>(
        text_.tokenizer->handle(), info_.vocab_size, core_->model().eos_token_ids));
  if (text_.chat_template) format_ = format_of(*text_.chat_template);
}

CoreEngine::~CoreEngine() { core_.reset(); }

// ---- Checks ---------------------------------------------------------------------------------------------------------

// Logits are returned whole, so that what a request can bring together is bounded.
Status CoreEngine::check_logits(const Request& request, int prompt_tokens, int max_tokens) const {
  const auto check = [&](const char* field, int64_t rows) {
    return check_limit(options_.limits, &RequestLimits::logits, rows * info_.vocab_size, field);
  };
  const SamplingParams& p = request.sampling;
  if (p.context_logits) WEFT_RETURN_IF_ERROR(check("return_context_logits", prompt_tokens));
  if (p.generation_logits)
    WEFT_RETURN_IF_ERROR(check("return_generation_logits", int64_t{max_tokens} * std::max(request.n, request.best_of)));
  return {};
}

// Stop strings that name a special token, with that token: its text is not shown, so only the token can be looked for.
std::vector<std::pair<int32_t, size_t>> CoreEngine::special_stops(const Request& request) const {
  std::vector<std::pair<int32_t, size_t>> found;
  if (!text_.tokenizer || !request.skip_special_tokens) return found;
  for (size_t i = 0; i < request.stop.size(); ++i) {
    const std::string& stop = request.stop[i];
    const auto id = text_.tokenizer->find_token(stop);
    const bool shown = std::ranges::find(request.kept_special_tokens, stop) != request.kept_special_tokens.end();
    if (id && *id < info_.vocab_size && text_.tokenizer->is_special(*id) && !shown) found.emplace_back(*id, i);
  }
  return found;
}

Result<SamplingParams> CoreEngine::sampling_of(const Request& request, int prompt_tokens) const {
  SamplingParams params = request.sampling;
  const int room = info_.max_seq_len - prompt_tokens;
  if (room < 1) return context_exceeded(prompt_tokens, info_.max_seq_len, request.messages ? "messages" : "prompt");
  params.max_tokens = request.max_tokens.value_or(room);
  params.eos_token_ids = core_->model().eos_token_ids;
  for (const auto& [id, stop] : special_stops(request)) params.stop_token_ids.push_back(id);
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
  spec.strict_schemas = options_.strict_schemas;
  if (request.rendered) spec.thinking = thinking_of(answer_format(request), request, *request.rendered);
  auto grammar = grammars_->get(spec, request.stop_flag.get());
  if (!grammar.ok()) return std::move(grammar).error().about("response_format");
  return grammar;
}

CacheIdentity CoreEngine::cache_identity(const Request& request, const ImagePrompt& prompt,
                                         const AdapterLease& adapter) const {
  CacheIdentity identity;
  identity.adapter = adapter_identity(adapter);
  identity.content = prompt.content;
  identity.salt = request.cache_salt;
  if (request.priority != kDefaultPriority) {
    identity.retention.ranges.push_back({0, -1, request.priority, 0});
    identity.retention.decode_priority = request.priority;
  }
  return identity;
}

Result<CoreEngine::Checked> CoreEngine::check(Request& request) const {
  if (!info_.generative)
    return fail(Code::invalid_argument, info_.architecture, " does not generate text; use classify, score or reward")
        .about("model");
  if (request.messages && !request.rendered) {
    WEFT_TRY(request.rendered, render_chat(request));
  }
  Checked checked;
  WEFT_TRY(checked.prompt, build_prompt(request));
  const int tokens = static_cast<int>(checked.prompt.tokens.size());
  WEFT_RETURN_IF_ERROR(check_prompt(request, checked.prompt));
  const int choices = std::max({request.n, request.best_of, request.beams ? request.beams->width : 1});
  WEFT_RETURN_IF_ERROR(check_limit(options_.limits, &RequestLimits::prompt_tokens, int64_t{tokens} * choices,
                                   request.messages ? "messages" : "prompt"));
  WEFT_RETURN_IF_ERROR(check_image_types(request, checked.prompt, core_->model().plan()));
  WEFT_TRY(checked.params, sampling_of(request, tokens));
  WEFT_TRY(checked.grammar, grammar_of(request));
  WEFT_RETURN_IF_ERROR(check_logits(request, tokens, checked.params.max_tokens));
  if (request.beams) WEFT_RETURN_IF_ERROR(check_beams(request));
  WEFT_TRY(checked.adapter, core_->use_adapter(request.lora));
  checked.tokens = std::move(checked.prompt.tokens);
  if (request.seed) checked.seed = *request.seed;
  else if (options_.seed >= 0) checked.seed = static_cast<uint64_t>(options_.seed);
  else checked.seed = (uint64_t{std::random_device{}()} << 21) ^ std::random_device{}();
  return checked;
}

// ---- Requests in, events out ----------------------------------------------------------------------------------------

RequestId CoreEngine::enter(const std::shared_ptr<Active>& active) {
  const std::lock_guard lock(mutex_);
  ++counts_.entered;
  active_[next_id_] = active;
  return next_id_++;
}

void CoreEngine::leave(RequestId id, const Event& last) {
  const std::lock_guard lock(mutex_);
  if (active_.erase(id) == 0) return;  // its sink found no memory and is called again
  counts_.prompt_tokens += last.usage.prompt_tokens, counts_.cached_tokens += last.usage.cached_tokens;
  counts_.generation_tokens += last.usage.completion_tokens;
  ++(last.finish == FinishReason::error       ? counts_.failed
     : last.finish == FinishReason::cancelled ? counts_.cancelled
                                              : counts_.finished);
}

// Of a request that never started: it is neither finished nor failed.
void CoreEngine::forget(RequestId id) {
  const std::lock_guard lock(mutex_);
  active_.erase(id);
}

// Forgets the request unless it is kept.
class CoreEngine::Entered {
 public:
  Entered(CoreEngine& engine, RequestId id) : engine_(&engine), id_(id) {}
  ~Entered() {
    if (engine_) engine_->forget(id_);
  }
  Entered(const Entered&) = delete;
  Entered& operator=(const Entered&) = delete;
  void keep() { engine_ = nullptr; }

 private:
  CoreEngine* engine_;
  const RequestId id_;
};

RunningRequest::Setup CoreEngine::running_setup(const Request& request, const Checked& checked) const {
  const SamplingParams& params = checked.params;
  const SharedTokens& prompt = checked.tokens;
  return {.choices = request.beams ? request.n : std::max(request.n, request.best_of),
          .shown = request.n,
          .prompt = prompt,
          .stop = request.stop,
          .include_stop = request.include_stop_str_in_output,
          .skip_special = request.skip_special_tokens,
          .kept_special = request.kept_special_tokens,
          .show_logprobs = params.logprobs >= 0,
          .request_stop_ids = params.stop_token_ids,
          .special_stops = special_stops(request),
          .seed = checked.seed,
          .warnings = checked.grammar ? checked.grammar->warnings() : std::vector<std::string>(),
          .prompt_results = params.prompt_logprobs >= 0 || params.context_logits,
          .context_logits = params.context_logits ? prompt.size() * static_cast<size_t>(info_.vocab_size) : 0};
}

// Whether the queue takes one more, before anything is made of it; and until when the request may take.
Result<double> CoreEngine::admit(Request& request) const {
  const AdmissionLimits& limits = options_.admission;
  WEFT_RETURN_IF_ERROR(core_->check_queue(client_number(request)));
  request.priority = std::min(request.priority, limits.max_client_priority);
  double most = request.timeout_s;
  if (limits.request_timeout_s > 0)
    most = most > 0 ? std::min(most, limits.request_timeout_s) : limits.request_timeout_s;
  return most > 0 ? seconds() + most : 0;
}

Result<RequestId> CoreEngine::submit(Request request, EventSink sink) {
  try {
    return submit_request(std::move(request), std::move(sink));
  } catch (const std::bad_alloc&) {
    return Error(Code::resource_exhausted, "memory ran out for the request");
  }
}

Result<RequestId> CoreEngine::submit_request(Request request, EventSink sink) {
  WEFT_TRY(const double deadline, admit(request));
  WEFT_TRY(Checked checked, check(request));
  checked.deadline = deadline;
  RunningRequest::Setup setup = running_setup(request, checked);
  if (setup.choices > setup.shown) checked.params.logprobs = std::max(checked.params.logprobs, 0);
  const auto active = std::make_shared<Active>();
  const RequestId id = enter(active);
  Entered entered(*this, id);
  active->running = std::make_shared<RunningRequest>(std::move(setup), text_.tokenizer,
                                                     [this, id, sink = std::move(sink)](const Event& event) {
                                                       if (event.last_of_request) leave(id, event);
                                                       sink(event);
                                                     });
  WEFT_RETURN_IF_ERROR(request.beams ? start_beams(request, std::move(checked), id, *active)
                                     : start_sampling(request, std::move(checked), id, *active));
  entered.keep();
  return id;
}

// One sequence per choice. They share all that is the same for all of them.
std::vector<Submission> CoreEngine::choices_of(const Request& request, Checked checked, RequestId id,
                                               const Active& active) const {
  const auto params = std::make_shared<const SamplingParams>(std::move(checked.params));
  CacheIdentity identity = cache_identity(request, checked.prompt, checked.adapter);
  core_->make_keys(checked.tokens, identity);
  std::vector<Submission> choices(static_cast<size_t>(std::max(request.n, request.best_of)));
  for (size_t i = 0; i < choices.size(); ++i) {
    Submission& choice = choices[i];
    choice.sequence.prompt = checked.tokens;
    choice.sequence.sampling = params;
    choice.sequence.seed = derive_seed(checked.seed, static_cast<uint32_t>(i));
    choice.sequence.prompt_results = i == 0;
    choice.sequence.priority = request.priority;
    choice.sequence.client = client_number(request), choice.sequence.request = id;
    choice.sequence.cache = identity, choice.sequence.adapter = checked.adapter;
    choice.media = checked.prompt.media, choice.media_prompt = checked.prompt.places;
    choice.context_servers = request.context_servers, choice.deadline = checked.deadline;
    if (checked.grammar) choice.grammar = checked.grammar->clone();
    choice.sink = [running = active.running, i](const SequenceOutput& output) {
      return running->on_output(static_cast<int>(i), output);
    };
  }
  return choices;
}

Status CoreEngine::start_sampling(const Request& request, Checked checked, RequestId id, Active& active) {
  WEFT_TRY(std::vector<SequenceId> sequences, core_->submit(choices_of(request, std::move(checked), id, active)));
  bool cancelled = false;
  {
    const std::lock_guard lock(mutex_);
    active.sequences.swap(sequences), cancelled = active.cancelled;
  }
  if (cancelled) core_->cancel(active.sequences);
  return {};
}

Status CoreEngine::start_beams(const Request& request, Checked checked, RequestId id, Active& active) {
  const SamplingParams& params = checked.params;
  BeamRequest::Setup setup;
  setup.prompt = checked.tokens, setup.media = checked.prompt.media, setup.places = checked.prompt.places;
  setup.params = params, setup.shown = request.n, setup.priority = request.priority;
  setup.context_servers = request.context_servers;
  setup.client = client_number(request), setup.request = id, setup.deadline = checked.deadline;
  setup.adapter = checked.adapter;
  setup.cache = cache_identity(request, checked.prompt, checked.adapter), core_->make_keys(setup.prompt, setup.cache);
  setup.grammar = std::move(checked.grammar);
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
  return active.beams->start();
}

Result<RequestId> CoreEngine::submit_score(Request request, ScoreSink sink) {
  try {
    return submit_scoring(std::move(request), std::move(sink));
  } catch (const std::bad_alloc&) {
    return Error(Code::resource_exhausted, "memory ran out for the request");
  }
}

Result<RequestId> CoreEngine::submit_scoring(Request request, ScoreSink sink) {
  WEFT_TRY(const double deadline, admit(request));
  WEFT_TRY(ImagePrompt prompt, build_prompt(request));
  const Plan& plan = core_->model().plan();
  WEFT_RETURN_IF_ERROR(check_image_types(request, prompt, plan));
  WEFT_TRY(ScorePrompt whole, score_prompt(request, std::move(prompt.tokens), text_.tokenizer.get(), plan));
  prompt.tokens = std::move(whole.tokens);
  WEFT_RETURN_IF_ERROR(check_prompt(request, prompt));
  WEFT_TRY(const AdapterLease adapter, core_->use_adapter(request.lora));
  const auto active = std::make_shared<Active>();
  active->score_sink = sink;
  active->sequences.reserve(1);
  const RequestId id = enter(active);
  Entered entered(*this, id);
  Submission submission;
  submission.sequence.prompt = prompt.tokens;
  submission.sequence.task = Task::score;
  submission.sequence.score_rows = score_rows(plan.head);
  submission.sequence.whole = !plan.local_groups.empty();
  submission.sequence.token_types = std::move(whole.types);
  submission.sequence.priority = request.priority;
  submission.sequence.client = client_number(request), submission.sequence.request = id;
  submission.deadline = deadline;
  submission.sequence.cache = cache_identity(request, prompt, adapter), submission.sequence.adapter = adapter;
  submission.media = prompt.media, submission.media_prompt = prompt.places;
  submission.sink = [this, id, sink = std::move(sink), prompt = std::move(prompt), scored = Scored(),
                     left = false](const SequenceOutput& output) mutable {
    scored.rows.insert(scored.rows.end(), output.outputs.begin(), output.outputs.end());
    scored.drafts.insert(scored.drafts.end(), output.draft_scores.begin(), output.draft_scores.end());
    if (output.reason == FinishReason::none) return true;
    left = left || leave_score(id, prompt, output);
    if (left) sink(end_of_score(prompt, std::move(scored), output));
    return false;
  };
  auto added = core_->submit(std::move(submission));
  if (!added.ok()) return std::move(added).error();
  entered.keep();
  const std::lock_guard lock(mutex_);
  active->sequences.push_back(*added);
  return id;
}

// False: it was cancelled meanwhile, and its sink has been told.
bool CoreEngine::leave_score(RequestId id, const ImagePrompt& prompt, const SequenceOutput& output) {
  std::shared_ptr<Active> done;  // destroyed without the lock
  const std::lock_guard lock(mutex_);
  const auto found = active_.find(id);
  if (found == active_.end()) return false;
  done = std::move(found->second);
  active_.erase(found);
  counts_.prompt_tokens += static_cast<int64_t>(prompt.tokens.size());
  ++(output.reason == FinishReason::error ? counts_.failed : counts_.finished);
  return true;
}

Result<ScoreResult> CoreEngine::end_of_score(const ImagePrompt& prompt, Scored scored,
                                             const SequenceOutput& output) const {
  if (output.reason == FinishReason::error) return Error(output.error_code, output.error);
  const Plan& plan = core_->model().plan();
  ScoreResult result =
      score_result(prompt.tokens, std::move(scored.rows), plan.all_output_cols(), plan.head, step_separator_);
  add_draft_scores(result, options_.speculation.method, scored.drafts, static_cast<int>(prompt.tokens.size()));
  if (prompt.places) add_images(result, *text_.media, prompt);
  return result;
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
    active->cancelled = true;
    sequences = active->sequences, beams = active->beams;
  }
  core_->cancel(sequences);
  if (beams) beams->cancel();
  if (active->running) return active->running->cancel();
  {
    const std::lock_guard lock(mutex_);
    if (active_.erase(id) == 0) return;  // its result came meanwhile
    ++counts_.cancelled;
  }
  active->score_sink(Error(Code::cancelled, "the request was cancelled"));
}

// ---- What is known of the engine ------------------------------------------------------------------------------------

// The model's plan, and those of its draft.
std::string CoreEngine::plan_text() const {
  std::string text = plan_to_text(core_->model().plan(), core_->model().form);
  const DraftModel* draft = core_->draft();
  for (size_t i = 0; draft && i < draft->stages.size(); ++i) {
    text += "\n" + draft->name + (draft->stages.size() > 1 ? ", depth " + std::to_string(i + 1) : "") + "\n";
    text += plan_to_text(draft->stages[i].shares.ranks.back().plan, draft->form);
  }
  return text;
}

std::string CoreEngine::decode(const std::vector<int32_t>& ids, bool skip_special) const {
  return text_.tokenizer ? text_.tokenizer->decode(ids, skip_special) : "";
}

std::string CoreEngine::token_bytes(int32_t id) const {
  return text_.tokenizer ? text_.tokenizer->token_bytes(id) : "";
}

EngineMetrics CoreEngine::metrics() const {
  EngineMetrics metrics{.core = core_->metrics(), .grammars = grammars_ ? grammars_->metrics() : GrammarCacheMetrics()};
  const std::lock_guard lock(mutex_);
  metrics.requests = counts_;
  return metrics;
}

std::vector<OpTime> CoreEngine::op_times(bool decode) const {
  const OpTimes* times = core_->op_times();
  return times ? times->read(decode) : std::vector<OpTime>();
}

}  // namespace weft
