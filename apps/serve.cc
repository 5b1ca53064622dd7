// `weft serve`: the HTTP server. The port is taken before the model is loaded, so that a busy one is known at once, and
// is served meanwhile: /health says that the process lives, /ready that the model is not there yet.
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "base/log.h"
#include "server/api_server.h"
#include "terminal.h"

namespace weft {

Status serve_command(const Arguments& arguments, const EngineLoader& load) {
  set_log_level(LogLevel::info);
  ServerOptions options;
  options.host = arguments.host;
  options.port = arguments.port;
  options.served_model_name = arguments.served_model_name;
  options.api_key = arguments.api_key;
  options.chat_template_in_request = arguments.chat_template_in_request;
  WEFT_TRY(const std::unique_ptr<ApiServer> server, ApiServer::listen(std::move(options)));
  std::atomic<bool> loading{true}, orderly{true};
  std::thread serving([&] {
    orderly = server->run(true);
    if (loading) std::_Exit(0);  // a signal; loading cannot be interrupted and has nothing to save
  });
  auto engine = load_model(arguments, load);
  loading = false;
  if (engine.ok()) {
    server->attach(**engine);
    const std::string& name =
        arguments.served_model_name.empty() ? (*engine)->info().name : arguments.served_model_name;
    const std::string host =
        arguments.host.find(':') == std::string::npos ? arguments.host : "[" + arguments.host + "]";
    std::fprintf(stderr, "weft: serving %s at http://%s:%d (Ctrl-C ends it)\n", name.c_str(), host.c_str(),
                 server->port());
  } else {
    server->stop();
  }
  serving.join();
  if (!engine.ok()) return std::move(engine).error();
  if (!orderly) return fail(Code::cancelled, "ended by a second signal, before the running answers were complete");
  return {};
}

}  // namespace weft
