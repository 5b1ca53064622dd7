// `weft orchestrate`: the front of a deployment of several servers.
#include <cstdio>
#include <string_view>

#include "base/end_signals.h"
#include "base/files.h"
#include "base/log.h"
#include "commands.h"
#include "orchestrate/front.h"
#include "server/cluster.h"

namespace weft {

namespace {

std::chrono::milliseconds milliseconds_of(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
}

// "HOST:PORT", or a URL.
Result<ServerEntry> entry_of(const std::string& text, std::optional<ServerRole> role) {
  WEFT_TRY(ServerAddress address, parse_server_url(text.find("://") == std::string::npos ? "http://" + text : text));
  return ServerEntry{std::move(address), role};
}

Result<std::vector<ServerEntry>> entries_of(const OrchestrateArguments& o) {
  std::vector<ServerEntry> all;
  const auto add = [&](const std::vector<std::string>& urls, std::optional<ServerRole> role) -> Status {
    for (const std::string& url : urls) {
      WEFT_TRY(ServerEntry entry, entry_of(url, role));
      for (const ServerEntry& other : all)
        if (other.address == entry.address)
          return fail(Code::invalid_argument, "the server ", entry.address.text(), " is named twice");
      all.push_back(std::move(entry));
    }
    return {};
  };
  WEFT_RETURN_IF_ERROR(add(o.context.empty() ? o.context_servers.urls : o.context, ServerRole::context));
  WEFT_RETURN_IF_ERROR(add(o.generation.empty() ? o.generation_servers.urls : o.generation, ServerRole::generation));
  WEFT_RETURN_IF_ERROR(add(o.servers, std::nullopt));
  if (o.cluster.empty() && o.context.size() + o.context_servers.urls.size() == all.size())
    return fail(
        Code::invalid_argument,
        "no server that generates is named; give --generation URL or --server URL, a --config with them, or --cluster");
  return all;
}

// Those that are named, and those that are members of the cluster.
std::vector<ServerEntry> with_members(std::vector<ServerEntry> entries, const std::vector<ClusterEntry>& members) {
  for (const ClusterEntry& member : members) {
    auto entry = entry_of(member.url, member.role);
    if (entry.ok()) entries.push_back(std::move(*entry));
  }
  return entries;
}

RouterKind router_of(const std::string& option, const std::string& file) {
  const std::string& name = option.empty() ? file : option;
  return name.empty() ? RouterKind::load_balancing : *value_named<RouterKind>(name);
}

Status check_key(const char* option, const std::string& key) {
  for (const char c : key)
    if (c < ' ' || c > '~') return fail(Code::invalid_argument, option, " holds a character that no header may hold");
  return {};
}

Result<FrontOptions> front_options(const Arguments& arguments) {
  const OrchestrateArguments& o = arguments.orchestrate;
  FrontOptions options;
  WEFT_RETURN_IF_ERROR(check_key("--server-api-key", o.server_api_key));
  options.host = arguments.host, options.port = arguments.port, options.api_key = arguments.api_key;
  options.server_api_key = o.server_api_key;
  options.limits = arguments.http.limits;
  options.allowed_hosts = arguments.http.allowed_hosts, options.cors_origins = arguments.http.cors_origins;
  options.metrics_without_key = arguments.http.metrics_without_key;
  options.generation_router = router_of(o.generation_router, o.generation_servers.router);
  options.context_router = router_of(o.context_router, o.context_servers.router);
  options.passage.max_retries = o.max_retries;
  options.passage.connect_timeout = milliseconds_of(o.connect_timeout_s);
  options.passage.first_byte_timeout = milliseconds_of(o.first_byte_timeout_s);
  options.passage.request_timeout = milliseconds_of(o.request_timeout_s);
  if (!o.transfer_secret_file.empty()) {
    WEFT_TRY(options.passage.transfer_secret, read_secret(o.transfer_secret_file));
  }
  options.watch.interval = milliseconds_of(o.health_interval_s);
  return options;
}

}  // namespace

// ---- a group of the configuration file

Result<ServerGroup> read_server_group(const std::string& text) {
  const auto json = parse_json(text);
  if (!json.ok() || !json->is_object())
    return fail(Code::invalid_argument, "a group of servers must have the keys num_instances, urls and router");
  ServerGroup group;
  std::optional<int64_t> instances;
  for (const auto& [name, value] : json->members()) {
    if (name == "num_instances" && value.is_integer()) {
      instances = value.as_integer();
    } else if (name == "urls" && value.is_array()) {
      for (const Json& url : value.items()) {
        if (!url.is_string()) return fail(Code::invalid_argument, "urls holds ", url.dump(), ", which is no address");
        group.urls.push_back(url.as_string());
      }
    } else if (name == "router" && value.is_object()) {
      for (const auto& [key, kind] : value.members()) {
        if (key != "type" || !kind.is_string() || !value_named<RouterKind>(kind.as_string()))
          return fail(Code::invalid_argument,
                      "router must be type: round_robin, load_balancing or kv_cache_aware, got ", key, ": ",
                      kind.dump());
        group.router = kind.as_string();
      }
    } else {
      return fail(Code::invalid_argument, "a group of servers has num_instances (a number), urls (a list) and router (",
                  "type: NAME), not ", name, ": ", value.dump());
    }
  }
  if (instances && *instances != static_cast<int64_t>(group.urls.size()))
    return fail(Code::invalid_argument, "num_instances is ", *instances, ", but urls names ", group.urls.size(),
                " servers");
  return group;
}

Status orchestrate_command(const Arguments& arguments) {
  set_log_level(LogLevel::info);
  log_in_background();
  WEFT_TRY(std::vector<ServerEntry> entries, entries_of(arguments.orchestrate));
  WEFT_TRY(FrontOptions options, front_options(arguments));
  WEFT_TRY(const std::unique_ptr<Front> front, Front::listen(std::move(options)));
  const size_t count = entries.size();
  front->servers().set_members(entries);
  const EndSignals signals([&front] { front->stop(); },
                           "ended by a second signal, before the running answers were complete");
  std::unique_ptr<ClusterWatch> watch;
  if (!arguments.orchestrate.cluster.empty()) {
    WEFT_TRY(ClusterAddress cluster, parse_cluster_url(arguments.orchestrate.cluster));
    watch = std::make_unique<ClusterWatch>(std::move(cluster), [&, entries](std::vector<ClusterEntry> members) {
      front->servers().set_members(with_members(entries, members));
    });
  }
  const std::string host = arguments.host.find(':') == std::string::npos ? arguments.host : "[" + arguments.host + "]";
  const std::string who =
      watch ? "the servers of " + arguments.orchestrate.cluster : std::to_string(count) + " servers";
  std::fprintf(stderr, "weft: %s behind http://%s:%d (Ctrl-C ends it)\n", who.c_str(), host.c_str(), front->port());
  front->run();
  return {};
}

}  // namespace weft
