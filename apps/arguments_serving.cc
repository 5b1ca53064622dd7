// The options of `weft serve` and `weft orchestrate`.
#include <arpa/inet.h>

#include <cstring>

#include "arguments_parts.h"
#include "orchestrate/router.h"
#include "server/cluster.h"
#include "server/http_limits.h"
#include "server/request_origin.h"

namespace weft {

namespace {

std::string fault_of_cluster(const std::string& url) {
  const auto read = parse_cluster_url(url);
  return read.ok() ? "" : read.error().message();
}

bool is_any_address(const std::string& host) {
  in_addr four{};
  in6_addr six{};
  if (::inet_pton(AF_INET, host.c_str(), &four) == 1) return four.s_addr == INADDR_ANY;
  return ::inet_pton(AF_INET6, host.c_str(), &six) == 1 && std::memcmp(&six, &in6addr_any, sizeof six) == 0;
}

CLI::Option* add_seconds(CLI::App* app, const std::string& name, double& target, const std::string& help, double low) {
  return app->add_option(name, target, help)
      ->check(CLI::Range(low, 1e6))
      ->check(kFinite)
      ->type_name("SECONDS")
      ->capture_default_str()
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
}

// An option for each row of the table of limits.
void add_limits(CLI::App* app, HttpLimits& limits) {
  for (const HttpLimit& limit : http_limits()) {
    const std::string name(limit.flag);
    const std::string help = capitalised(limit.bounds) + " (" + std::string(limit.status) + ")";
    CLI::Option* option = nullptr;
    std::string usual;
    if (const auto* count = std::get_if<int HttpLimits::*>(&limit.member)) {
      option = add_number(app, name, limits.**count, help, static_cast<int>(limit.low), static_cast<int>(limit.high));
      usual = std::to_string(limits.**count);
    } else if (const auto* bytes = std::get_if<size_t HttpLimits::*>(&limit.member)) {
      option = app->add_option_function<std::string>(
          name,
          [name, &limit, &target = limits.**bytes](const std::string& text) {
            const auto size = parse_size(text);
            if (!size.ok()) throw CLI::ValidationError(name, size.error().message());
            if (static_cast<double>(*size) < limit.low || static_cast<double>(*size) > limit.high)
              throw CLI::ValidationError(name, "must be between " + std::to_string(static_cast<int64_t>(limit.low)) +
                                                   " and " + std::to_string(static_cast<int64_t>(limit.high)) +
                                                   " bytes, got " + text);
            target = static_cast<size_t>(*size);
          },
          help);
      option->type_name("SIZE");
      usual = size_text(static_cast<int64_t>(limits.**bytes));
    } else {
      auto& target = limits.*std::get<std::chrono::milliseconds HttpLimits::*>(limit.member);
      option = app->add_option_function<double>(
          name, [&target](double seconds) { target = std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000)); },
          help);
      option->check(CLI::Range(limit.low, limit.high))->check(kFinite)->type_name("SECONDS");
      usual = Json(static_cast<double>(target.count()) / 1000).dump();
      if (usual.ends_with(".0")) usual.resize(usual.size() - 2);
    }
    option->default_str(usual)->multi_option_policy(CLI::MultiOptionPolicy::TakeLast)->group(kLimitOptions);
  }
}

// What both commands know of clients.
void add_http(CLI::App* app, HttpArguments& http) {
  const auto list = [&](const std::string& name, Words& target, const std::string& help, const char* type,
                        std::string (*fault)(const std::string&)) {
    app->add_option(name, target, help)
        ->delimiter(',')
        ->allow_extra_args(false)
        ->type_name(type)
        ->check([fault](const std::string& text) { return fault(text); });
  };
  list("--allowed-hosts", http.allowed_hosts,
       "Names that requests may call this server by (Host), * for all; default: addresses and names that strangers "
       "cannot give an address, or all with --api-key; see docs/contract.md",
       "NAME,...", fault_of_allowed_host);
  list("--cors-origins", http.cors_origins,
       "Origins whose pages may use this server (https://example.org), * for all; default: its own", "ORIGIN,...",
       fault_of_origin);
  app->add_flag("--metrics-without-key", http.metrics_without_key, "Give /metrics to those without the API key, too");
  add_limits(app, http.limits);
}

}  // namespace

