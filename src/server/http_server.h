// The HTTP/1.1 transport: connections, limits, time-outs, keep-alive and pipelining, event streams, disconnects,
// shutdown. What the requests mean is the handler's business.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "server/http.h"
#include "server/http_limits.h"

namespace weft {

// What goes on in a server.
struct HttpStats {
  int connections = 0;   // open
  int queued = 0;        // requests that wait for a handler thread
  int handlers = 0;      // that run
  int replaced = 0;      // of these, those that have had their time and were given up
  int64_t overdue = 0;   // handlers that had their time, so far
  int64_t timeouts = 0;  // requests that did not come in time
  int64_t evicted = 0;   // idle connections closed for others
  int64_t refused_connections = 0;
};

class HttpServer {
 public:
  // Listens on host (an address or a name) and port (0: any free one). Errors say what to do.
  static Result<std::unique_ptr<HttpServer>> listen(const std::string& host, int port, HttpLimits limits,
                                                    HttpHandlers handlers);
  ~HttpServer();

  int port() const;
  // Called once, on the server's thread, when stop() begins the end, before running answers are complete. It must
  // return quickly. To be set before run().
  void on_drain(std::function<void()> callback);
  // Serves on the calling thread until stop() and the end of the last answer. Once.
  void run();
  // Takes no more connections, refuses new requests, lets running answers finish for a while, then ends them. Any
  // thread.
  void stop();
  HttpStats stats() const;  // any thread
  // For tests: the loop that takes connections, or the connection that takes its next request, ends with an exception.
  void break_next_accept();

 private:
  class Core;
  explicit HttpServer(std::shared_ptr<Core> core) : core_(std::move(core)) {}
  std::shared_ptr<Core> core_;
};

// Of an address as HttpRequest::peer has it: what HttpLimits::connections_per_address counts. "192.0.2.1", and of IPv6
// the first 64 bits; empty: this machine, which is not counted.
std::string address_group(const std::string& peer);

}  // namespace weft
