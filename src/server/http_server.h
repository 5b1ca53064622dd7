// The HTTP/1.1 transport: connections, limits, time-outs, keep-alive and pipelining, event streams, disconnects,
// shutdown. What the requests mean is the handler's business.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "server/http.h"

namespace weft {

struct HttpLimits {
  size_t head_bytes = 32 * 1024;  // request line and headers
  int head_fields = 128;
  size_t body_bytes = size_t{32} << 20;       // of one request
  size_t all_body_bytes = size_t{512} << 20;  // of all requests that are being read or worked on
  size_t unsent_bytes = size_t{1} << 20;      // of a stream whose client does not read; then it is ended
  int connections = 4096;                     // open at once; others get a 503
  int handlers = 4;                           // threads that run the handler
  std::chrono::milliseconds idle{75'000};     // between requests of a connection
  std::chrono::milliseconds head{15'000};     // from a request's first byte to the end of its head
  std::chrono::milliseconds body{60'000};
  std::chrono::milliseconds write{30'000};       // without the client taking anything
  std::chrono::milliseconds tick{400};           // how often a waiting request looks whether its client is still there
  std::chrono::milliseconds stream_head{5'000};  // Exchange::expect_events()
  std::chrono::milliseconds ping{15'000};        // a comment after this much silence in a stream
  std::chrono::milliseconds drain{20'000};       // after stop(): time for running answers
};

class HttpServer {
 public:
  // Listens on host (an address or a name) and port (0: any free one). Errors say what to do. `refuse` makes the error
  // response for a request that the transport refuses by itself, from status and message.
  using Refusal = std::function<HttpResponse(int status, const std::string& message)>;
  static Result<std::unique_ptr<HttpServer>> listen(const std::string& host, int port, HttpLimits limits,
                                                    HttpHandler handler, Refusal refuse);
  ~HttpServer();

  int port() const;
  // Called once, on the server's thread, when a signal or stop() begins the end, before running answers are complete.
  // It must return quickly. To be set before run().
  void on_drain(std::function<void()> callback);
  // Serves on the calling thread until stop() and the end of the last answer. With `signals`, SIGINT and SIGTERM call
  // stop(), and the second of them ends at once. Returns true after an orderly end. Once.
  bool run(bool signals);
  // Takes no more connections, refuses new requests, lets running answers finish for a while, then ends them. Any
  // thread.
  void stop();
  int connections() const;

 private:
  class Core;
  explicit HttpServer(std::shared_ptr<Core> core) : core_(std::move(core)) {}
  std::shared_ptr<Core> core_;
};

}  // namespace weft
