// Compiled grammars, kept for the next request that asks for the same one. Compilation runs on the thread that asks
// (the server's handler threads, never the engine's), in a small number of slots, so that hostile grammars cannot take
// all cores from the model; requests for a grammar that is being compiled wait for it instead of compiling it again.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>

#include "core/metrics.h"
#include "grammar/grammar.h"

namespace weft {

struct GrammarCacheOptions {
  size_t bytes = 256u << 20;  // of all grammars kept; one that is larger is compiled each time
  int slots = 2;              // compilations at once, in the order of their requests
  // Processor time that other compilations may take while a request waits for a slot; then resource_exhausted. Each of
  // them has an end (GrammarLimits), however busy the machine is with other things.
  std::chrono::milliseconds wait{10'000};
};

// Thread-safe.
class GrammarCache {
 public:
  GrammarCache(std::unique_ptr<const GrammarFactory> factory, GrammarCacheOptions options = {});

  // A grammar of its own for the caller. Errors are those of GrammarFactory::compile; wrong grammars are remembered
  // like right ones, so that sending one again and again costs nothing. `stop`, if given, ends waiting and compiling:
  // cancelled or deadline_exceeded. Others that wait for the same grammar then compile it themselves.
  Result<std::unique_ptr<Grammar>> get(const GrammarSpec& spec, const StopFlag* stop = nullptr);
  GrammarCacheMetrics metrics() const;

 private:
  // Of one spec. Once `done`, `grammar` or `error` is set.
  struct Entry {
    std::string key;
    bool done = false;
    bool stopped = false;  // by the request that compiled it: says nothing about the grammar
    std::unique_ptr<Grammar> grammar;
    std::optional<Error> error;
    size_t bytes = 0;
    std::mutex cloning;  // a grammar is for one thread at a time
  };
  using Order = std::list<std::shared_ptr<Entry>>;

  Result<std::unique_ptr<Grammar>> make(std::string key, const GrammarSpec& spec, std::unique_lock<std::mutex>& lock,
                                        const StopFlag* stop);
  template <class Condition>
  Status wait(std::unique_lock<std::mutex>& lock, const StopFlag* stop, const Condition& over);
  Status wait_for_slot(std::unique_lock<std::mutex>& lock, const StopFlag* stop);
  void compile(const GrammarSpec& spec, Entry& entry, std::unique_lock<std::mutex>& lock, const StopFlag* stop);
  void keep(const std::shared_ptr<Entry>& entry);
  static Result<std::unique_ptr<Grammar>> copy(Entry& entry);

  const std::unique_ptr<const GrammarFactory> factory_;
  const GrammarCacheOptions options_;
  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  Order order_;  // the most recently used first
  std::unordered_map<std::string, Order::iterator> kept_;
  std::unordered_map<std::string, std::shared_ptr<Entry>> compiling_;
  int running_ = 0;
  uint64_t next_ticket_ = 0;
  std::list<uint64_t> waiting_;  // tickets of requests without a slot, in order
  double spent_ = 0;             // processor seconds of all compilations that are over
  GrammarCacheMetrics metrics_;
};

}  // namespace weft
