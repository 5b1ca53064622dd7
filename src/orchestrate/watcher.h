// Asks every server of a list again and again how it is (GET /server_info), and where that helps to choose, what
// happened to its cache (POST /kv_cache_events).
#pragma once

#include <chrono>
#include <set>
#include <string>

#include "orchestrate/server_list.h"
#include "server/http_calls.h"

namespace weft {

struct WatchOptions {
  std::chrono::milliseconds interval{1000};  // between two questions how it is
  std::chrono::milliseconds timeout{5000};   // for an answer; a server that takes longer is down
  HttpHeaders headers;                       // of the questions
};

// On the thread of the calls.
class Watcher {
 public:
  // Both must outlive the run of the calls.
  Watcher(HttpCalls& calls, ServerList& servers, WatchOptions options)
      : calls_(calls), servers_(servers), options_(std::move(options)) {}
  // Begins, and goes on until the calls stop. Any thread.
  void begin();

 private:
  void ask_all();
  void ask(const ServerStatus& server);
  void read_all_events();
  void read_events(const std::string& url, const ServerAddress& address, uint64_t after);
  HttpCall call_to(const ServerAddress& address, const char* method, const char* path) const;

  HttpCalls& calls_;
  ServerList& servers_;
  const WatchOptions options_;
  std::set<std::string> asked_, reading_;  // URLs of servers that have not answered yet
};

}  // namespace weft
