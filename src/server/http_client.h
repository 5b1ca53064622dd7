// Requests to one HTTP server whose answers are wanted whole, on the calling thread.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "server/http.h"
#include "server/http_calls.h"

namespace weft {

// What became of a request: an answer with a status, or a failure on the way.
struct HttpReply {
  using Failure = HttpFailure;
  Failure failure = Failure::none;
  std::string problem;  // of a failure, in words
  int status = 0;
  std::string body;
  int retry_after_s = 0;  // as the answer's head asks; 0: it does not
};

// Bytes of an answer that is wanted whole, unless its asker says otherwise: other servers' states, events, keys and
// metrics, and what etcd says, are far smaller.
constexpr size_t kMostReplyBytes = size_t{64} << 20;

// A receiver that puts the answer together and calls `done` with it. Make a new one, with a new reply, for each call,
// whose HttpCall::most_bytes bounds the answer.
HttpReceiver collect_reply(std::shared_ptr<HttpReply> reply, std::function<void(HttpReply)> done);

class HttpClient {
 public:
  // `headers` go with every request. `timeout`: from a request's first byte to the end of its answer; 0: no limit. An
  // answer of more than `most_bytes` fails as too_large, and its connection is closed.
  HttpClient(ServerAddress server, HttpHeaders headers, std::chrono::seconds timeout,
             size_t most_bytes = kMostReplyBytes);

  // Both return at once; `done` is called by run(). Connections are kept and used again.
  using Done = std::function<void(HttpReply reply)>;
  void get(const std::string& path, Done done);
  void post(const std::string& path, std::string body, Done done);
  void after(std::chrono::milliseconds pause, std::function<void()> work);

  // Runs what the calls above began, and what that begins in turn, until nothing is left.
  void run();
  // The same, for commands. Returns 0, or the signal (SIGINT, SIGTERM) that ended it; connections are then closed, so
  // that the server does not go on for nobody.
  int run_until_signal();
  // Inside `done` or `work`: run() returns, and calls no more of them.
  void stop();

 private:
  void send(const char* method, const std::string& path, std::string body, Done done);

  const ServerAddress server_;
  const HttpHeaders headers_;
  const std::chrono::seconds timeout_;
  const size_t most_bytes_;
  HttpCalls calls_;
};

}  // namespace weft
