// See the header.
#include "orchestrate/watcher.h"

#include "base/log.h"
#include "server/http_client.h"

namespace weft {

namespace {

constexpr std::chrono::milliseconds kEventInterval{250};
constexpr int kMostEvents = 8192;  // of an answer; then the next is asked for at once

// "its model is being loaded": what the body of an error says.
std::string error_message(const HttpReply& reply) {
  const auto json = parse_json(reply.body);
  const Json* error = json.ok() ? json->find("error") : nullptr;
  const Json* message = error ? error->find("message") : nullptr;
  std::string text = "/server_info answered with status " + std::to_string(reply.status);
  return message && message->is_string() ? text + ": " + message->as_string() : text;
}

Result<ServerInfo> info_of(const HttpReply& reply) {
  if (reply.failure == HttpFailure::unreachable)
    return fail(Code::unavailable, "it cannot be reached: ", reply.problem);
  if (reply.failure != HttpFailure::none) return fail(Code::unavailable, "/server_info: ", reply.problem);
  if (reply.status != 200) return fail(Code::unavailable, error_message(reply));
  const auto json = parse_json(reply.body);
  if (!json.ok()) return fail(Code::unavailable, "its /server_info is ", json.error().message());
  return read_server_info(*json);
}

}  // namespace

void Watcher::begin() {
  calls_.post([this] { ask_all(); });
  calls_.post([this] { read_all_events(); });
}

HttpCall Watcher::call_to(const ServerAddress& address, const char* method, const char* path) const {
  HttpCall call{.server = address, .method = method, .path = path, .headers = options_.headers};
  call.connect_timeout = call.timeout = options_.timeout;
  call.most_bytes = kMostReplyBytes;
  return call;
}

void Watcher::ask_all() {
  for (const ServerStatus& server : servers_.status())
    if (asked_.insert(server.url).second) ask(server);
  calls_.after(options_.interval, [this] { ask_all(); });
}

void Watcher::ask(const ServerStatus& server) {
  const auto done = [this, url = server.url, before = server.state](const HttpReply& reply) {
    asked_.erase(url);
    auto info = info_of(reply);
    if (info.ok()) servers_.take_info(url, std::move(info).value());
    else servers_.take_failure(url, info.error().message());
    for (const ServerStatus& now : servers_.status())
      if (now.url == url && now.state != before)
        log_info("server", " url=", url, " state=", name_of(now.state),
                 now.reason.empty() ? "" : " reason=", now.reason.empty() ? "" : json_quote(now.reason));
  };
  servers_.asking(server.url);
  calls_.start(call_to(server.entry.address, "GET", "/server_info"),
               collect_reply(std::make_shared<HttpReply>(), done));
}

void Watcher::read_all_events() {
  for (const ServerStatus& server : servers_.status()) {
    const auto after = servers_.wanted_event(server.url);
    if (after && reading_.insert(server.url).second) read_events(server.url, server.entry.address, *after);
  }
  calls_.after(kEventInterval, [this] { read_all_events(); });
}

void Watcher::read_events(const std::string& url, const ServerAddress& address, uint64_t after) {
  HttpCall call = call_to(address, "POST", "/kv_cache_events");
  call.headers.emplace_back("Content-Type", "application/json");
  call.body = Json::object({{"after", static_cast<long>(after)}, {"limit", kMostEvents}, {"token_ids", false}}).dump();
  const auto done = [this, url, address](const HttpReply& reply) {
    reading_.erase(url);
    if (reply.failure != HttpFailure::none || reply.status != 200) return;  // how it is the other question finds out
    const auto json = parse_json(reply.body);
    const auto news = json.ok() ? servers_.take_events(url, *json) : Result<bool>(json.error());
    if (!news.ok()) {
      static WarningLimit unread_events;
      unread_events.warn("cache_events", " url=", url, " error=", json_quote(news.error().message()));
      return;
    }
    const auto next = *news ? servers_.wanted_event(url) : std::nullopt;
    const Json* events = json->find("events");
    if (next && events->items().size() >= kMostEvents && reading_.insert(url).second) read_events(url, address, *next);
  };
  calls_.start(std::move(call), collect_reply(std::make_shared<HttpReply>(), done));
}

}  // namespace weft
