// The OpenAI-compatible front of a deployment of several `weft serve`: requests go to one of its servers, and answers
// back to the client.
//
//   as of a server: POST /v1/chat/completions   /v1/completions   /v1/classify   /v1/score   /v1/reward   /tokenize
//                   /detokenize   GET /v1/models[/NAME]
//   its own:        GET /health   /ready (a server is up)   /version   /metrics   /metrics/servers   /cluster_info
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "orchestrate/front_metrics.h"
#include "orchestrate/passage.h"
#include "orchestrate/server_list.h"
#include "orchestrate/watcher.h"
#include "server/http_server.h"
#include "server/request_origin.h"

namespace weft {

struct FrontOptions {
  std::string host = "127.0.0.1";
  int port = 8000;
  std::string api_key;         // that clients must bring; empty: none
  std::string server_api_key;  // that is sent to the servers; empty: none
  bool metrics_without_key = false;
  std::vector<std::string> allowed_hosts, cors_origins;  // see server/request_origin.h
  RouterKind generation_router = RouterKind::load_balancing, context_router = RouterKind::load_balancing;
  PassageOptions passage;  // its headers are set by the front
  WatchOptions watch;      // likewise
  HttpLimits limits;
};

class Front {
 public:
  // Takes the port.
  static Result<std::unique_ptr<Front>> listen(FrontOptions options);
  ~Front();

  int port() const { return http_->port(); }
  // Who the servers are; may be changed at any time.
  ServerList& servers() { return servers_; }
  // Serves on the calling thread until the end; see HttpServer::run. Once.
  void run();
  void stop() { http_->stop(); }  // any thread

 private:
  using Call = void (Front::*)(std::shared_ptr<Exchange> exchange);
  struct Route {
    const char* path;
    const char* method;
    Call call;
    HttpPlace place;
    bool open;  // needs no API key
  };
  static const Route kRoutes[];

  explicit Front(FrontOptions options);
  static const Route* route_of(const std::string& path);
  bool needs_key(const Route* route) const;
  HttpAdmission admit(const HttpRequest& head);
  std::optional<HttpResponse> refusal(const HttpRequest& head, const Route* route) const;
  void handle(std::shared_ptr<Exchange> exchange);
  void pass_generation(std::shared_ptr<Exchange> exchange);
  void pass(std::shared_ptr<Exchange> exchange);
  void health(std::shared_ptr<Exchange> exchange);
  void ready(std::shared_ptr<Exchange> exchange);
  void version(std::shared_ptr<Exchange> exchange);
  void metrics(std::shared_ptr<Exchange> exchange);
  void server_metrics(std::shared_ptr<Exchange> exchange);
  void cluster_info(std::shared_ptr<Exchange> exchange);
  void count(const HttpRequest& request, int status);
  void respond(const std::shared_ptr<Exchange>& exchange, HttpResponse response);

  const FrontOptions options_;
  const OriginRules origins_;
  ServerList servers_;
  FrontMetrics metrics_;
  HttpCalls calls_;
  Watcher watcher_;
  const PassageWorld world_;
  std::unique_ptr<HttpServer> http_;
};

}  // namespace weft