void add_serve(CLI::App* serve, Arguments& a) {
  add_text(serve, "--host", a.host, "Address to listen on", "HOST");
  add_number(serve, "--port", a.port, "Port to listen on; 0: any free one", 0, 65535);
  add_text(serve, "--served-model-name", a.served_model_name, "Name of the model in requests; default: the folder's",
           "NAME");
  add_text(serve, "--api-key", a.api_key, "Key that requests must bring", "KEY");
  serve->add_flag("--allow-chat-template-in-request", a.chat_template_in_request,
                  "Let requests bring their own chat template");
  add_http(serve, a.http);
  add_limit(
      serve, "--max-requests-memory", a.requests_memory, true,
      "Memory that all requests and their answers take together, JSON included; 0: no limit (429, or 413 where one "
      "alone would need more)");
  for (CLI::Option* option :
       {add_number(serve, "--max-queue", a.admission.max_queue,
                   "Requests that wait and have not started; 0: no bound (429)", 0),
        add_number(serve, "--max-queue-per-client", a.admission.max_queue_per_client,
                   "The same of one client, which is an address; 0: no bound of its own (429)", 0),
        add_number(serve, "--max-client-priority", a.admission.max_client_priority,
                   "Priority of a request; a higher one counts as this", 0, 100),
        add_seconds(serve, "--request-timeout", a.admission.request_timeout_s, "For a whole answer; 0: no limit (503)",
                    0),
        add_seconds(serve, "--watchdog", a.watchdog_s,
                    "Without a step while there is work, until /health is a 503; 0: never", 0)})
    option->group(kLimitOptions);
  CLI::Option* cluster = add_text(serve, "--cluster", a.cluster,
                                  "Register in this etcd as a server of the deployment NAME, while the model is served",
                                  "etcd://HOST:PORT/NAME");
  cluster->check(fault_of_cluster);
  add_text(serve, "--advertise-url", a.advertise_url,
           "--cluster: where others reach this server; default: http://HOST:PORT as above", "URL")
      ->needs(cluster)
      ->check([](const std::string& text) {
        const auto read = parse_server_url(text);
        return read.ok() ? "" : read.error().message();
      });
}

std::string fault_of_serve(const Arguments& a) {
  if (a.cluster.empty() || !a.advertise_url.empty() || !is_any_address(a.host)) return "";
  return "--cluster needs --advertise-url http://HOST:PORT with --host " + a.host +
         ", which is no address that others reach";
}

void add_orchestrate(CLI::App* app, Arguments& a) {
  OrchestrateArguments& o = a.orchestrate;
  app->add_option("--config", "Options from a YAML file, their names with underscores; see docs/serving-at-scale.md")
      ->type_name("FILE.yaml");  // read before; see expand_config
  add_text(app, "--host,--hostname", a.host, "Address to listen on", "HOST");
  add_number(app, "--port", a.port, "Port to listen on; 0: any free one", 0, 65535);
  add_text(app, "--api-key", a.api_key, "Key that requests must bring", "KEY");
  add_http(app, a.http);
  const auto servers = [&](const std::string& name, Words& target, const std::string& help) {
    app->add_option(name, target, help)->type_name("URL")->allow_extra_args(false);
  };
  servers("--context", o.context, "A server that computes prompts, http://HOST:PORT or HOST:PORT; may be repeated");
  servers("--generation", o.generation, "A server that generates; may be repeated");
  servers("--server,--servers", o.servers, "A server that says itself what it does (--role); may be repeated");
  add_text(app, "--cluster", o.cluster, "Servers that register in this etcd; they may join and leave",
           "etcd://HOST:PORT/NAME")
      ->check(fault_of_cluster);
  const auto group = [&](const std::string& name, ServerGroup& target) {  // for the file
    app->add_option_function<std::string>(name,
                                          [name, &target](const std::string& text) {
                                            const auto read = read_server_group(text);
                                            if (!read.ok()) throw CLI::ValidationError(name, read.error().message());
                                            target = *read;
                                          })
        ->group("");
  };
  group("--context-servers", o.context_servers), group("--generation-servers", o.generation_servers);
  const auto router = [&](const std::string& name, std::string& target, const std::string& what) {
    add_text(app, name, target, "How a server " + what + " is chosen; default: load_balancing", "NAME")
        ->check(CLI::IsMember(all_names<RouterKind>()));
  };
  router("--context-router", o.context_router, "for prompts");
  router("--generation-router", o.generation_router, "for an answer");
  add_text(app, "--server-api-key", o.server_api_key, "Key that is sent to the servers", "KEY");
  add_text(app, "--transfer-secret-file", o.transfer_secret_file,
           "File with the secret that servers know as --kv-transfer-secret-file", "FILE");
  add_number(app, "--max-retries", o.max_retries, "Other servers that a request goes to when one does not answer", 0,
             1000);
  add_seconds(app, "--health-interval", o.health_interval_s, "Between two questions to a server how it is", 0.01);
  add_seconds(app, "--connect-timeout", o.connect_timeout_s, "To reach a server", 0.01);
  add_seconds(app, "--first-byte-timeout", o.first_byte_timeout_s, "To the beginning of an answer; 0: no limit", 0);
  add_seconds(app, "--request-timeout", o.request_timeout_s, "For a whole answer; 0: no limit", 0);
}

}  // namespace weft
