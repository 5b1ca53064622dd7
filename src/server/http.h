// What the HTTP transport (http_server.cc) and the API above it exchange. No Boost here.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

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
// post() may be called from any thread, all the rest on the server's thread only, that is, inside posted work. The
// object may be kept for any time; once the client has left or the response is complete, calls do nothing.
class Exchange {
 public:
  virtual ~Exchange() = default;
  // May be read from any thread until the first post().
  virtual HttpRequest& request() = 0;
  // Runs `work` on the server's thread, in order of the calls from one thread. Dropped when the server has ended.
  virtual void post(std::function<void()> work) = 0;

  virtual void respond(HttpResponse response) = 0;
  // Announces a stream of server-sent events: if neither an event nor a respond() follows within a few seconds, the
  // response's head is sent and comments keep the connection alive.
  virtual void expect_events() = 0;
  // `data` is one or more whole events ("data: ...\n\n"). The first call sends the head of an event stream.
  virtual void send(std::string_view data) = 0;
  virtual void finish() = 0;
  // The head of an event stream is out: errors can only be events now.
  virtual bool streaming() const = 0;
  // Called at most once, when the answer is not complete and need not or cannot be: at once if that has come already.
  virtual void on_end(std::function<void(Ending)> callback) = 0;
};

// Called on one of the server's handler threads for each request.
using HttpHandler = std::function<void(std::shared_ptr<Exchange>)>;

}  // namespace weft
