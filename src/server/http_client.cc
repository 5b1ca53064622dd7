// See the header.
#include "server/http_client.h"

#include <charconv>
#include <utility>

namespace weft {

HttpClient::HttpClient(ServerAddress server, HttpHeaders headers, std::chrono::seconds timeout, size_t most_bytes)
    : server_(std::move(server)), headers_(std::move(headers)), timeout_(timeout), most_bytes_(most_bytes) {}

void HttpClient::get(const std::string& path, Done done) { send("GET", path, {}, std::move(done)); }
void HttpClient::post(const std::string& path, std::string body, Done done) {
  send("POST", path, std::move(body), std::move(done));
}
void HttpClient::after(std::chrono::milliseconds pause, std::function<void()> work) {
  calls_.after(pause, std::move(work));
}
void HttpClient::run() { calls_.run_to_end(false); }
int HttpClient::run_until_signal() { return calls_.run_to_end(true); }
void HttpClient::stop() { calls_.stop(); }

void HttpClient::send(const char* method, const std::string& path, std::string body, Done done) {
  HttpCall call{.server = server_, .method = method, .path = path, .headers = headers_, .body = std::move(body)};
  if (call.method == "POST") call.headers.emplace_back("Content-Type", "application/json");
  call.timeout = timeout_, call.most_bytes = most_bytes_;
  const auto reply = std::make_shared<HttpReply>();
  calls_.start(std::move(call), collect_reply(reply, std::move(done)));
}

HttpReceiver collect_reply(std::shared_ptr<HttpReply> reply, std::function<void(HttpReply)> done) {
  HttpReceiver receiver;
  receiver.head = [reply](HttpReplyHead head) {
    reply->status = head.status;
    if (const std::string* later = head.header("retry-after")) {
      const char* const end = later->data() + later->size();
      const auto read = std::from_chars(later->data(), end, reply->retry_after_s);
      if (read.ec != std::errc() || read.ptr != end || reply->retry_after_s < 0) reply->retry_after_s = 0;
    }
  };
  receiver.data = [reply](const std::string& piece) { reply->body += piece; };
  receiver.end = [reply, done = std::move(done)](HttpFailure failure, const std::string& problem) {
    if (failure != HttpFailure::none) *reply = {failure, problem, 0, {}, 0};
    done(std::move(*reply));
  };
  return receiver;
}

}  // namespace weft
