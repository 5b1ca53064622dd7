// The response side of a connection: turns what the handler sends into bytes for the socket. Plain text work, no Boost;
// the session in http_server.cc takes the bytes and sends them.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "server/http.h"

namespace weft {

// ASCII letters in lower case.
std::string lower_case(std::string_view text);

// Status line and headers, up to the empty line (which the caller adds).
std::string http_head(int status, const std::string& content_type, const HttpHeaders& headers, bool keep_alive);

// All functions but post() are for the server's thread.
class HttpAnswer : public Exchange {
 public:
  struct Form {
    bool keep_alive = false;
    bool chunked = false;    // HTTP/1.1; a stream to an older client ends with the connection
    bool head_only = false;  // HEAD
  };
  using Post = std::function<void(std::function<void()>)>;
  // `wake` is called when there is something to send. A stream with more than `unsent_limit` bytes unsent counts as too
  // slow, takes nothing more, and is ended by the session.
  HttpAnswer(Post post, std::function<void()> wake, size_t unsent_limit)
      : post_(std::move(post)), wake_(std::move(wake)), unsent_limit_(unsent_limit) {}

  HttpRequest& request() override { return request_; }
  void post(std::function<void()> work) override { post_(std::move(work)); }
  void respond(HttpResponse response) override;
  void expect_events() override { expects_events_ = true; }
  void send(std::string_view data) override;
  void finish() override;
  bool streaming() const override { return streaming_; }
  void on_end(std::function<void(Ending)> callback) override;

  // For the session.
  void begin_stream();
  void end(Ending why);  // tells the handler
  void detach();         // the session is gone: nothing is sent any more
  bool done() const { return done_; }
  bool expects_events() const { return expects_events_; }
  bool too_slow() const { return too_slow_; }
  bool has_unsent() const { return !unsent_.empty(); }
  std::string take_unsent() { return std::exchange(unsent_, {}); }

  Form form;

 private:
  void complete();
  void wake();

  const Post post_;
  std::function<void()> wake_;
  const size_t unsent_limit_;
  HttpRequest request_;
  std::string unsent_;
  bool expects_events_ = false, streaming_ = false, done_ = false, too_slow_ = false;
  std::optional<Ending> ended_;  // without a complete answer
  std::function<void(Ending)> on_end_;
};

}  // namespace weft
