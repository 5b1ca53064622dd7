// `weft serve`: the HTTP server. The port is taken before the model is loaded, so that a busy one is known at once, and
// is served meanwhile: /health says that the process lives, /ready that the model is not there yet.
#include <cstdio>
#include <cstdlib>
#include <thread>

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

}  // namespace

Status serve_command(const Arguments& arguments, const EngineLoader& load) {
  set_log_level(LogLevel::info);
  ServerOptions options;
  options.host = arguments.host;
  options.port = arguments.port;
  options.served_model_name = arguments.served_model_name;
  options.api_key = arguments.api_key;
  options.chat_template_in_request = arguments.chat_template_in_request;
  WEFT_TRY(const std::unique_ptr<ApiServer> server, ApiServer::listen(std::move(options)));
  // A member from the moment when the model is there until the end begins, so that nobody sends requests before or
  // after.
  WEFT_TRY(const std::unique_ptr<ClusterMember> member, cluster_member(arguments, server->port()));
  if (member) server->on_drain([&member] { member->leave(); });
  std::atomic<bool> loading{true}, orderly{true};
  std::thread serving([&] {
    orderly = server->run(true);
    if (loading) std::_Exit(0);  // a signal; loading cannot be interrupted and has nothing to save
  });
  Arguments serving_arguments = arguments;
  serving_arguments.engine.admission = arguments.admission;
  auto engine = load_model(serving_arguments, load);
  loading = false;
  if (engine.ok()) {
    server->attach(**engine);
    if (member) member->start();
    const std::string& name =
        arguments.served_model_name.empty() ? (*engine)->info().name : arguments.served_model_name;
    std::fprintf(stderr, "weft: serving %s at %s (Ctrl-C ends it)\n", name.c_str(),
                 url_of(arguments.host, server->port()).c_str());
  } else {
    server->stop();
  }
  serving.join();
  if (!engine.ok()) return std::move(engine).error();
  if (!orderly) return fail(Code::cancelled, "ended by a second signal, before the running answers were complete");
  return {};
}

}  // namespace weft
