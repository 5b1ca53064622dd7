// What the engine's parts count: plain numbers, copied out at any time. Counters are totals since the start.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "core/adapters.h"
#include "core/speculation.h"

namespace weft {

struct SchedulerMetrics {
  int running = 0, waiting = 0;  // sequences
  int queued_requests = 0;       // that have not started
  int in_flight_steps = 0;
  uint64_t steps = 0;
  uint64_t added = 0, finished = 0;  // finished: for whatever reason
  uint64_t preemptions = 0;
  uint64_t yields = 0;                 // of these, for another client's or request's turn
  uint64_t scheduled_tokens = 0;       // positions computed, recomputed ones included
  uint64_t prompt_tokens = 0;          // of admitted sequences
  uint64_t cached_tokens = 0;          // of these, from the cache
  uint64_t resumed_cached_tokens = 0;  // from the cache after a preemption
  uint64_t generated_tokens = 0;
  uint64_t discarded_tokens = 0;  // sampled after the sequence had ended
  uint64_t draft_rounds = 0;      // rows that checked drafts
  // Of each step, the positions of its fullest home times the homes. scheduled_tokens / paced_tokens is the mean load
  // of a home by that of the fullest, 1 if steps are level.
  uint64_t paced_tokens = 0;
  double balance_ratio = 1;      // the same of recent steps, about 32
  uint64_t exports_dropped = 0;  // sequences whose blocks were not kept for the store: too many were waiting
  // Per place in a row's drafts: how many were checked there, and how many accepted.
  std::array<uint64_t, kMostDrafts> drafted{}, accepted{};
};

// Blocks of the KV cache.
struct CacheGauges {
  int max_blocks = 0;
  int resident = 0;   // used + evictable + free
  int used = 0;       // held by sequences
  int cached = 0;     // in the index, used or not
  int evictable = 0;  // in the index and unused
  int free = 0;
  bool operator==(const CacheGauges&) const = default;
  CacheGauges& operator+=(const CacheGauges& other) {
    max_blocks += other.max_blocks, resident += other.resident, used += other.used;
    cached += other.cached, evictable += other.evictable, free += other.free;
    return *this;
  }
};

// A store of blocks outside of the engine's memory (store/block_store.h).
struct StoreMetrics {
  int64_t blocks = 0;          // of this store's identity that it knows of
  int64_t bytes = 0;           // that the store takes, with all that share it
  int64_t hits = 0;            // reads that gave a block
  int64_t misses = 0;          // reads that did not
  int64_t read_bytes = 0;      // content of the hits
  int64_t writes = 0;          // blocks that were written; those that were there already do not count
  int64_t written_bytes = 0;   // their content
  int64_t write_errors = 0;    // writes that returned an error
  int64_t skipped_writes = 0;  // not tried because one had failed shortly before
  int64_t torn = 0;            // damaged or foreign blocks that a read found, and removed
  int64_t evicted = 0;         // blocks that this store removed to make room, whoever wrote them
};

// The cache's tier (runtime/cache_tier.h).
struct TierMetrics {
  uint64_t imports = 0, imported_blocks = 0;  // prompts that got blocks from the store
  uint64_t imports_without_room = 0, failed_imports = 0;
  StoreMetrics store;
};

// Of prompts that other servers computed (runtime/prefix_fetcher.h), and that were computed for others
// (runtime/prefix_provider.h).
struct FetchMetrics {
  uint64_t fetches = 0, complete = 0;  // begun, and those whose blocks all came
  uint64_t local = 0;                  // prompts that were not worth it
  uint64_t failures = 0;               // servers that did not give what was asked for
  uint64_t blocks = 0, bytes = 0;      // that came
  int64_t active = 0;
};
struct ProvideMetrics {
  uint64_t prompts = 0, complete = 0, cancelled = 0, failed = 0;
  uint64_t bytes = 0;  // that were sent
  int64_t active = 0;
};

struct TransferMetrics {  // runtime/peer_exchange.h
  FetchMetrics fetched;
  ProvideMetrics provided;
  int64_t connections = 0;
  uint64_t refused = 0;  // connections that ended before both sides knew each other
};

// Of a home (core/step.h).
struct HomeMetrics {
  int running = 0;             // sequences
  CacheGauges blocks;          // of all groups
  int64_t cache_bytes = 0;     // of blocks that sequences hold
  uint64_t prompt_tokens = 0;  // computed there since the start, recomputed ones included
};

// Whether an engine gets on: how many sequences it has, and for how long no step has begun or ended, nor a piece of an
// image, while it had some. 0 without any.
struct EngineWatch {
  int sequences = 0;
  double still_seconds = 0;
};

// Of the loop that runs the steps (runtime/engine_core.h), with those of the scheduler and the cache.
struct CoreMetrics {
  SchedulerMetrics scheduler;
  std::vector<CacheGauges> cache;  // per group of layers, of all homes together
  double step_seconds = 0;         // sum of the time inside steps
  uint64_t images_encoded = 0, images_reused = 0;
  double idle_gap_seconds = 0;  // sum of the time between steps while sequences were running
  double sample_seconds = 0;    // of step_seconds, in the sampler
  // time to fill one grammar mask, of the last few thousand; 0: none was filled
  double mask_p50_seconds = 0, mask_p99_seconds = 0;
  int prefill_budget = 0;  // most prompt tokens of the next step
  // Pipeline stages that have a step each; turns in which the steps went on by a stage; and over all of these the sum
  // of stages with a step.
  int stages = 1;
  uint64_t turns = 0, busy_stages = 0;
  std::vector<HomeMetrics> homes;
  std::vector<uint64_t> images_of_processes;  // encoded by each, if the model takes any
  bool has_tier = false;
  TierMetrics tier;
  bool has_adapters = false;
  AdapterMetrics adapters;
  bool has_transfer = false;
  TransferMetrics transfer;

  // Of all groups together.
  CacheGauges blocks() const {
    CacheGauges sum;
    for (const CacheGauges& group : cache) sum += group;
    return sum;
  }
};

// Of compiled grammars: found in the cache, compiled, dropped to make room, refused by the compiler; what is kept.
struct GrammarCacheMetrics {
  int64_t hits = 0, misses = 0, evictions = 0, failures = 0;
  int64_t entries = 0, bytes = 0;
  double compile_seconds = 0;  // sum
};

}  // namespace weft
