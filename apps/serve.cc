// `weft serve`: the HTTP server. The port is taken before the model is loaded, so that a busy one is known at once, and
// is served meanwhile: /health says that the process lives, /ready that the model is not there yet.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "base/end_signals.h"
#include "base/keep_going.h"
#include "base/log.h"
#include "server/api_server.h"
#include "server/cluster.h"
#include "terminal.h"

namespace weft {

namespace {

std::string url_of(const std::string& host, int port) {
  const std::string name = host.find(':') == std::string::npos ? host : "[" + host + "]";
  return "http://" + name + ":" + std::to_string(port);
}

// This server in the deployment of --cluster; null: there is none.
Result<std::unique_ptr<ClusterMember>> cluster_member(const Arguments& arguments, int port) {
  if (arguments.cluster.empty()) return std::unique_ptr<ClusterMember>();
  WEFT_TRY(ClusterAddress cluster, parse_cluster_url(arguments.cluster));
  const std::string url = arguments.advertise_url.empty() ? url_of(arguments.host, port) : arguments.advertise_url;
  WEFT_TRY(ClusterEntry entry, cluster_entry(url, arguments.engine.role));
  return std::make_unique<ClusterMember>(std::move(cluster), std::move(entry));
}

// The thread that runs the server. What ends the command beside it (a model that does not load, missing memory) ends
// the server first.
class Serving {
 public:
  explicit Serving(ApiServer& server) : server_(server), thread_([this] { run(); }) {}
  ~Serving() {
    loading_ = false;
    if (!thread_.joinable()) return;
    keep_going("the end of the server", [&] { server_.stop(); });
    join();
  }
  Serving(const Serving&) = delete;
  Serving& operator=(const Serving&) = delete;
  void loaded() { loading_ = false; }
  void join() { thread_.join(); }

 private:
  void run() {
    server_.run();
    if (!loading_) return;
    flush_log(std::chrono::milliseconds(500));
    std::_Exit(0);  // a signal; loading cannot be interrupted and has nothing to save
  }

  ApiServer& server_;
  std::atomic<bool> loading_{true};
  std::thread thread_;  // last: it uses the others
};

}  // namespace

Status serve_command(const Arguments& arguments, const EngineLoader& load) {
  set_log_level(LogLevel::info);
  log_in_background();
  ServerOptions options;
  options.host = arguments.host;
  options.port = arguments.port;
  options.served_model_name = arguments.served_model_name;
  options.api_key = arguments.api_key;
  options.requests_memory = arguments.requests_memory;
  options.chat_template_in_request = arguments.chat_template_in_request;
  options.watchdog_s = arguments.watchdog_s;
  options.limits = arguments.http.limits;
  options.allowed_hosts = arguments.http.allowed_hosts, options.cors_origins = arguments.http.cors_origins;
  options.metrics_without_key = arguments.http.metrics_without_key;
  WEFT_TRY(const std::unique_ptr<ApiServer> server, ApiServer::listen(std::move(options)));
  // A member from the moment when the model is there until the end begins, so that nobody sends requests before or
  // after.
  WEFT_TRY(const std::unique_ptr<ClusterMember> member, cluster_member(arguments, server->port()));
  if (member) server->on_drain([&member] { member->leave(); });
  const EndSignals signals([&server] { server->stop(); },
                           "ended by a second signal, before the running answers were complete");
  std::unique_ptr<Engine> engine;  // goes after the server
  Serving serving(*server);
  Arguments serving_arguments = arguments;
  serving_arguments.engine.admission = arguments.admission;
  WEFT_TRY(engine, load_model(serving_arguments, load));
  const std::string& name = arguments.served_model_name.empty() ? engine->info().name : arguments.served_model_name;
  for (const LoraModule& adapter : arguments.engine.lora.modules)
    if (adapter.name == name)
      return fail(Code::invalid_argument, "--lora ", name, ": this is the model's name; give one of them another");
  serving.loaded();
  server->attach(*engine);
  if (member) member->start();
  std::fprintf(stderr, "weft: serving %s at %s (Ctrl-C ends it)\n", name.c_str(),
               url_of(arguments.host, server->port()).c_str());
  serving.join();
  return {};
}

}  // namespace weft
