// Requests to HTTP servers, many at once on one thread, whose answers come in pieces as they arrive. http alone: a
// server of https wants a proxy in front of it here.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "server/http.h"

namespace weft {

struct ServerAddress {
  std::string host;  // an IPv6 address without its brackets
  int port = 80;
  std::string prefix;        // of all paths: empty, or "/some/where"
  std::string text() const;  // as a URL
  bool operator==(const ServerAddress&) const = default;
};

// "http://HOST[:PORT][/PREFIX]"; a "/v1" at the end, as in OpenAI's base URLs, is not a part of the prefix.
Result<ServerAddress> parse_server_url(std::string_view url);

enum class HttpFailure : unsigned char {
  none,
  unreachable,  // there is no connection
  broken,       // the connection ended before the answer did
  timed_out,
  too_large,  // the answer has more bytes than HttpCall::most_bytes
};

struct HttpCall {
  ServerAddress server;
  std::string method = "GET";
  std::string path;     // with its query
  HttpHeaders headers;  // besides Host, User-Agent and the body's length
  std::string body;
  // Time limits; 0: none. The last two begin when there is a connection, and end with the answer's head and its end.
  std::chrono::milliseconds connect_timeout{10'000}, head_timeout{0}, timeout{0};
  size_t most_bytes = 0;  // of the answer's body, chunks' sizes taken out; 0: no limit, for what passes it on
};

struct HttpReplyHead {
  int status = 0;
  HttpHeaders headers;  // names as they came
  const std::string* header(std::string_view lower_case_name) const;
};

// What comes of a call, on the thread of HttpCalls: a head and pieces of the body unless it fails before, and the end.
struct HttpReceiver {
  std::function<void(HttpReplyHead head)> head;
  std::function<void(std::string piece)> data;  // as it came, chunks' sizes taken out
  // `problem` says in words what the failure was.
  std::function<void(HttpFailure failure, const std::string& problem)> end;
};

// Connections are kept and used again. One that the server had closed meanwhile is no failure: the call gets another.
class HttpCalls {
 public:
  HttpCalls();
  ~HttpCalls();  // closes all connections; no function of a receiver is called any more

  using Id = uint64_t;
  // Any thread; returns before anything of the receiver is called.
  Id start(HttpCall call, HttpReceiver receiver);
  // Closes the call's connection, so that the server sees that nobody waits. Nothing of its receiver is called any
  // more, if this is the thread of the calls, else nothing after what is being called. Ended calls are ignored.
  void cancel(Id id);
  // Both run `work` on the thread of the calls. Any thread.
  void post(std::function<void()> work);
  void after(std::chrono::milliseconds pause, std::function<void()> work);

  // Runs what the functions above begin, on the calling thread, until stop().
  void run();
  // The same, but only until nothing is left. Returns 0, or, with `ended_by_signals`, the signal (SIGINT, SIGTERM) that
  // ended it: for programs that handle these in no other way, for afterwards nobody does.
  int run_to_end(bool ended_by_signals);
  // run() returns, and calls nothing any more. Any thread.
  void stop();

 private:
  class Core;
  std::shared_ptr<Core> core_;
};

}  // namespace weft
