// See the header.
#include "server/api_server.h"

#include <algorithm>
#include <ctime>
#include <random>

#include "base/log.h"
#include "base/stoppable_json.h"
#include "server/api_key.h"
#include "server/context_servers.h"
#include "server/errors.h"
#include "server/generation.h"
#include "server/http_answer.h"

namespace weft {

namespace {

constexpr size_t kWarnedFields = 64;  // names of unknown fields that are remembered

uint64_t mix(uint64_t value) {  // splitmix64's finaliser
  value += 0x9e3779b97f4a7c15u;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

std::string hex(uint64_t value) {
  static const char* const digits = "0123456789abcdef";
  std::string text;
  for (int shift = 60; shift >= 0; shift -= 4) text += digits[(value >> shift) & 15];
  return text;
}

std::string shortened(const std::string& text) { return text.size() <= 80 ? text : text.substr(0, 80) + "..."; }

constexpr std::string_view kModelPrefix = "/v1/models/";

}  // namespace

const ApiServer::Route ApiServer::kRoutes[] = {
    {"/v1/chat/completions", "POST", &ApiServer::chat, HttpPlace::pool, false, false},
    {"/v1/completions", "POST", &ApiServer::completions, HttpPlace::pool, false, false},
    {"/v1/classify", "POST", &ApiServer::classify, HttpPlace::pool, false, false},
    {"/classify", "POST", &ApiServer::classify, HttpPlace::pool, false, false},
    {"/v1/score", "POST", &ApiServer::score, HttpPlace::pool, false, false},
    {"/score", "POST", &ApiServer::score, HttpPlace::pool, false, false},
    {"/v1/reward", "POST", &ApiServer::reward, HttpPlace::pool, false, false},
    {"/v1/models", "GET", &ApiServer::models, HttpPlace::at_once, false, false},
    {"/tokenize", "POST", &ApiServer::tokenize, HttpPlace::pool, false, false},
    {"/v1/tokenize", "POST", &ApiServer::tokenize, HttpPlace::pool, false, false},
    {"/detokenize", "POST", &ApiServer::detokenize, HttpPlace::pool, false, false},
    {"/v1/detokenize", "POST", &ApiServer::detokenize, HttpPlace::pool, false, false},
    {"/v1/load_lora_adapter", "POST", &ApiServer::load_lora_adapter, HttpPlace::pool, false, false},
    {"/v1/unload_lora_adapter", "POST", &ApiServer::unload_lora_adapter, HttpPlace::pool, false, false},
    {"/kv_cache_events", "POST", &ApiServer::kv_cache_events, HttpPlace::pool, false, false},
    {"/block_keys", "POST", &ApiServer::block_keys, HttpPlace::pool, false, false},
    {"/server_info", "GET", &ApiServer::server_info, HttpPlace::watch, false, false},
    {"/health", "GET", &ApiServer::health, HttpPlace::at_once, true, true},
    {"/ready", "GET", &ApiServer::ready, HttpPlace::at_once, true, true},
    {"/version", "GET", &ApiServer::version, HttpPlace::at_once, true, true},
    {"/metrics", "GET", &ApiServer::metrics, HttpPlace::watch, false, false},  // see needs_key
};

ApiServer::ApiServer(ServerOptions options)
    : options_(std::move(options)),
      origins_{options_.host, !options_.api_key.empty(), options_.allowed_hosts, options_.cors_origins},
      memory_(MemoryAccount::create(options_.requests_memory, "--max-requests-memory")) {}

Result<std::unique_ptr<ApiServer>> ApiServer::listen(ServerOptions options) {
  std::unique_ptr<ApiServer> server(new ApiServer(std::move(options)));
  HttpHandlers handlers;
  handlers.admit = [self = server.get()](const HttpRequest& head) { return self->admit(head); };
  handlers.place = [self = server.get()](const HttpRequest& request) { return self->place(request); };
  handlers.handler = [self = server.get()](std::shared_ptr<Exchange> exchange) { self->handle(std::move(exchange)); };
  handlers.refuse = [](int status, const std::string& message) { return error_response(status, message); };
  WEFT_TRY(server->http_, HttpServer::listen(server->options_.host, server->options_.port, server->options_.limits,
                                             std::move(handlers)));
  return server;
}

void ApiServer::attach(Engine& engine) {
  engine_ = &engine;
  const ModelInfo& info = engine.info();
  model_ = options_.served_model_name.empty() ? info.name : options_.served_model_name;
  created_s_ = std::time(nullptr);
  std::random_device random;
  next_id_ = (static_cast<uint64_t>(random()) << 32) | random();
  instance_ = hex(mix(next_id_));
  uint64_t print = 0;
  for (const std::string& fact :
       {std::string(WEFT_VERSION), info.architecture, info.dtype, info.isa, std::to_string(info.weight_bytes)})
    for (const char c : fact + "\n") print = mix(print ^ static_cast<unsigned char>(c));
  fingerprint_ = "fp_" + hex(print).substr(0, 10);
  attached_ = true;
}

// ---- routes

const ApiServer::Route* ApiServer::route_of(const std::string& path) {
  const auto route =
      std::find_if(std::begin(kRoutes), std::end(kRoutes), [&](const Route& one) { return path == one.path; });
  return route == std::end(kRoutes) ? nullptr : route;
}

bool ApiServer::needs_key(const Route* route) const {
  const bool is_metrics = route && route->call == &ApiServer::metrics;
  return !(route && route->open) && !(is_metrics && options_.metrics_without_key);
}

HttpAdmission ApiServer::admit(const HttpRequest& head) {
  HttpAdmission admission = check_origin(head, origins_);
  if (!admission.refusal) admission.refusal = refusal(head, route_of(head.path));
  if (admission.refusal) count(head, admission.refusal->status);
  return admission;
}

// Of what needs neither the body nor a handler.
std::optional<HttpResponse> ApiServer::refusal(const HttpRequest& head, const Route* route) const {
  if (needs_key(route) && !has_api_key(head, options_.api_key)) return api_key_wanted();
  if (!attached_ && !(route && route->always))
    return error_response(503, "the model is being loaded; try again in a moment");
  if (route && head.method != route->method) {
    HttpResponse response = error_response(405, head.path + " takes " + route->method);
    response.headers.emplace_back("Allow", route->method == std::string_view("GET") ? "GET, HEAD" : route->method);
    return response;
  }
  if (route || (head.path.starts_with(kModelPrefix) && head.method == "GET")) return std::nullopt;
  return error_response(404, "there is nothing at " + json_quote(shortened(head.path)));
}

HttpPlace ApiServer::place(const HttpRequest& request) const {
  const Route* const route = route_of(request.path);
  return route ? route->place : HttpPlace::at_once;
}

void ApiServer::handle(std::shared_ptr<Exchange> exchange) {
  const HttpRequest& request = exchange->request();
  if (const Route* route = route_of(request.path)) return (this->*route->call)(std::move(exchange));
  const std::string name = request.path.substr(kModelPrefix.size());
  if (name == model_) return respond(exchange, model_card());
  for (const AdapterInfo& adapter : engine_->adapters())
    if (name == adapter.name) return respond(exchange, adapter_card(adapter));
  respond(exchange,
          error_response(404, "the model " + json_quote(shortened(name)) + " is not served here; " + model_ + " is",
                         "model", "model_not_found"));
}

void ApiServer::count(const HttpRequest& request, int status) {
  const Route* const route = route_of(request.path);
  metrics_.count_response(route ? route->path : "other", status);
}

void ApiServer::respond(const std::shared_ptr<Exchange>& exchange, HttpResponse response) {
  count(exchange->request(), response.status);
  exchange->respond(std::move(response));
}

void ApiServer::respond(const std::shared_ptr<Exchange>& exchange, const Json& body) {
  HttpResponse response;
  response.body = body.dump();
  respond(exchange, std::move(response));
}

// ---- what a request says

std::optional<ApiServer::Body> ApiServer::read_body(const std::shared_ptr<Exchange>& exchange) {
  HttpRequest& request = exchange->request();
  const std::string* type = request.header("content-type");
  if (type && !is_json_type(*type)) {
    respond(exchange, error_response(415, "the Content-Type must be application/json in UTF-8"));
    return std::nullopt;
  }
  // What three bytes of text may become: an empty list in a list.
  constexpr int64_t kMostPerByte = 40;
  const int64_t limit = engine_->options().limits.json_bytes,
                most = kMostPerByte * static_cast<int64_t>(request.body.size());
  // Lists that grow hold their old and their new place for a moment.
  const int64_t estimate = limit > 0 ? std::min(limit + limit / 2, most) : most;
  auto memory = memory_->charge(estimate, "the JSON of the body", request.peer);
  if (!memory.ok()) {
    respond(exchange, error_response(memory.error()));
    return std::nullopt;
  }
  const std::shared_ptr<const StopFlag> stop = exchange->stop_flag();
  JsonRules rules{.keep_repeated = false};
  if (limit > 0) rules.max_bytes = static_cast<size_t>(limit);
  auto json = parse_json(request.body, rules, *stop);
  request.body = {};
  if (json.ok() && json->is_object()) return Body{std::move(memory).value(), std::move(json).value()};
  const Code code = json.ok() ? Code::invalid_argument : json.error().code();
  if (code == Code::cancelled || code == Code::deadline_exceeded) {
    respond(exchange, error_response(json.error()));
    return std::nullopt;
  }
  const bool large = code == Code::too_large;
  respond(exchange,
          error_response(large ? 413 : 400,
                         json.ok() ? std::string("the body must be a JSON object, got ") + json->type_name()
                                   : "the body is " + json.error().message() + (large ? " (--max-json-memory)" : "")));
  return std::nullopt;
}

// Memory of an answer that is made at once, up to --max-answer-memory.
Result<MemoryCharge> ApiServer::charge_answer(int64_t bytes, const char* field, const std::string& client) {
  WEFT_RETURN_IF_ERROR(check_limit(engine_->options().limits, &RequestLimits::answer_bytes, bytes, field));
  return memory_->charge(bytes, "the answer", client);
}

Status ApiServer::check_model(const std::string& model) const {
  if (model.empty() || model == model_ || engine_->has_adapter(model)) return {};
  return fail(Code::not_found, "the model ", json_quote(shortened(model)), " is not served here; ", model_, " is")
      .about("model");
}

RequestRules ApiServer::rules(const Exchange& exchange) {
  RequestRules rules;
  rules.defaults = engine_->default_sampling();
  rules.limits = engine_->options().limits;
  rules.is_adapter = [this](const std::string& name) { return engine_->has_adapter(name); };
  rules.images = engine_->info().takes_images;
  rules.chat_template = options_.chat_template_in_request;
  rules.tool_form = engine_->answer_format(Request()).tools;
  rules.encode = [this, stop = exchange.stop_flag()](const std::string& text) {
    Request request;
    request.stop_flag = stop;
    request.prompt = text;
    request.add_special_tokens = false;
    return engine_->prompt_tokens(request);
  };
  rules.ignored = [this](const std::string& field) { warn_ignored(field); };
  return rules;
}

void ApiServer::warn_ignored(const std::string& field) {
  const std::lock_guard lock(warned_mutex_);
  if (warned_.size() < kWarnedFields && warned_.insert(shortened(field)).second)
    log_warning("unknown_request_field", " field=", json_quote(shortened(field)), " action=ignored");
}

std::string ApiServer::fresh_id() {
  const uint64_t number = next_id_.fetch_add(1);
  return hex(mix(number)) + hex(mix(~number)).substr(0, 8);
}

// ---- the calls

void ApiServer::chat(std::shared_ptr<Exchange> exchange) { generate(std::move(exchange), true); }
void ApiServer::completions(std::shared_ptr<Exchange> exchange) { generate(std::move(exchange), false); }

void ApiServer::generate(std::shared_ptr<Exchange> exchange, bool chat) {
  if (engine_->options().role == ServerRole::context)
    return respond(exchange, error_response(400,
                                            "this server computes prompts for others and generates no text: it was "
                                            "started with --role context"));
  std::vector<std::string> context_servers;
  if (auto refused = read_context_servers(exchange->request(), engine_->options().kv_transfer_secret, context_servers))
    return respond(exchange, *std::move(refused));
  const auto read = read_body(exchange);
  if (!read) return;
  const Json& body = read->json;
  auto call = parse_request(body, chat ? RequestKind::chat : RequestKind::completion, rules(*exchange));
  if (!call.ok()) return respond(exchange, error_response(call.error()));
  if (const Status model = check_model(call->model); !model.ok())
    return respond(exchange, error_response(404, model.error().message(), "model", "model_not_found"));
  if (!engine_->info().generative)
    return respond(
        exchange,
        error_response(
            400,
            "this model classifies or scores text, it does not generate any; use /v1/classify, /v1/score or /v1/reward",
            "model"));
  const std::string id = fresh_id();
  for (Request& request : call->requests) {
    request.id = id, request.context_servers = context_servers;
    request.client = exchange->request().peer, request.stop_flag = exchange->stop_flag();
  }
  auto memory = memory_->charge(memory_of(*call), "the request", exchange->request().peer);
  if (!memory.ok()) return respond(exchange, error_response(memory.error()));
  const std::string& lora = call->requests.front().lora;
  AnswerHead head{(chat ? "chatcmpl-" : "cmpl-") + id, std::time(nullptr), lora.empty() ? model_ : lora, fingerprint_};
  Generation::start(*engine_, metrics_, std::move(exchange), chat, std::move(call).value(), std::move(head),
                    std::move(memory).value());
}

void ApiServer::classify(std::shared_ptr<Exchange> exchange) { scoring(std::move(exchange), ScoringKind::classify); }
void ApiServer::score(std::shared_ptr<Exchange> exchange) { scoring(std::move(exchange), ScoringKind::score); }
void ApiServer::reward(std::shared_ptr<Exchange> exchange) { scoring(std::move(exchange), ScoringKind::reward); }

void ApiServer::scoring(std::shared_ptr<Exchange> exchange, ScoringKind kind) {
  const auto read = read_body(exchange);
  if (!read) return;
  const Json& body = read->json;
  const Json* model = body.find("model");
  if (const Status served = check_model(model && model->is_string() ? model->as_string() : ""); !served.ok())
    return respond(exchange, error_response(404, served.error().message(), "model", "model_not_found"));
  auto requests = read_scoring(body, kind, engine_->options().limits);
  if (!requests.ok()) return respond(exchange, error_response(requests.error()));
  if (engine_->info().generative)
    return respond(exchange,
                   error_response(400, "this model generates text; it is no classifier or reward model", "model"));
  std::string named = model && model->is_string() ? model->as_string() : "";
  if (!engine_->has_adapter(named)) named.clear();
  for (Request& request : *requests) {
    request.client = exchange->request().peer, request.stop_flag = exchange->stop_flag();
    request.lora = named;
  }
  Json head = Json::object({{"id", "score-" + fresh_id()},
                            {"object", "list"},
                            {"created", static_cast<long>(std::time(nullptr))},
                            {"model", named.empty() ? model_ : named}});
  std::string path = exchange->request().path;
  start_scoring(*engine_, std::move(exchange), kind, std::move(requests).value(), std::move(head),
                [this, path = std::move(path)](int status) { metrics_.count_response(path, status); });
}

void ApiServer::tokenize(std::shared_ptr<Exchange> exchange) {
  const auto read = read_body(exchange);
  if (!read) return;
  const Json& body = read->json;
  const bool chat = body.find("messages") != nullptr;
  RequestRules quiet = rules(*exchange);
  quiet.ignored = {};
  auto call = parse_request(body, chat ? RequestKind::chat : RequestKind::completion, quiet);
  if (!call.ok()) return respond(exchange, error_response(call.error()));
  if (call->requests.size() == 1) call->requests[0].stop_flag = exchange->stop_flag();
  else return respond(exchange, error_response(400, "prompt must be one text", "prompt"));
  const auto ids = engine_->prompt_tokens(call->requests[0]);
  if (!ids.ok()) return respond(exchange, error_response(ids.error()));
  const Json* flag = body.find("return_token_strs");
  const bool with_texts = flag && flag->is_bool() && flag->as_bool();
  auto memory = charge_answer(static_cast<int64_t>(ids->size() * (with_texts ? 4 : 2) * sizeof(Json)), "prompt",
                              exchange->request().peer);
  if (!memory.ok()) return respond(exchange, error_response(memory.error()));
  Json::Array tokens, texts;
  for (const int32_t id : *ids) {
    tokens.push_back(id);
    if (with_texts) texts.push_back(engine_->token_bytes(id));
  }
  respond(exchange, Json::object({{"count", static_cast<long>(ids->size())},
                                  {"max_model_len", engine_->info().max_seq_len},
                                  {"tokens", Json(std::move(tokens))},
                                  {"token_strs", with_texts ? Json(std::move(texts)) : Json()}}));
}

void ApiServer::detokenize(std::shared_ptr<Exchange> exchange) {
  const auto read = read_body(exchange);
  if (!read) return;
  const Json& body = read->json;
  const Json* tokens = body.find("tokens");
  std::vector<int32_t> ids;
  if (!tokens || !tokens->is_array())
    return respond(exchange, error_response(400, "tokens must be a list of token ids", "tokens"));
  ids.reserve(tokens->items().size());
  for (const Json& token : tokens->items()) {
    if (!token.is_integer() || token.as_integer() < 0 || token.as_integer() >= engine_->info().vocab_size)
      return respond(
          exchange,
          error_response(400, "tokens holds " + shortened(token.dump()) + ", which is no token id of this model",
                         "tokens"));
    ids.push_back(static_cast<int32_t>(token.as_integer()));
  }
  // The text, and twice its JSON.
  auto memory = charge_answer(static_cast<int64_t>(ids.size() * 3 * sizeof(Json)), "tokens", exchange->request().peer);
  if (!memory.ok()) return respond(exchange, error_response(memory.error()));
  respond(exchange, Json::object({{"prompt", engine_->decode(ids, false)}}));
}

Json ApiServer::model_card() const {
  return Json::object({{"id", model_},
                       {"object", "model"},
                       {"created", static_cast<long>(created_s_)},
                       {"owned_by", "weft"},
                       {"max_model_len", engine_->info().max_seq_len}});
}

void ApiServer::models(std::shared_ptr<Exchange> exchange) {
  Json data = Json::array({model_card()});
  for (const AdapterInfo& adapter : engine_->adapters()) data.push_back(adapter_card(adapter));
  respond(exchange, Json::object({{"object", "list"}, {"data", std::move(data)}}));
}

// Of an engine that computes nothing any more, or has work and does not get on with it. Takes no lock.
Status ApiServer::engine_health() const {
  WEFT_RETURN_IF_ERROR(engine_->health());
  const EngineWatch watch = engine_->watch();
  if (options_.watchdog_s <= 0 || watch.still_seconds <= options_.watchdog_s) return {};
  return fail(Code::unavailable, "the engine does not get on: no step has begun or ended for ",
              static_cast<int64_t>(watch.still_seconds), " s while it has ", watch.sequences, " sequences (--watchdog ",
              options_.watchdog_s, ")");
}

void ApiServer::health(std::shared_ptr<Exchange> exchange) {
  if (const Status health = attached_ ? engine_health() : Status(); !health.ok())
    return respond(exchange, error_response(health.error()));
  respond(exchange, Json::object({{"status", "ok"}}));
}

void ApiServer::ready(std::shared_ptr<Exchange> exchange) {
  if (!attached_) return respond(exchange, error_response(503, "the model is being loaded"));
  if (const Status health = engine_health(); !health.ok()) return respond(exchange, error_response(health.error()));
  respond(exchange, Json::object({{"status", "ready"}}));
}

void ApiServer::version(std::shared_ptr<Exchange> exchange) {
  respond(exchange, Json::object({{"version", WEFT_VERSION}}));
}

void ApiServer::metrics(std::shared_ptr<Exchange> exchange) {
  HttpResponse response;
  response.content_type = "text/plain; version=0.0.4; charset=utf-8";
  response.body = metrics_.prometheus(engine_->info(), engine_->metrics(), {http_->stats(), engine_->watch()});
  respond(exchange, std::move(response));
}

}  // namespace weft
