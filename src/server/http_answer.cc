// See the header.
#include "server/http_answer.h"

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <iterator>
#include <new>

#include "base/json.h"
#include "base/log.h"

namespace weft {

namespace {

const char* reason_of(int status) {
  switch (status) {
    case 200: return "OK";
    case 204: return "No Content";
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

std::string http_message(const HttpResponse& response, const HttpHeaders& more_headers) {
  HttpHeaders headers = response.headers;
  headers.insert(headers.end(), more_headers.begin(), more_headers.end());
  headers.emplace_back("Content-Length", std::to_string(response.body.size()));
  return http_head(response.status, response.content_type, headers, false) + "\r\n" + response.body;
}

// ---- for whoever makes the answer

// Where memory is missing even for this, the session finds out at its next look.
void HttpAnswer::post(std::function<void()> work) {
  try {
    add_to_line(std::move(work));
  } catch (const std::exception&) {
    broken_ = true;
  }
}

// Throws where there is no memory for it.
void HttpAnswer::add_to_line(std::function<void()> work) {
  {
    const std::lock_guard lock(line_mutex_);
    line_.push_back(std::move(work));
    if (std::exchange(line_runs_, true)) return;
  }
  start_line();
}

void HttpAnswer::start_line() {
  std::list<std::function<void()>> dropped;  // destroyed without the lock: it may hold anything
  bool started = false;
  try {
    started = world_.start([self = shared_from_this()] { self->run_line(); });
  } catch (const std::exception&) {
    broken_ = true;
  }
  if (started) return;
  const std::lock_guard lock(line_mutex_);
  line_runs_ = false;
  dropped.swap(line_);
}

// Some pieces, so that answers take turns.
void HttpAnswer::run_line() noexcept {
  constexpr int kPieces = 32;
  for (int i = 0; i < kPieces; ++i) {
    std::list<std::function<void()>> work;
    {
      const std::lock_guard lock(line_mutex_);
      line_runs_ = !line_.empty();
      if (!line_runs_) return;
      work.splice(work.begin(), line_, line_.begin());
    }
    run(work.front());
  }
  start_line();
}

void HttpAnswer::run(const std::function<void()>& work) noexcept {
  try {
    work();
  } catch (const std::bad_alloc&) {
    fail("out of memory", true);
  } catch (const std::exception& thrown) {
    fail(thrown.what(), false);
  }
}

void HttpAnswer::respond(HttpResponse response) {
  Lock lock(mutex_);
  if (done_ || streaming_) return;
  put(std::move(response));
  wake(std::move(lock));
}

void HttpAnswer::put(HttpResponse response) {
  HttpHeaders& headers = response.headers;
  headers.insert(headers.end(), form_.headers.begin(), form_.headers.end());
  if (response.status != 204) headers.emplace_back("Content-Length", std::to_string(response.body.size()));
  unsent_ = http_head(response.status, response.content_type, headers, form_.keep_alive) + "\r\n";
  if (!form_.head_only) body_ = std::move(response.body);
  complete();
}

void HttpAnswer::expect_events() {
  const Lock lock(mutex_);
  expects_events_ = true;
}

void HttpAnswer::send(std::string_view data) {
  Lock lock(mutex_);
  if (done_ || too_slow_ || data.empty()) return;  // a stream that will be ended takes no more memory
  begin_stream(lock);
  const size_t before = unsent_.size();
  try {
    if (form_.chunked) {
      char size[20];
      unsent_.append(size, static_cast<size_t>(std::snprintf(size, sizeof size, "%zx\r\n", data.size())));
    }
    unsent_ += data;
    if (form_.chunked) unsent_ += "\r\n";
  } catch (...) {  // half a chunk would leave the client waiting for the rest
    unsent_.resize(before);
    throw;
  }
  too_slow_ = unsent_.size() > world_.unsent_limit;
  wake(std::move(lock));
}

void HttpAnswer::finish() {
  Lock lock(mutex_);
  if (done_) return;
  begin_stream(lock);
  if (form_.chunked) unsent_ += "0\r\n\r\n";
  complete();
  wake(std::move(lock));
}

bool HttpAnswer::streaming() const {
  const Lock lock(mutex_);
  return streaming_;
}

void HttpAnswer::on_end(std::function<void(Ending)> callback) {
  Lock lock(mutex_);
  if (!ended_) {
    if (!done_) on_end_ = std::move(callback);
    return;
  }
  const Ending why = *ended_;  // before the handler came to say who is to be told
  lock.unlock();
  callback(why);
}

// ---- for the session

void HttpAnswer::begin_stream() {
  Lock lock(mutex_);
  if (begin_stream(lock)) wake(std::move(lock));
}

bool HttpAnswer::begin_stream(const Lock&) {
  if (streaming_ || done_) return false;
  HttpHeaders headers{{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}};
  headers.insert(headers.end(), form_.headers.begin(), form_.headers.end());
  if (form_.chunked) headers.emplace_back("Transfer-Encoding", "chunked");
  else form_.keep_alive = false;
  unsent_ = http_head(200, "text/event-stream; charset=utf-8", headers, form_.keep_alive) + "\r\n";
  streaming_ = true;  // only now: without its head nothing of it may be sent
  return true;
}

std::function<void(Ending)> HttpAnswer::take_callback(Ending why) {
  ended_ = why;
  return std::exchange(on_end_, {});
}

// Where there is no memory to post the call, it is made here.
void HttpAnswer::tell(const std::function<void(Ending)>& callback, Ending why) noexcept {
  if (!callback) return;
  try {
    add_to_line([callback, why] { callback(why); });
  } catch (const std::exception&) {
    run_callback(callback, why);
  }
}

void HttpAnswer::run_callback(const std::function<void(Ending)>& callback, Ending why) noexcept {
  try {
    callback(why);
  } catch (const std::exception&) {
    broken_ = true;
  }
}

void HttpAnswer::end(Ending why) noexcept {
  stop_->set(why == Ending::shutdown ? StopReason::shutdown : StopReason::client_left);
  Lock lock(mutex_);
  if (done_) return;
  const auto callback = take_callback(why);
  if (why == Ending::client_left) done_ = true;
  lock.unlock();
  tell(callback, why);
}

void HttpAnswer::refuse(HttpResponse why) {
  Lock lock(mutex_);
  if (done_ || streaming_) return;
  const auto callback = on_end_;
  put(std::move(why));
  ended_ = Ending::client_left;
  wake(std::move(lock));
  tell(callback, Ending::client_left);
}

void HttpAnswer::fail(const char* what, bool out_of_memory) noexcept {
  try {
    log_warning("request_failed", " path=", json_quote(request_.path), " problem=", json_quote(what));
  } catch (const std::exception&) {  // it is answered all the same
  }
  try {
    say_failure(out_of_memory ? world_.refuse(503, kOutOfMemory) : world_.refuse(500, kFailedInside));
  } catch (const std::exception&) {
    broken_ = true;
  }
}

void HttpAnswer::say_failure(const HttpResponse& why) {
  Lock lock(mutex_);
  if (done_) return;
  const auto callback = take_callback(Ending::client_left);
  const bool streams = streaming_;
  lock.unlock();
  if (callback) run_callback(callback, Ending::client_left);
  if (!streams) return respond(why);
  send("data: " + why.body + "\n\ndata: [DONE]\n\n");
  finish();
}

void HttpAnswer::detach() {
  const Lock lock(mutex_);
  done_ = detached_ = true;
  on_end_ = {};
  unsent_ = {}, body_ = {};
}

void HttpAnswer::close_after() {
  const Lock lock(mutex_);
  form_.keep_alive = streaming_ && form_.keep_alive;
}

HttpAnswer::Output HttpAnswer::take() {
  const Lock lock(mutex_);
  awake_ = false;
  Output output;
  output.bytes = std::exchange(unsent_.empty() ? body_ : unsent_, {});
  begun_ |= !output.bytes.empty();
  output.done = done_ && unsent_.empty() && body_.empty();
  output.too_slow = too_slow_, output.broken = broken_;
  return output;
}

bool HttpAnswer::keep_alive() const {
  const Lock lock(mutex_);
  return form_.keep_alive;
}

bool HttpAnswer::expects_events() const {
  const Lock lock(mutex_);
  return expects_events_;
}

bool HttpAnswer::begun() const {
  const Lock lock(mutex_);
  return begun_;
}

void HttpAnswer::handler_begins() {
  handler_began_ = std::chrono::steady_clock::now().time_since_epoch().count();
  handling_ = Handling::running;
}

std::chrono::steady_clock::time_point HttpAnswer::handler_began() const {
  return std::chrono::steady_clock::time_point(std::chrono::steady_clock::duration(handler_began_.load()));
}

void HttpAnswer::complete() {
  done_ = true;
  on_end_ = {};
}

// Once until the next take(), so that many pieces cost one turn of the server's thread.
void HttpAnswer::wake(Lock lock) {
  if (awake_ || detached_) return;
  awake_ = true;
  lock.unlock();
  try {
    world_.wake();
  } catch (const std::exception&) {  // no memory: the session looks again by itself
    lock.lock();
    awake_ = false;
  }
}

}  // namespace weft
