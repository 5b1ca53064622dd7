// One request on its way from a client to a server and its answer back, byte for byte. A server that does not answer is
// replaced by another as long as nothing of the answer has gone to the client.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "orchestrate/front_metrics.h"
#include "orchestrate/server_list.h"
#include "server/http.h"
#include "server/http_calls.h"

namespace weft {

struct PassageOptions {
  int max_retries = 1;  // other servers that a request goes to when one does not answer
  // Time limits; 0: none. To connect, to the head of the answer, and for all of a request, retries included.
  std::chrono::milliseconds connect_timeout{5000}, first_byte_timeout{0}, request_timeout{0};
  HttpHeaders headers;          // that go to servers with every request
  std::string transfer_secret;  // proves the names of context servers; empty: no proof
};

// What passages share; all of it outlives them.
struct PassageWorld {
  const PassageOptions& options;
  HttpCalls& calls;
  ServerList& servers;
  FrontMetrics& metrics;
};

// Kept alive by the calls that it waits for. Apart from start(), everything happens on the thread of the calls.
class Passage : public std::enable_shared_from_this<Passage> {
 public:
  // On a handler thread of the server. `route`: the request's in the metrics. `generation`: it is one, else any server
  // does.
  static void start(const PassageWorld& world, std::shared_ptr<Exchange> exchange, std::string route, bool generation);

 private:
  using Clock = std::chrono::steady_clock;

  Passage(const PassageWorld& world, std::shared_ptr<Exchange> exchange, std::string route, bool generation);
  void route_request();
  void ask_for_blocks();
  void take_blocks(int status, const std::string& body);
  void attempt();
  void send();
  HttpCall call_to(const ServerList::Ticket& ticket) const;
  std::chrono::milliseconds time_left() const;
  void on_head(HttpReplyHead head);
  void on_data(std::string piece);
  void on_end(HttpFailure failure, const std::string& problem);
  bool try_another();
  void forward_events(size_t before);  // so many bytes of reply_ were there before
  void respond();
  void fail_with(int status, const std::string& message);
  void count(int status);
  void abandon(Ending why);

  const PassageWorld world_;
  const std::shared_ptr<Exchange> exchange_;
  const std::string route_name_;
  std::string method_, path_, body_;
  HttpHeaders headers_;  // that go on to the server
  RequestNeeds needs_;
  std::unique_ptr<ServerList::Ticket> ticket_;
  HttpCalls::Id call_ = 0;  // under way
  int retries_ = 0;
  HttpReplyHead head_;
  std::string reply_;       // the answer's body; of a stream what has not gone to the client
  bool streams_ = false;    // the answer is a stream of events
  bool forwarded_ = false;  // bytes of the answer have gone to the client
  bool ended_ = false;
  const Clock::time_point begin_ = Clock::now();
};

}  // namespace weft
