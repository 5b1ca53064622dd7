// See the header. The forms of the answers follow vLLM's /classify, /score and /pooling.
#include "server/scoring.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>

#include "api/request_json.h"
#include "server/errors.h"

namespace weft {

namespace {

constexpr size_t kMaxInputs = 1024;

std::vector<double> softmax(const std::vector<float>& logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  std::vector<double> values;
  for (const float logit : logits) values.push_back(std::exp(static_cast<double>(logit) - top));
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  for (double& value : values) value /= sum;
  return values;
}

double sigmoid(double value) { return 1 / (1 + std::exp(-value)); }

// Fields of the body that hold for each of its inputs.
constexpr const char* kShared[] = {
    "add_special_tokens", "chat_template_kwargs",   "chat_template",          "cache_salt", "add_generation_prompt",
    "priority",           "truncate_prompt_tokens", "continue_final_message", "documents"};
// How vLLM's versions call the switch for probabilities instead of logits.
constexpr const char* kActivation[] = {"use_activation", "activation", "softmax"};

// Every field is honoured or refused.
Status check_fields(const Json& body, ScoringKind kind) {
  const auto one_of = [](const std::string& name, std::span<const char* const> names) {
    return std::ranges::find(names, name) != names.end();
  };
  constexpr const char* kEverywhere[] = {"model", "user"};  // the one is checked before, the other says nothing
  constexpr const char* kTexts[] = {"text_1", "text_2"};
  constexpr const char* kInputs[] = {"input", "messages"};
  for (const auto& [name, value] : body.members()) {
    if (value.is_null() || one_of(name, kEverywhere) || one_of(name, kShared)) continue;
    if (kind == ScoringKind::score ? one_of(name, kTexts) : one_of(name, kInputs)) continue;
    if (kind == ScoringKind::reward || !one_of(name, kActivation))
      return fail(Code::invalid_argument, "this call has no field ", json_quote(name)).about(name);
    if (!value.is_bool() || !value.as_bool())
      return fail(Code::unsupported, name, " must be true: logits are not returned here").about(name);
  }
  const Json *input = body.find("input"), *messages = body.find("messages");
  if (input && !input->is_null() && messages && !messages->is_null())
    return fail(Code::invalid_argument, "give only one of input and messages").about("input");
  return {};
}

// Builds the request of one input with the parser of request lines, so that the same checks apply.
Result<Request> as_request(const Json& body, const Json& line) {
  Json whole = line;
  for (const char* field : kShared)
    if (const Json* value = body.find(field)) whole.set(field, *value);
  WEFT_TRY(ClientRequest parsed, parse_request(whole, RequestKind::score_line, {}));
  return std::move(parsed.requests.front());
}

Result<Json> input_line(const Json& input, const std::string& field) {
  if (input.is_string()) return Json::object({{"prompt", input}});
  if (input.is_array()) return Json::object({{"prompt_token_ids", input}});
  const Json* text = input.find("text");
  if (!text)
    return fail(Code::invalid_argument, field, " must be a text, token ids, or {\"text\", \"text_pair\"}").about(field);
  for (const auto& [name, value] : input.members())
    if (name != "text" && name != "text_pair")
      return fail(Code::invalid_argument, field, " has no member ", json_quote(name)).about(field);
  Json line = Json::object({{"prompt", *text}});
  if (const Json* pair = input.find("text_pair")) line.set("text_pair", *pair);
  return line;
}

Result<std::vector<Json>> input_lines(const Json& body) {
  if (const Json* messages = body.find("messages"); messages && !messages->is_null())
    return std::vector<Json>{Json::object({{"messages", *messages}})};
  const Json* input = body.find("input");
  if (!input || input->is_null()) return fail(Code::invalid_argument, "input is missing").about("input");
  std::vector<Json> lines;
  if (!input->is_array() || (!input->items().empty() && input->items().front().is_number())) {
    WEFT_TRY(Json line, input_line(*input, "input"));
    lines.push_back(std::move(line));
    return lines;
  }
  for (size_t i = 0; i < input->items().size(); ++i) {
    WEFT_TRY(Json line, input_line(input->items()[i], "input[" + std::to_string(i) + "]"));
    lines.push_back(std::move(line));
  }
  return lines;
}

Result<std::vector<std::string>> texts_of(const Json& body, const char* field) {
  const Json* value = body.find(field);
  if (value && value->is_string()) return std::vector<std::string>{value->as_string()};
  std::vector<std::string> texts;
  if (value && value->is_array())
    for (const Json& item : value->items())
      if (item.is_string()) texts.push_back(item.as_string());
  if (texts.empty() || texts.size() != value->items().size())
    return fail(Code::invalid_argument, field, " must be a text or a list of texts").about(field);
  return texts;
}

// One text against one or many, or pairs.
Result<std::vector<Json>> pair_lines(const Json& body) {
  WEFT_TRY(const std::vector<std::string> first, texts_of(body, "text_1"));
  WEFT_TRY(const std::vector<std::string> second, texts_of(body, "text_2"));
  if (first.size() != 1 && first.size() != second.size())
    return fail(Code::invalid_argument, "text_1 must be one text or as many as text_2 (", second.size(), "), got ",
                first.size())
        .about("text_1");
  std::vector<Json> lines;
  for (size_t i = 0; i < second.size(); ++i)
    lines.push_back(Json::object({{"prompt", first[first.size() == 1 ? 0 : i]}, {"text_pair", second[i]}}));
  return lines;
}

const std::vector<float>* floats(const ScoreResult& result, const char* name) {
  const auto found = result.tensors.find(name);
  const auto* values = found == result.tensors.end() ? nullptr : std::get_if<std::vector<float>>(&found->second.data);
  return values && !values->empty() ? values : nullptr;
}

// Collects the results; used in work posted to the exchange only.
struct Collecting {
  Collecting(ScoringKind kind, size_t count, Json head)
      : kind(kind), items(count), missing(count), head(std::move(head)) {}
  ScoringKind kind;
  std::vector<Json> items;
  size_t missing;
  int64_t tokens = 0;
  bool ended = false;
  Json head;
  std::function<void(int)> done;
};

void take(Collecting& all, Exchange& exchange, const ModelInfo& info, size_t index, const Result<ScoreResult>& result) {
  if (all.ended) return;
  auto item = result.ok() ? scoring_item(all.kind, index, *result, info) : Result<Json>(result.error());
  if (!item.ok()) {
    all.ended = true;
    all.done(http_status(item.error().code()));
    return exchange.respond(error_response(item.error()));
  }
  all.items[index] = std::move(item).value();
  if (const auto ids = result->tensors.find("input_ids"); ids != result->tensors.end())
    all.tokens += std::accumulate(ids->second.shape.begin(), ids->second.shape.end(), int64_t{1}, std::multiplies<>());
  if (--all.missing > 0) return;
  all.ended = true;
  all.head.set("data", Json(Json::Array(all.items.begin(), all.items.end())));
  all.head.set("usage", Json::object({{"prompt_tokens", static_cast<long>(all.tokens)},
                                      {"total_tokens", static_cast<long>(all.tokens)}}));
  HttpResponse response;
  response.body = all.head.dump();
  all.done(200);
  exchange.respond(std::move(response));
}

}  // namespace

Result<std::vector<Request>> read_scoring(const Json& body, ScoringKind kind) {
  WEFT_RETURN_IF_ERROR(check_fields(body, kind));
  WEFT_TRY(const std::vector<Json> lines, kind == ScoringKind::score ? pair_lines(body) : input_lines(body));
  const char* const field = kind == ScoringKind::score ? "text_2" : "input";
  if (lines.empty()) return fail(Code::invalid_argument, field, " is empty").about(field);
  if (lines.size() > kMaxInputs)
    return fail(Code::invalid_argument, field, " may hold at most ", kMaxInputs, " texts, got ", lines.size())
        .about(field);
  std::vector<Request> requests;
  for (const Json& line : lines) {
    WEFT_TRY(Request request, as_request(body, line));
    requests.push_back(std::move(request));
  }
  return requests;
}

Result<Json> scoring_item(ScoringKind kind, size_t index, const ScoreResult& result, const ModelInfo& info) {
  Json item = Json::object({{"index", static_cast<long>(index)}});
  if (kind == ScoringKind::reward) {
    const std::vector<float>* reward = floats(result, "reward");
    const std::vector<float>* steps = floats(result, "step_probs");
    if (!reward && !steps) return fail(Code::unsupported, info.architecture, " is no reward model").about("model");
    item.set("object", "reward");
    if (reward) item.set("score", reward->front());
    if (steps) item.set("step_probs", Json(Json::Array(steps->begin(), steps->end())));
    return item;
  }
  const std::vector<float>* logits = floats(result, "logits");
  if (!logits || result.tensors.at("logits").shape.size() != 1)
    return fail(Code::unsupported, info.architecture, " is no classifier").about("model");
  if (kind == ScoringKind::score) {
    if (logits->size() > 2)
      return fail(Code::unsupported, "a model with ", logits->size(),
                  " classes gives no single score; use /v1/classify")
          .about("model");
    item.set("object", "score");
    item.set("score", logits->size() == 1 ? sigmoid(logits->front()) : softmax(*logits)[1]);
    return item;
  }
  const std::vector<double> probabilities =
      logits->size() == 1 ? std::vector<double>{sigmoid(logits->front())} : softmax(*logits);
  const auto best =
      static_cast<size_t>(std::max_element(probabilities.begin(), probabilities.end()) - probabilities.begin());
  item.set("label", best < info.labels.size() ? info.labels[best] : "LABEL_" + std::to_string(best));
  item.set("probs", Json(Json::Array(probabilities.begin(), probabilities.end())));
  item.set("num_classes", static_cast<long>(probabilities.size()));
  return item;
}

void start_scoring(Engine& engine, std::shared_ptr<Exchange> exchange, ScoringKind kind, std::vector<Request> requests,
                   Json head, std::function<void(int status)> done) {
  const auto all = std::make_shared<Collecting>(kind, requests.size(), std::move(head));
  all->done = std::move(done);
  exchange->post([all, exchange] {
    exchange->on_end([all, weak = std::weak_ptr(exchange)](Ending why) {
      all->ended = true;  // requests still running are short, so they are not cancelled
      const auto held = weak.lock();
      if (why == Ending::shutdown && held) held->respond(error_response(503, "the server is shutting down"));
    });
  });
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto keep = [all, exchange, &info = engine.info(), i](Result<ScoreResult> result) {
      exchange->post([all, exchange, &info, i, result = std::move(result)] { take(*all, *exchange, info, i, result); });
    };
    const auto id = engine.submit_score(std::move(requests[i]), keep);
    if (!id.ok()) return keep(id.error());
  }
}

}  // namespace weft
