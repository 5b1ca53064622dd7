// Requests to an HTTP server, many at once, on one thread. http alone: a server of https wants a proxy in front of it
// here.
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
  std::string prefix;  // of all paths: empty, or "/some/where"
  std::string text() const;
};

// "http://HOST[:PORT][/PREFIX]"; a "/v1" at the end, as in OpenAI's base URLs, is not a part of the prefix.
Result<ServerAddress> parse_server_url(std::string_view url);

// What became of a request: an answer with a status, or a failure on the way.
struct HttpReply {
  enum class Failure : unsigned char {
    none,
    unreachable,  // there is no connection
    broken,       // the connection ended before the answer did
    timed_out,
  };
  Failure failure = Failure::none;
  std::string problem;  // of a failure, in words
  int status = 0;
  std::string body;
  int retry_after_s = 0;  // as the answer's head asks; 0: it does not
};

class HttpClient {
 public:
  // `headers` go with every request. `timeout`: from a request's first byte to the end of its answer; 0: no limit.
  HttpClient(ServerAddress server, HttpHeaders headers, std::chrono::seconds timeout);
  ~HttpClient();

  // Both return at once; `done` is called by run(). Connections are kept and used again.
  using Done = std::function<void(HttpReply reply)>;
  void get(const std::string& path, Done done);
  void post(const std::string& path, std::string body, Done done);
  void after(std::chrono::milliseconds pause, std::function<void()> work);

  // Runs what the calls above began, and what that begins in turn, until nothing is left. Returns false if SIGINT or
  // SIGTERM ended it; connections are then closed, so that the server does not go on for nobody.
  bool run();
  // Inside `done` or `work`: run() returns, and calls no more of them.
  void stop();

 private:
  class Core;
  std::unique_ptr<Core> core_;
};

}  // namespace weft
