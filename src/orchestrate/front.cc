// See the header.
#include "orchestrate/front.h"

#include <algorithm>
#include <thread>

#include "base/keep_going.h"
#include "server/api_key.h"
#include "server/errors.h"
#include "server/http_client.h"

namespace weft {

namespace {

constexpr std::string_view kModelPrefix = "/v1/models/";
constexpr const char kPrometheusType[] = "text/plain; version=0.0.4; charset=utf-8";

std::string shortened(const std::string& text) { return text.size() <= 80 ? text : text.substr(0, 80) + "..."; }

Json status_json(const ServerStatus& server) {
  Json json = Json::object({{"url", server.url},
                            {"role", name_of(server.role)},
                            {"state", name_of(server.state)},
                            {"reason", server.reason.empty() ? Json() : Json(server.reason)},
                            {"in_flight", server.in_flight},
                            {"requests", static_cast<long>(server.requests)},
                            {"failures", static_cast<long>(server.failures)},
                            {"cached_blocks", static_cast<long>(server.cached_blocks)}});
  if (!server.info) return json;
  const ServerInfo& info = *server.info;
  json.set("model", info.model), json.set("version", info.version), json.set("identity", info.identity);
  json.set("transfer", info.transfer.empty() ? Json() : Json(info.transfer));
  json.set("load", Json::object({{"running", static_cast<long>(info.running)},
                                 {"waiting", static_cast<long>(info.waiting)},
                                 {"kv_used", static_cast<long>(info.kv_used)},
                                 {"kv_total", static_cast<long>(info.kv_total)}}));
  return json;
}

FrontOptions prepared(FrontOptions options) {
  options.limits.ping *= 2;  // servers send comments of their own into streams
  if (!options.server_api_key.empty()) {
    options.passage.headers = {{"Authorization", "Bearer " + options.server_api_key}};
    options.watch.headers = options.passage.headers;
  }
  return options;
}

// The texts of servers that are asked at once.
struct Gathered {
  std::vector<std::pair<std::string, std::string>> text_by_url;
  size_t missing = 0;
};

}  // namespace

const Front::Route Front::kRoutes[] = {
    {"/v1/chat/completions", "POST", &Front::pass_generation, HttpPlace::pool, false},
    {"/v1/completions", "POST", &Front::pass_generation, HttpPlace::pool, false},
    {"/v1/classify", "POST", &Front::pass, HttpPlace::pool, false},
    {"/classify", "POST", &Front::pass, HttpPlace::pool, false},
    {"/v1/score", "POST", &Front::pass, HttpPlace::pool, false},
    {"/score", "POST", &Front::pass, HttpPlace::pool, false},
    {"/v1/reward", "POST", &Front::pass, HttpPlace::pool, false},
    {"/v1/models", "GET", &Front::pass, HttpPlace::pool, false},
    {"/tokenize", "POST", &Front::pass, HttpPlace::pool, false},
    {"/v1/tokenize", "POST", &Front::pass, HttpPlace::pool, false},
    {"/detokenize", "POST", &Front::pass, HttpPlace::pool, false},
    {"/v1/detokenize", "POST", &Front::pass, HttpPlace::pool, false},
    {"/health", "GET", &Front::health, HttpPlace::at_once, true},
    {"/ready", "GET", &Front::ready, HttpPlace::at_once, true},
    {"/version", "GET", &Front::version, HttpPlace::at_once, true},
    {"/metrics", "GET", &Front::metrics, HttpPlace::watch, false},  // these two: see needs_key
    {"/metrics/servers", "GET", &Front::server_metrics, HttpPlace::watch, false},
    {"/cluster_info", "GET", &Front::cluster_info, HttpPlace::watch, false},
};

Front::Front(FrontOptions options)
    : options_(prepared(std::move(options))),
      origins_{options_.host, !options_.api_key.empty(), options_.allowed_hosts, options_.cors_origins},
      servers_(options_.generation_router, options_.context_router), watcher_(calls_, servers_, options_.watch),
      world_{options_.passage, calls_, servers_, metrics_} {}

Front::~Front() = default;

Result<std::unique_ptr<Front>> Front::listen(FrontOptions options) {
  std::unique_ptr<Front> front(new Front(std::move(options)));
  HttpHandlers handlers;
  handlers.admit = [self = front.get()](const HttpRequest& head) { return self->admit(head); };
  handlers.place = [](const HttpRequest& request) {
    const Route* const route = route_of(request.path);
    return route ? route->place : HttpPlace::pool;
  };
  handlers.handler = [self = front.get()](std::shared_ptr<Exchange> exchange) { self->handle(std::move(exchange)); };
  handlers.refuse = [](int status, const std::string& message) { return error_response(status, message); };
  WEFT_TRY(front->http_,
           HttpServer::listen(front->options_.host, front->options_.port, front->options_.limits, std::move(handlers)));
  return front;
}

void Front::run() {
  watcher_.begin();
  std::thread calling([this] { keep_going("the calls of the servers", [&] { calls_.run(); }); });
  http_->run();
  keep_going("the end of the calls", [&] { calls_.stop(); });
  calling.join();
}

const Front::Route* Front::route_of(const std::string& path) {
  const auto route = std::ranges::find_if(kRoutes, [&](const Route& one) { return path == one.path; });
  return route == std::end(kRoutes) ? nullptr : route;
}

bool Front::needs_key(const Route* route) const {
  const bool is_metrics = route && (route->call == &Front::metrics || route->call == &Front::server_metrics);
  return !(route && route->open) && !(is_metrics && options_.metrics_without_key);
}

HttpAdmission Front::admit(const HttpRequest& head) {
  HttpAdmission admission = check_origin(head, origins_);
  if (!admission.refusal) admission.refusal = refusal(head, route_of(head.path));
  if (admission.refusal) count(head, admission.refusal->status);
  return admission;
}

std::optional<HttpResponse> Front::refusal(const HttpRequest& head, const Route* route) const {
  if (needs_key(route) && !has_api_key(head, options_.api_key)) return api_key_wanted();
  if (route && head.method != route->method) {
    HttpResponse response = error_response(405, head.path + " takes " + route->method);
    response.headers.emplace_back("Allow", route->method == std::string_view("GET") ? "GET, HEAD" : route->method);
    return response;
  }
  if (route || (head.path.starts_with(kModelPrefix) && head.method == "GET")) return std::nullopt;
  return error_response(404, "there is nothing at " + json_quote(shortened(head.path)));
}

void Front::handle(std::shared_ptr<Exchange> exchange) {
  if (const Route* route = route_of(exchange->request().path)) return (this->*route->call)(std::move(exchange));
  pass(std::move(exchange));  // of a model
}

void Front::count(const HttpRequest& request, int status) {
  const Route* const route = route_of(request.path);
  metrics_.count_response(route ? route->path : "other", status);
}

void Front::respond(const std::shared_ptr<Exchange>& exchange, HttpResponse response) {
  count(exchange->request(), response.status);
  exchange->respond(std::move(response));
}

// ---- calls of the servers

void Front::pass_generation(std::shared_ptr<Exchange> exchange) {
  std::string path = exchange->request().path;
  Passage::start(world_, std::move(exchange), std::move(path), true);
}

void Front::pass(std::shared_ptr<Exchange> exchange) {
  std::string path = exchange->request().path;
  if (path.starts_with(kModelPrefix)) path = "/v1/models";
  Passage::start(world_, std::move(exchange), std::move(path), false);
}

// ---- its own

void Front::health(std::shared_ptr<Exchange> exchange) {
  respond(exchange, {.body = Json::object({{"status", "ok"}}).dump()});
}

void Front::ready(std::shared_ptr<Exchange> exchange) {
  if (const Status status = servers_.ready(); !status.ok())
    return respond(exchange, error_response(503, status.error().message()));
  respond(exchange, {.body = Json::object({{"status", "ready"}}).dump()});
}

void Front::version(std::shared_ptr<Exchange> exchange) {
  respond(exchange, {.body = Json::object({{"version", WEFT_VERSION}}).dump()});
}

void Front::metrics(std::shared_ptr<Exchange> exchange) {
  respond(exchange, {.body = metrics_.prometheus(servers_.status(), http_->stats().connections),
                     .content_type = kPrometheusType});
}

void Front::server_metrics(std::shared_ptr<Exchange> exchange) {
  const auto gathered = std::make_shared<Gathered>();
  std::vector<ServerStatus> up = servers_.status();
  std::erase_if(up, [](const ServerStatus& server) { return server.state != ServerState::up; });
  gathered->missing = up.size();
  for (const ServerStatus& server : up) gathered->text_by_url.emplace_back(server.url, "");
  const auto finish = [this, exchange, gathered] {
    respond(exchange, {.body = merge_metrics(gathered->text_by_url), .content_type = kPrometheusType});
  };
  if (up.empty()) return finish();
  for (size_t i = 0; i < up.size(); ++i) {
    HttpCall call{.server = up[i].entry.address, .path = "/metrics", .headers = options_.watch.headers};
    call.connect_timeout = call.timeout = options_.watch.timeout;
    call.most_bytes = kMostReplyBytes;
    const auto done = [gathered, finish, i](HttpReply reply) {
      if (reply.status == 200) gathered->text_by_url[i].second = std::move(reply.body);
      if (--gathered->missing == 0) finish();
    };
    calls_.start(std::move(call), collect_reply(std::make_shared<HttpReply>(), done));
  }
}

void Front::cluster_info(std::shared_ptr<Exchange> exchange) {
  Json::Array servers;
  for (const ServerStatus& server : servers_.status()) servers.push_back(status_json(server));
  respond(exchange,
          {.body = Json::object({{"version", WEFT_VERSION},
                                 {"routers", Json::object({{"generation", name_of(options_.generation_router)},
                                                           {"context", name_of(options_.context_router)}})},
                                 {"servers", Json(std::move(servers))}})
                       .dump()});
}

}  // namespace weft
