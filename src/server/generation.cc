// See the header. The engine's sink copies each event and posts it to the exchange, so the state here needs no locks
// and neither the engine's thread nor that of the connections does any formatting.
#include "server/generation.h"

#include <algorithm>
#include <iterator>

#include "server/errors.h"

namespace weft {

namespace {

// What a Generation needs of its call after the requests have gone.
ClientRequest without_requests(ClientRequest call) {
  call.requests.clear();
  return call;
}

}  // namespace

void Generation::start(Engine& engine, ServerMetrics& metrics, std::shared_ptr<Exchange> exchange, bool chat,
                       ClientRequest call, AnswerHead head, MemoryCharge memory) {
  std::vector<Request> requests = std::move(call.requests);
  const std::shared_ptr<Generation> self(new Generation(engine, metrics, std::move(exchange), chat,
                                                        without_requests(std::move(call)), std::move(head),
                                                        std::move(memory)));
  for (Request& request : requests) {
    AnswerFormat format;
    Thinking thinking = Thinking::none;
    if (Status read = read_format(engine, request, self->call_, format, thinking); !read.ok()) {
      self->exchange_->post([self, error = read.error()] { self->fail_with(error); });
      return;
    }
    Part& part = self->parts_.emplace_back();
    const auto rules = std::make_shared<const ToolCallFinder::Rules>(
        ToolCallFinder::Rules{self->call_.tool_mode, format.tools, self->call_.tool_names, self->call_.strict_tools,
                              self->call_.tool_parameters});
    for (int i = 0; i < request.n; ++i) part.choices.emplace_back(thinking, rules);
    if (self->call_.echo)
      part.prompt_text = request.prompt
                             ? *request.prompt
                             : engine.decode(request.prompt_token_ids.value_or(std::vector<int32_t>()), false);
  }
  self->exchange_->post([self] { self->prepare(); });
  self->submit(std::move(requests));
}

// Decides how the text of a chat completion is parsed (thoughts, tool calls). Marks of these that are special tokens
// must then be part of the text.
Status Generation::read_format(const Engine& engine, Request& request, const ClientRequest& call, AnswerFormat& format,
                               Thinking& thinking) {
  if (!request.messages) return {};
  WEFT_TRY(request.rendered, engine.render_chat(request));
  format = engine.answer_format(request);
  if (call.separate_reasoning) thinking = thinking_of(format, request, *request.rendered);
  if (thinking != Thinking::none) request.kept_special_tokens = {std::string(kThinkOpen), std::string(kThinkClose)};
  if (call.tool_mode == ToolMode::automatic)
    for (const std::string& token : format.tools->special_tokens) request.kept_special_tokens.push_back(token);
  return {};
}

Generation::Generation(Engine& engine, ServerMetrics& metrics, std::shared_ptr<Exchange> exchange, bool chat,
                       ClientRequest call, AnswerHead head, MemoryCharge memory)
    : engine_(engine), metrics_(metrics), exchange_(std::move(exchange)), chat_(chat), call_(std::move(call)),
      head_(std::move(head)), writer_(engine, chat, call_, head_), memory_(std::move(memory)) {}

void Generation::prepare() {
  if (call_.stream) exchange_->expect_events();
  exchange_->on_end([weak = weak_from_this()](Ending why) {
    if (const auto self = weak.lock()) self->end(why);
  });
}

// On a handler thread. The first error ends the call.
void Generation::submit(std::vector<Request> requests) {
  const auto self = shared_from_this();
  for (size_t i = 0; i < requests.size(); ++i) {
    auto id = engine_.submit(std::move(requests[i]), [self, i](const Event& event) {
      self->exchange_->post([self, i, event] { self->on_event(i, event); });
    });
    if (!id.ok()) {
      exchange_->post([self, error = std::move(id).error()] { self->fail_with(error); });
      return;
    }
    exchange_->post([self, i, id = *id] { self->submitted(i, id); });
  }
}

void Generation::submitted(size_t part, RequestId id) {
  parts_[part].id = id;
  parts_[part].started = true;
  if (ended_ && !parts_[part].done) engine_.cancel(id);
}

void Generation::on_event(size_t part_index, const Event& event) {
  Part& part = parts_[part_index];
  if (event.last_of_request) part.done = true;
  part.usage = event.usage, part.seed = event.seed;
  if (call_.no_output) part.usage.completion_tokens = 0;
  if (ended_) return;
  if (event.last_of_request)
    for (const std::string& warning : event.warnings)
      if (std::ranges::find(warnings_, warning) == warnings_.end()) warnings_.push_back(warning);
  if (event.error) return fail_with(*event.error, true);
  if (event.finish == FinishReason::cancelled) return fail_with(Error(Code::cancelled, "the request was cancelled"));
  if (event.prompt) part.prompt = event.prompt, part.prompt_logits = event.prompt_logits;
  if (!first_token_ && !event.tokens.empty()) first_token_ = Clock::now();
  if (Status room = charge_kept(bytes_kept_of(event)); !room.ok()) return fail_with(room.error(), true);
  if (event.choice >= 0 && static_cast<size_t>(event.choice) < part.choices.size()) {
    Choice& choice = part.choices[static_cast<size_t>(event.choice)];
    Fresh fresh;
    take(part, choice, event, fresh);
    if (call_.stream)
      stream(part, part_index * part.choices.size() + static_cast<size_t>(event.choice), event, std::move(fresh));
  }
  if (!event.last_of_request) return;
  if (++done_parts_ == parts_.size()) finish();
}

// What the answer keeps of an event until all of it is sent, the JSON that is made of it at the end included.
size_t Generation::bytes_kept_of(const Event& event) const {
  constexpr size_t kJsonOfToken = 400, kJsonOfAlternative = 200, kJsonOfLogit = 48;
  size_t bytes = event.logits.size() * (sizeof(float) + kJsonOfLogit);
  if (event.prompt_logits) bytes += event.prompt_logits->size() * (sizeof(float) + kJsonOfLogit);
  if (call_.stream) return bytes;
  bytes += 2 * event.text.size();
  if (call_.logprobs >= 0 || call_.return_token_ids) {
    bytes += event.tokens.size() * (sizeof(TokenInfo) + kJsonOfToken);
    for (const TokenInfo& token : event.tokens) bytes += token.top.size() * (sizeof token.top[0] + kJsonOfAlternative);
  }
  return bytes;
}

// In parts of some size, so that a token does not touch the account.
Status Generation::charge_kept(size_t bytes) {
  constexpr int64_t kPart = int64_t{64} << 10;
  kept_ += static_cast<int64_t>(bytes);
  if (kept_ <= charged_kept_) return {};
  const int64_t more = std::max(kPart, kept_ - charged_kept_);
  WEFT_RETURN_IF_ERROR(
      check_limit(engine_.options().limits, &RequestLimits::answer_bytes, charged_kept_ + more, "the answer"));
  WEFT_RETURN_IF_ERROR(memory_.add(more, "the answer"));
  charged_kept_ += more;
  return {};
}

// Adds the event to the choice; `fresh` gets the part of it that may be sent now.
void Generation::take(Part& part, Choice& choice, const Event& event, Fresh& fresh) {
  if (event.finish != FinishReason::none) {
    choice.finish = call_.no_output ? FinishReason::length : event.finish;
    choice.stop_reason = call_.no_output ? Json() : event.stop_reason;
  }
  if (call_.no_output) return;
  part.generated += static_cast<int>(event.tokens.size());
  const bool keep_tokens = call_.logprobs >= 0 || call_.return_token_ids;
  if (keep_tokens) choice.tokens.insert(choice.tokens.end(), event.tokens.begin(), event.tokens.end());
  choice.logits.insert(choice.logits.end(), event.logits.begin(), event.logits.end());
  if (chat_) read_text(choice, event, fresh);
  else fresh.text = event.text;
  if (!call_.parallel_tool_calls) std::erase_if(fresh.calls, [](const ToolDelta& delta) { return delta.index > 0; });
  for (const ToolDelta& delta : fresh.calls) add_delta(delta, choice.calls);
  if (call_.stream) return;
  choice.text += fresh.text;
  choice.reasoning += fresh.reasoning;
}

// Separates the event's text into thoughts, answer and tool calls.
void Generation::read_text(Choice& choice, const Event& event, Fresh& fresh) {
  const bool last = event.finish != FinishReason::none;
  if (choice.splitter.thinking()) choice.reasoning_tokens += static_cast<int>(event.tokens.size());
  ReasonedText text = choice.splitter.push(event.text);
  if (last) {
    ReasonedText rest = choice.splitter.finish();
    text.reasoning += rest.reasoning;
    text.content += rest.content;
  }
  if (call_.include_reasoning) fresh.reasoning = std::move(text.reasoning);
  if (call_.tool_mode == ToolMode::none) {
    fresh.text = std::move(text.content);
    return;
  }
  ToolOutput output = choice.finder.push(text.content);
  fresh.text = std::move(output.content);
  fresh.calls = std::move(output.deltas);
  if (!last) return;
  output = choice.finder.finish();
  fresh.text += output.content;
  std::move(output.deltas.begin(), output.deltas.end(), std::back_inserter(fresh.calls));
}

// ---- streams

void Generation::stream(Part& part, size_t index, const Event& event, Fresh fresh) {
  Choice& choice = part.choices[static_cast<size_t>(event.choice)];
  const bool last = event.finish != FinishReason::none;
  const bool first = !choice.opened;
  if (first) open(part, choice, index, fresh);
  if (chat_) send_fresh(choice, index, fresh);
  else send_text(part, choice, index, fresh, first, last);
  if (last && chat_) send_end(choice, index);
}

// The first chunk of a chat's choice says who speaks; an echoed prompt goes before a completion.
void Generation::open(Part& part, Choice& choice, size_t index, Fresh& fresh) {
  choice.opened = true;
  if (chat_) {
    Json first = Json::object({{"index", static_cast<long>(index)},
                               {"delta", Json::object({{"role", "assistant"}, {"content", ""}})},
                               {"logprobs", nullptr},
                               {"finish_reason", nullptr}});
    if (call_.return_token_ids && part.prompt) first.set("prompt_token_ids", AnswerWriter::token_ids(*part.prompt));
    send_chunk(std::move(first));
  } else if (call_.echo) {
    fresh.text = part.prompt_text + fresh.text;
  }
}

// A completion's chunk. The first one of a choice has what belongs to the prompt.
void Generation::send_text(const Part& part, Choice& choice, size_t index, const Fresh& fresh, bool first, bool last) {
  const bool of_prompt = first && part.prompt && (call_.echo || call_.return_token_ids);
  if (fresh.text.empty() && choice.tokens.empty() && !last && !of_prompt) return;
  Json json = Json::object({{"index", static_cast<long>(index)}, {"text", fresh.text}});
  std::vector<TokenInfo> shown = choice.tokens;
  if (of_prompt && call_.echo) shown.insert(shown.begin(), part.prompt->begin(), part.prompt->end());
  json.set("logprobs", writer_.logprobs(shown, choice.text_offset));
  json.set("finish_reason", last ? Json(finish_name(choice)) : Json());
  if (last) json.set("stop_reason", choice.stop_reason);
  if (call_.return_token_ids) {
    json.set("token_ids", AnswerWriter::token_ids(choice.tokens));
    if (of_prompt) json.set("prompt_token_ids", AnswerWriter::token_ids(*part.prompt));
  }
  choice.tokens.clear();
  send_chunk(std::move(json));
}

// An event's tokens (logprobs, token ids) go into its first chunk. If the event has tokens but no text to send, that
// chunk has an empty text.
void Generation::send_fresh(Choice& choice, size_t index, const Fresh& fresh) {
  if (!fresh.reasoning.empty()) send_delta(choice, index, Json::object({{"reasoning_content", fresh.reasoning}}));
  if (!fresh.text.empty() || (fresh.reasoning.empty() && fresh.calls.empty() && !choice.tokens.empty()))
    send_delta(choice, index, Json::object({{"content", fresh.text}}));
  for (const ToolDelta& delta : fresh.calls)
    send_delta(choice, index,
               Json::object({{"tool_calls", Json::array({AnswerWriter::tool_call_delta(delta, call_stem(index))})}}));
}

void Generation::send_delta(Choice& choice, size_t index, Json delta) {
  Json json = Json::object({{"index", static_cast<long>(index)}, {"delta", std::move(delta)}});
  json.set("logprobs", choice.tokens.empty() ? Json() : writer_.logprobs(choice.tokens, choice.text_offset));
  json.set("finish_reason", Json());
  if (call_.return_token_ids) json.set("token_ids", AnswerWriter::token_ids(choice.tokens));
  choice.tokens.clear();
  send_chunk(std::move(json));
}

void Generation::send_end(Choice& choice, size_t index) {
  send_chunk(Json::object({{"index", static_cast<long>(index)},
                           {"delta", Json::object()},
                           {"logprobs", nullptr},
                           {"finish_reason", finish_name(choice)},
                           {"stop_reason", choice.stop_reason}}));
}

// What the ids of a choice's calls have in common.
std::string Generation::call_stem(size_t index) const { return head_.id + "." + std::to_string(index) + "."; }

void Generation::send_chunk(Json choice) {
  if (!call_.continuous_usage) return exchange_->send(writer_.chunk(std::move(choice), nullptr));
  const Usage so_far = usage();
  exchange_->send(writer_.chunk(std::move(choice), &so_far));
}

// ---- the end

void Generation::finish() {
  ended_ = true;
  record();
  if (!call_.stream) {
    HttpResponse response;
    response.body = whole_answer();
    metrics_.count_response(chat_ ? "/v1/chat/completions" : "/v1/completions", 200);
    return exchange_->respond(std::move(response));
  }
  if (!warnings_.empty()) exchange_->send(writer_.warnings_chunk(warnings_));
  if (call_.include_usage) exchange_->send(writer_.usage_chunk(usage()));
  exchange_->send("data: [DONE]\n\n");
  metrics_.count_response(chat_ ? "/v1/chat/completions" : "/v1/completions", 200);
  exchange_->finish();
}

std::string Generation::whole_answer() {
  Json::Array choices;
  for (Part& part : parts_)
    for (Choice& choice : part.choices) choices.push_back(whole_choice(part, choice, choices.size()));
  Json prompt_logprobs;
  if (chat_ && call_.prompt_logprobs >= 0 && parts_[0].prompt)
    prompt_logprobs = writer_.prompt_logprobs(*parts_[0].prompt);
  return writer_.answer(std::move(choices), usage(), prompt_logprobs, warnings_);
}

Json Generation::whole_choice(Part& part, Choice& choice, size_t index) {
  Json json = Json::object({{"index", static_cast<long>(index)}});
  std::vector<TokenInfo> shown = choice.tokens;
  if (chat_) {
    // the message has thoughts or tool calls besides content
    const bool beside = !choice.calls.empty() || !choice.reasoning.empty();
    Json message = Json::object({{"role", "assistant"},
                                 {"content", choice.text.empty() && beside ? Json() : Json(choice.text)},
                                 {"refusal", nullptr}});
    if (!choice.reasoning.empty()) message.set("reasoning_content", choice.reasoning);
    if (!choice.calls.empty()) message.set("tool_calls", AnswerWriter::tool_calls(choice.calls, call_stem(index)));
    json.set("message", std::move(message));
  } else {
    json.set("text", part.prompt_text + choice.text);
    if (call_.echo && part.prompt) shown.insert(shown.begin(), part.prompt->begin(), part.prompt->end());
  }
  json.set("logprobs", writer_.logprobs(shown, choice.text_offset));
  json.set("finish_reason", finish_name(choice));
  json.set("stop_reason", choice.stop_reason);
  json.set("seed", static_cast<long>(part.seed));
  if (call_.return_token_ids) {
    json.set("token_ids", AnswerWriter::token_ids(choice.tokens));
    if (part.prompt) json.set("prompt_token_ids", AnswerWriter::token_ids(*part.prompt));
  }
  const auto vocab = static_cast<size_t>(engine_.info().vocab_size);
  if (!choice.logits.empty()) json.set("generation_logits", AnswerWriter::logits(choice.logits, vocab));
  if (part.prompt_logits) json.set("context_logits", AnswerWriter::logits(*part.prompt_logits, vocab));
  if (!chat_ && call_.prompt_logprobs >= 0 && part.prompt)
    json.set("prompt_logprobs", writer_.prompt_logprobs(*part.prompt));
  return json;
}

// `began`: the engine had taken the request, so that there is a usage.
void Generation::fail_with(const Error& error, bool began) {
  if (ended_) return;
  ended_ = true;
  cancel_all();
  metrics_.count_response(chat_ ? "/v1/chat/completions" : "/v1/completions", http_status(error.code()));
  if (!exchange_->streaming()) {
    HttpResponse response = error_response(error);
    if (error.code() == Code::resource_exhausted) set_retry_after(response, engine_.retry_seconds());
    if (began) response.body = writer_.failure(error_json(error), usage(), warnings_);
    return exchange_->respond(std::move(response));
  }
  exchange_->send("data: " + error_json(error).dump() + "\n\n");
  exchange_->send("data: [DONE]\n\n");
  exchange_->finish();
}

void Generation::end(Ending why) {
  if (why == Ending::shutdown) return fail_with(Error(Code::cancelled, "the server is shutting down"));
  ended_ = true;
  cancel_all();
}

void Generation::cancel_all() {
  for (const Part& part : parts_)
    if (part.started && !part.done) engine_.cancel(part.id);
}

void Generation::record() {
  RequestTimes times;
  const auto seconds = [&](Clock::time_point when) { return std::chrono::duration<double>(when - begin_).count(); };
  times.total_s = seconds(Clock::now());
  times.first_token_s = first_token_ ? seconds(*first_token_) : times.total_s;
  times.usage = usage();
  metrics_.count_finished(times);
  for (const Part& part : parts_)
    for (const Choice& choice : part.choices) metrics_.count_finish_reason(finish_name(choice));
}

Usage Generation::usage() const {
  Usage sum;
  for (const Part& part : parts_) {
    sum.prompt_tokens += part.usage.prompt_tokens;
    sum.completion_tokens += part.done ? part.usage.completion_tokens : part.generated;
    sum.cached_tokens += part.usage.cached_tokens;
    sum.draft_tokens += part.usage.draft_tokens;
    sum.accepted_tokens += part.usage.accepted_tokens;
    for (const Choice& choice : part.choices) sum.reasoning_tokens += choice.reasoning_tokens;
  }
  return sum;
}

const char* Generation::finish_name(const Choice& choice) const {
  if (!choice.calls.empty() && choice.finish == FinishReason::stop) return "tool_calls";
  return name(choice.finish);
}

}  // namespace weft
