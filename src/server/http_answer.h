// The response side of a connection: turns what the handler sends into bytes for the socket. Plain text work, no Boost;
// the session (http_session.cc) takes the bytes and sends them.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "server/http.h"

namespace weft {

// The messages of answers to requests that failed for reasons of the server's own: the log says which.
inline constexpr char kFailedInside[] = "the request failed inside the server; its log says why";
inline constexpr char kOutOfMemory[] = "the server ran out of memory for this request";

// ASCII letters in lower case.
std::string lower_case(std::string_view text);

// Status line and headers, up to the empty line (which the caller adds).
std::string http_head(int status, const std::string& content_type, const HttpHeaders& headers, bool keep_alive);
// A whole response, for connections that end with it.
std::string http_message(const HttpResponse& response, const HttpHeaders& more_headers = {});

class HttpAnswer : public Exchange, public std::enable_shared_from_this<HttpAnswer> {
 public:
  struct Form {
    bool keep_alive = false;
    bool chunked = false;    // HTTP/1.1; a stream to an older client ends with the connection
    bool head_only = false;  // HEAD
    HttpHeaders headers;     // besides the response's own
  };
  // What an answer needs of its server.
  struct World {
    // Runs work on a thread for answers. False: the server has ended, and nothing is run any more.
    std::function<bool(std::function<void()> work)> start;
    std::function<void()> wake;  // called when there is something to send, on any thread
    size_t unsent_limit = 0;     // a stream with more bytes unsent counts as too slow, and takes nothing more
    std::function<HttpResponse(int status, const std::string& message)> refuse;
  };
  HttpAnswer(Form form, World world) : world_(std::move(world)), form_(std::move(form)) {}

  HttpRequest& request() override { return request_; }
  std::shared_ptr<const StopFlag> stop_flag() const override { return stop_; }
  void post(std::function<void()> work) override;
  void respond(HttpResponse response) override;
  void expect_events() override;
  void send(std::string_view data) override;
  void finish() override;
  bool streaming() const override;
  void on_end(std::function<void(Ending)> callback) override;

  // ---- For the session; any thread.
  void begin_stream();            // inside posted work
  void end(Ending why) noexcept;  // tells the handler and whoever makes the answer
  void stop(StopReason why) { stop_->set(why); }
  void refuse(HttpResponse why);  // instead of an answer that has not begun; nobody waits for that one then
  // After an exception: says so, as far as something can still be said, and logs `what`.
  void fail(const char* what, bool out_of_memory) noexcept;
  void give_up() { broken_ = true; }  // without memory for anything else: the session finds out at its next look
  void detach();                      // the session is gone: nothing is sent any more
  void close_after();                 // the connection is not to be kept

  struct Output {
    std::string bytes;  // to be sent now
    bool done = false;  // nothing comes behind them
    bool too_slow = false;
    bool broken = false;  // memory was missing for a piece of it: it cannot be completed
  };
  Output take();
  bool keep_alive() const;
  bool expects_events() const;
  bool begun() const;  // something has been given to take()

  // The handler's own time, for its budget.
  enum class Handling : unsigned char { waiting, running, done };
  void handler_begins();
  void handler_ends() { handling_ = Handling::done; }
  Handling handling() const { return handling_; }
  std::chrono::steady_clock::time_point handler_began() const;

 private:
  using Lock = std::unique_lock<std::mutex>;
  void add_to_line(std::function<void()> work);
  void start_line();
  void run_line() noexcept;
  void run(const std::function<void()>& work) noexcept;
  void tell(const std::function<void(Ending)>& callback, Ending why) noexcept;
  void run_callback(const std::function<void(Ending)>& callback, Ending why) noexcept;
  void say_failure(const HttpResponse& why);
  bool begin_stream(const Lock& lock);
  void put(HttpResponse response);  // with the lock, as what follows
  void complete();
  std::function<void(Ending)> take_callback(Ending why);
  void wake(Lock lock);

  const World world_;
  HttpRequest request_;
  const std::shared_ptr<StopFlag> stop_ = std::make_shared<StopFlag>();
  std::atomic<Handling> handling_{Handling::waiting};
  std::atomic<int64_t> handler_began_{0};  // ticks of the steady clock
  std::atomic<bool> broken_{false};

  std::mutex line_mutex_;  // of the posted work that has not run; one piece runs after the other
  std::list<std::function<void()>> line_;
  bool line_runs_ = false;

  mutable std::mutex mutex_;  // of what follows; held for moments only
  Form form_;
  std::string unsent_, body_;  // the second goes behind the first
  bool expects_events_ = false, streaming_ = false, done_ = false, too_slow_ = false, begun_ = false;
  bool awake_ = false;  // wake has been called since the last take()
  bool detached_ = false;
  std::optional<Ending> ended_;  // without a complete answer
  std::function<void(Ending)> on_end_;
};

}  // namespace weft
