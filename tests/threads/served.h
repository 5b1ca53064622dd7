// An engine behind its server, both running in this process, and visitors of many kinds that come at the same time.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "api/engine.h"
#include "fuzz/client.h"
#include "server/api_server.h"

namespace weft::testing {

// What keeps an engine busy: a small cache, so that sequences are preempted and blocks evicted, and small steps.
EngineOptions small_engine();

class Served {
 public:
  // Null where it cannot be loaded, which fails the test.
  static std::unique_ptr<Served> load(const std::string& folder, const EngineOptions& options);
  // The server ends first, then the engine.
  ~Served();

  Engine& engine() { return *engine_; }
  int port() const { return server_->port(); }
  void end_server();  // returns when its thread has
  // Fails the test unless everything that was submitted is gone within a minute.
  void expect_idle() const;

 private:
  Served() = default;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<ApiServer> server_;
  std::thread runner_;
};

PlainReply ask(int port, const std::string& path, const std::string& body);
PlainReply get(int port, const std::string& path);

// Threads that visit again and again, each in its own way.
class Visitors {
 public:
  // visit(turn) with turn = 0, 1, ...: on a thread of its own, once at least.
  void add(std::function<void(unsigned turn)> visit) { visits_.push_back(std::move(visit)); }
  // Until this time is over. WEFT_VISIT_SECONDS in the environment takes its place.
  void run_for(std::chrono::seconds time);
  uint64_t done() const { return done_; }

 private:
  std::vector<std::function<void(unsigned)>> visits_;
  std::atomic<uint64_t> done_{0};
};

// Visitors of a server, or of a front: one that compares the bits of its answers, streams, streams that are left in the
// middle, guided answers, beams, deadlines, tokenizing.
void add_clients(Visitors& visitors, int port);
// Readers of what a server says of itself.
void add_readers(Visitors& visitors, int port);
// Users of the engine itself: choices that are cancelled, groups that are held, scores, numbers. `images`: requests
// with images, which are asked in turn; may be empty. `servers`: Request::context_servers.
void add_users(Visitors& visitors, Engine& engine, const std::vector<Request>& images = {},
               const std::vector<std::string>& servers = {});

}  // namespace weft::testing
