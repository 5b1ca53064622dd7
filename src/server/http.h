// What the HTTP transport (http_server.cc) and the API above it exchange. No Boost here.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/stop_flag.h"

namespace weft {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method;  // "GET"; a HEAD request comes as GET, and its response has no body
  std::string path;    // without the query, %XX decoded
  std::string query;
  HttpHeaders headers;  // names in lower case
  std::string body;
  std::string peer;  // the address of whoever has connected, without the port: "192.0.2.1", "::1"

  const std::string* header(std::string_view lower_case_name) const {
    for (const auto& [name, value] : headers)
      if (name == lower_case_name) return &value;
    return nullptr;
  }
};

struct HttpResponse {
  int status = 200;
  std::string body;
  std::string content_type = "application/json";
  HttpHeaders headers;
};

enum class Ending : unsigned char {
  client_left,  // nobody will read the response
  shutdown,     // the server ends; say so and finish at once
};

// One request and its response: either one respond(), or any number of send() and a finish().
//
// post(), respond() and stop_flag() may be called from any thread, all the rest inside posted work only. Work posted to
// one exchange runs one piece after the other, on threads that do nothing else than make answers: it may take its time
// (JSON of many megabytes) without holding up connections, and must not wait for anything. The object may be kept for
// any time; once the client has left or the response is complete, calls do nothing.
class Exchange {
 public:
  virtual ~Exchange() = default;
  // May be read from any thread until the first post().
  virtual HttpRequest& request() = 0;
  // Set once nobody needs the answer, or the handler has had its time. Handlers look at it between pieces of their
  // work.
  virtual std::shared_ptr<const StopFlag> stop_flag() const = 0;
  // Runs `work`, in order of the calls from one thread. Dropped when the server has ended. Work that throws ends the
  // response with an error.
  virtual void post(std::function<void()> work) = 0;

  // Does nothing once a stream has begun.
  virtual void respond(HttpResponse response) = 0;
  // Announces a stream of server-sent events: if neither an event nor a respond() follows within a few seconds, the
  // response's head is sent and comments keep the connection alive.
  virtual void expect_events() = 0;
  // `data` is one or more whole events ("data: ...\n\n"). The first call sends the head of an event stream.
  virtual void send(std::string_view data) = 0;
  virtual void finish() = 0;
  // The head of an event stream is out: errors can only be events now.
  virtual bool streaming() const = 0;
  // Called at most once, as posted work is, when the answer is not complete and need not or cannot be: at once if that
  // has come already.
  virtual void on_end(std::function<void(Ending)> callback) = 0;
};

// Makes the answer to a request.
using HttpHandler = std::function<void(std::shared_ptr<Exchange>)>;

// Where a request's handler runs.
enum class HttpPlace : unsigned char {
  at_once,  // on the thread of the connections: it takes microseconds and no lock that others hold for long
  watch,    // on a thread for the likes of /metrics, which answer while all handlers are busy
  pool,     // on one of the handler threads, when one is free
};

// What a request's head is found to be before its body is read. `refusal`: it is answered so, and its body not kept.
// `headers` go with every answer to it.
struct HttpAdmission {
  std::optional<HttpResponse> refusal;
  HttpHeaders headers;
};

// What the server above makes of requests. The first two may be empty (all is admitted, all goes to the pool) and are
// called on the thread of the connections.
struct HttpHandlers {
  std::function<HttpAdmission(const HttpRequest& head)> admit;
  std::function<HttpPlace(const HttpRequest& request)> place;
  HttpHandler handler;
  // The error response to a request that the transport refuses by itself.
  std::function<HttpResponse(int status, const std::string& message)> refuse;
};

}  // namespace weft
