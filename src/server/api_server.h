// The OpenAI-compatible server: routes, keys, models, and the calls behind them.
//
//   POST /v1/chat/completions   POST /v1/completions   GET /v1/models[/NAME]
//   POST /v1/load_lora_adapter   POST /v1/unload_lora_adapter       (with --allow-lora-loading; api_server_adapters.cc)
//   POST /v1/classify   POST /v1/score   POST /v1/reward            (classifiers and reward models)
//   POST /tokenize   POST /detokenize                               (also under /v1)
//   POST /kv_cache_events   POST /block_keys   GET /server_info     (for what chooses among servers:
//   api_server_cluster.cc)
//   GET /health (the process)   GET /ready (a model is loaded)   GET /version   GET /metrics (Prometheus)
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "api/engine.h"
#include "api/request_json.h"
#include "base/memory_account.h"
#include "base/result.h"
#include "server/http.h"
#include "server/http_server.h"
#include "server/metrics.h"
#include "server/request_origin.h"
#include "server/scoring.h"

namespace weft {

struct ServerOptions {
  std::string host = "127.0.0.1";
  int port = 8000;
  std::string served_model_name;  // empty: the model's own
  std::string api_key;            // empty: none needed
  bool metrics_without_key = false;
  std::vector<std::string> allowed_hosts, cors_origins;  // see request_origin.h
  bool chat_template_in_request = false;
  double watchdog_s = 300;  // without a step while there is work, until /health says so; 0: never
  HttpLimits limits;
  int64_t requests_memory = int64_t{384} << 20;  // bytes that all requests and their answers may take; 0: no limit
};

class ApiServer {
 public:
  // Takes the port, so that a busy one is known before a model is loaded.
  static Result<std::unique_ptr<ApiServer>> listen(ServerOptions options);

  int port() const { return http_->port(); }
  // Serves until the end; see HttpServer::run. Until an engine is attached, requests are answered with 503.
  void run() { http_->run(); }
  // From now on requests are answered with `engine`, which must live until run() has returned. Once; any thread.
  void attach(Engine& engine);
  void stop() { http_->stop(); }
  // See HttpServer.
  void on_drain(std::function<void()> callback) { http_->on_drain(std::move(callback)); }
  HttpServer& http() { return *http_; }

 private:
  using Call = void (ApiServer::*)(std::shared_ptr<Exchange> exchange);
  struct Route {
    const char* path;
    const char* method;
    Call call;
    HttpPlace place;
    bool open;    // needs no API key
    bool always;  // works before an engine is attached
  };
  static const Route kRoutes[];
  // A request's JSON, and its part of the account.
  struct Body {
    MemoryCharge memory;
    Json json;
  };

  explicit ApiServer(ServerOptions options);
  static const Route* route_of(const std::string& path);
  bool needs_key(const Route* route) const;
  // Of HttpHandlers: what is found before the body is read, and where the rest is done.
  HttpAdmission admit(const HttpRequest& head);
  HttpPlace place(const HttpRequest& request) const;
  std::optional<HttpResponse> refusal(const HttpRequest& head, const Route* route) const;
  void handle(std::shared_ptr<Exchange> exchange);
  void models(std::shared_ptr<Exchange> exchange);
  void chat(std::shared_ptr<Exchange> exchange);
  void completions(std::shared_ptr<Exchange> exchange);
  void generate(std::shared_ptr<Exchange> exchange, bool chat);
  void classify(std::shared_ptr<Exchange> exchange);
  void score(std::shared_ptr<Exchange> exchange);
  void reward(std::shared_ptr<Exchange> exchange);
  void scoring(std::shared_ptr<Exchange> exchange, ScoringKind kind);
  void tokenize(std::shared_ptr<Exchange> exchange);
  void detokenize(std::shared_ptr<Exchange> exchange);
  void load_lora_adapter(std::shared_ptr<Exchange> exchange);
  void unload_lora_adapter(std::shared_ptr<Exchange> exchange);
  void kv_cache_events(std::shared_ptr<Exchange> exchange);
  void block_keys(std::shared_ptr<Exchange> exchange);
  void server_info(std::shared_ptr<Exchange> exchange);
  void health(std::shared_ptr<Exchange> exchange);
  void ready(std::shared_ptr<Exchange> exchange);
  void version(std::shared_ptr<Exchange> exchange);
  void metrics(std::shared_ptr<Exchange> exchange);
  Status engine_health() const;
  // The body as a JSON object. Returns nothing if it is not one; the error response has then been sent.
  std::optional<Body> read_body(const std::shared_ptr<Exchange>& exchange);
  Result<MemoryCharge> charge_answer(int64_t bytes, const char* field, const std::string& client);
  // Whether `model` is served here. Adapters are, under their names.
  Status check_model(const std::string& model) const;
  RequestRules rules(const Exchange& exchange);
  Json model_card() const;
  Json adapter_card(const AdapterInfo& adapter) const;
  void respond(const std::shared_ptr<Exchange>& exchange, HttpResponse response);
  void respond(const std::shared_ptr<Exchange>& exchange, const Json& body);
  void count(const HttpRequest& request, int status);
  void warn_ignored(const std::string& field);
  std::string fresh_id();

  const ServerOptions options_;
  const OriginRules origins_;
  std::unique_ptr<HttpServer> http_;
  std::atomic<bool> attached_{false};  // the members below are set
  Engine* engine_ = nullptr;
  std::string model_, fingerprint_;
  std::string instance_;  // another one after each start
  int64_t created_s_ = 0;
  ServerMetrics metrics_;
  const std::shared_ptr<MemoryAccount> memory_;
  std::atomic<uint64_t> next_id_{0};
  std::mutex warned_mutex_;
  std::set<std::string> warned_;
};

}  // namespace weft
