// `weft serve`: the HTTP server. The port is taken before the model is loaded, so that a busy one is known at once.
#include <cstdio>

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
  WEFT_TRY(const std::unique_ptr<Engine> engine, load_model(arguments, load));
  const bool v6 = arguments.host.find(':') != std::string::npos;
  std::fprintf(stderr, "weft: serving %s at http://%s:%d (Ctrl-C ends it)\n",
               arguments.served_model_name.empty() ? engine->info().name.c_str() : arguments.served_model_name.c_str(),
               (v6 ? "[" + arguments.host + "]" : arguments.host).c_str(), server->port());
  if (!server->serve(*engine, true)) return fail(Code::cancelled, "ended by a second signal, before the running answers were complete");
  return {};
}

}  // namespace weft
