// The calls for what chooses among several servers: the front of a deployment (`weft orchestrate`), or another router.
#include <algorithm>
#include <limits>
#include <span>

#include "base/hmac.h"
#include "server/api_server.h"
#include "server/errors.h"

namespace weft {

namespace {

constexpr size_t kMostEvents = 65536;  // in an answer to a reader that names no limit

// {"after": N, "limit": N, "token_ids": bool}: reading that takes nothing away.
struct EventQuery {
  uint64_t after = 0;
  size_t limit = kMostEvents;
  bool token_ids = true;
};

Result<EventQuery> read_query(const Json& body) {
  EventQuery query;
  for (const auto& [name, value] : body.members()) {
    if (name == "token_ids" && value.is_bool()) {
      query.token_ids = value.as_bool();
    } else if ((name == "after" || name == "limit") && value.is_integer() &&
               value.as_integer() >= (name == "limit" ? 1 : 0)) {
      const auto number = static_cast<uint64_t>(value.as_integer());
      if (name == "after") query.after = number;
      else query.limit = static_cast<size_t>(std::clamp<uint64_t>(number, 1, kMostEvents));
    } else {
      return fail(Code::invalid_argument, "this call takes after and limit (whole numbers) and token_ids (a truth ",
                  "value), not ", json_quote(name), ": ", value.dump().substr(0, 80))
          .about(name);
    }
  }
  if (!body.find("after")) return fail(Code::invalid_argument, "after is missing").about("after");
  return query;
}

Json event_json(const KvCacheEvent& event, bool homes, bool token_ids) {
  Json json = Json::object({{"event_id", static_cast<long>(event.id)},
                            {"type", event.stored ? "stored" : "removed"},
                            {"group", event.group},
                            {"block_hash", event.hash}});
  if (homes) json.set("home", event.home);
  if (!event.stored) return json;
  json.set("parent_hash", event.parent_hash);
  if (token_ids) json.set("token_ids", Json(Json::Array(event.tokens.begin(), event.tokens.end())));
  return json;
}

}  // namespace

void ApiServer::kv_cache_events(std::shared_ptr<Exchange> exchange) {
  EventQuery query;
  const bool reads = !exchange->request().body.empty();
  if (reads) {
    const auto body = read_body(exchange);
    if (!body) return;
    const auto read = read_query(*body);
    if (!read.ok()) return respond(exchange, error_response(read.error()));
    query = *read;
  }
  const auto found = reads ? engine_->read_kv_cache_events(query.after, query.limit) : engine_->take_kv_cache_events();
  if (!found.ok()) return respond(exchange, error_response(found.error()));
  Json::Array events;
  for (const KvCacheEvent& event : found->events)
    events.push_back(event_json(event, found->homes > 1, query.token_ids));
  Json answer = Json::object({{"events", Json(std::move(events))},
                              {"lost", static_cast<long>(found->lost)},
                              {"next_event_id", static_cast<long>(found->next_id)}});
  if (reads) answer.set("instance", instance_);
  respond(exchange, answer);
}

void ApiServer::block_keys(std::shared_ptr<Exchange> exchange) {
  const auto body = read_body(exchange);
  if (!body) return;
  RequestRules quiet = rules(*exchange);
  quiet.ignored = {};
  const RequestKind kind = body->find("messages") ? RequestKind::chat : RequestKind::completion;
  auto call = parse_request(*body, kind, quiet);
  if (!call.ok()) return respond(exchange, error_response(call.error()));
  Json::Array prompts;
  for (Request& request : call->requests) {
    request.stop_flag = exchange->stop_flag();
    const auto blocks = engine_->block_keys(request);
    if (!blocks.ok()) return respond(exchange, error_response(blocks.error()));
    prompts.push_back(Json::object(
        {{"tokens", blocks->tokens}, {"keys", Json(Json::Array(blocks->keys.begin(), blocks->keys.end()))}}));
  }
  respond(exchange, Json::object({{"tokens_per_block", engine_->options().tokens_per_block},
                                  {"prompts", Json(std::move(prompts))}}));
}

void ApiServer::server_info(std::shared_ptr<Exchange> exchange) {
  if (const Status health = engine_health(); !health.ok()) return respond(exchange, error_response(health.error()));
  const EngineMetrics metrics = engine_->metrics();
  const CacheGauges blocks = metrics.core.blocks();
  const std::string transfer = engine_->transfer_address();
  std::string identity = engine_->identity();
  if (options_.chat_template_in_request) {
    identity += ", takes chat templates";
    identity = hex_of(sha256(std::as_bytes(std::span(identity))));
  }
  Json load = Json::object({{"running", metrics.core.scheduler.running},
                            {"waiting", metrics.core.scheduler.waiting},
                            {"kv_used", blocks.used},
                            {"kv_total", blocks.max_blocks}});
  respond(exchange, Json::object({{"version", WEFT_VERSION},
                                  {"instance", instance_},
                                  {"role", name_of(engine_->options().role)},
                                  {"model", model_},
                                  {"generative", engine_->info().generative},
                                  {"identity", identity},
                                  {"tokens_per_block", engine_->options().tokens_per_block},
                                  {"kv_cache_events", engine_->options().kv_cache_events},
                                  {"transfer", transfer.empty() ? Json() : Json(transfer)},
                                  {"load", std::move(load)}}));
}

}  // namespace weft
