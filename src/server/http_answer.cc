// See the header.
#include "server/http_answer.h"

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <iterator>

namespace weft {

namespace {

const char* reason_of(int status) {
  switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 413: return "Payload Too Large";
    case 414: return "URI Too Long";
    case 415: return "Unsupported Media Type";
    case 417: return "Expectation Failed";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    default: return "Other";
  }
}

std::string http_date() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[40];
  return {text, std::strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &utc)};
}

}  // namespace

std::string lower_case(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
  return out;
}

std::string http_head(int status, const std::string& content_type, const HttpHeaders& headers, bool keep_alive) {
  std::string head = "HTTP/1.1 " + std::to_string(status) + " " + reason_of(status) +
                     "\r\nServer: weft\r\nDate: " + http_date() + "\r\n";
  if (!content_type.empty()) head += "Content-Type: " + content_type + "\r\n";
  for (const auto& [name, value] : headers) {
    head += name + ": ";
    // Values come from our own code; a line break in one must not become a header all the same.
    std::copy_if(value.begin(), value.end(), std::back_inserter(head), [](char c) { return c != '\r' && c != '\n'; });
    head += "\r\n";
  }
  return head += keep_alive ? "Connection: keep-alive\r\n" : "Connection: close\r\n";
}

void HttpAnswer::respond(HttpResponse response) {
  if (done_ || streaming_) return;
  response.headers.emplace_back("Content-Length", std::to_string(response.body.size()));
  unsent_ = http_head(response.status, response.content_type, response.headers, form.keep_alive) + "\r\n";
  if (!form.head_only) unsent_ += response.body;
  complete();
}

void HttpAnswer::send(std::string_view data) {
  if (done_ || too_slow_ || data.empty()) return;  // a stream that will be ended takes no more memory
  begin_stream();
  if (form.chunked) {
    char size[20];
    unsent_.append(size, static_cast<size_t>(std::snprintf(size, sizeof size, "%zx\r\n", data.size())));
  }
  unsent_ += data;
  if (form.chunked) unsent_ += "\r\n";
  too_slow_ = unsent_.size() > unsent_limit_;
  wake();
}

void HttpAnswer::finish() {
  if (done_) return;
  begin_stream();
  if (form.chunked) unsent_ += "0\r\n\r\n";
  complete();
}

void HttpAnswer::on_end(std::function<void(Ending)> callback) {
  if (ended_) callback(*ended_);  // before the handler came to say who is to be told
  else if (!done_) on_end_ = std::move(callback);
}

void HttpAnswer::begin_stream() {
  if (streaming_ || done_) return;
  streaming_ = true;
  HttpHeaders headers{{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}};
  if (form.chunked) headers.emplace_back("Transfer-Encoding", "chunked");
  else form.keep_alive = false;
  unsent_ = http_head(200, "text/event-stream; charset=utf-8", headers, form.keep_alive) + "\r\n";
  wake();
}

void HttpAnswer::end(Ending why) {
  if (done_) return;
  ended_ = why;
  const auto callback = std::exchange(on_end_, {});
  if (why == Ending::client_left) done_ = true;
  if (callback) callback(why);
}

void HttpAnswer::detach() {
  done_ = true;
  wake_ = {};
  on_end_ = {};
  unsent_ = {};
}

void HttpAnswer::complete() {
  done_ = true;
  on_end_ = {};
  wake();
}

void HttpAnswer::wake() {
  if (wake_) wake_();
}

}  // namespace weft
