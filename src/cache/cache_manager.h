// The bookkeeping of the KV cache: which sequences hold which blocks, which blocks hold a prefix that a later sequence
// may reuse, and which may be evicted. There are no tensors here: a block is a number, and its bytes live on the
// workers.
//
// A *group* is the set of layers with the same kind of cache (full, sliding window, chunk). Each group has block
// numbers 0 .. max_blocks - 1 of its own, which the workers map to reserved virtual memory, and all groups draw on one
// byte budget: a block number is *resident* while its memory counts against the budget. A block is
//   used      one or more sequences hold it;
//   cached    it is in the prefix index (also while it is used); unused and cached is called *evictable*;
//   free      resident, held by nobody, content worthless;
//   absent    not resident.
// A new block comes from the group's free blocks, else from what is left of the budget, else from the memory of other
// groups' free blocks (whose numbers then appear in StepBatch::releases), else from evicting blocks: lowest priority
// first, then least recently used; in full groups only leaves of the index are evicted.
//
// Contract with the workers: they execute steps in the order of submission, and within a step the copies, then the
// releases, then the writes. So a block released while an earlier step is still in flight may be handed out again at
// once: its new content is written later.
//
// The *index* has one node per distinct prefix of whole blocks (see block_key.h), which names at most one block per
// group. Only blocks whose KV is certainly written get in. A prefix hit of p tokens needs, in each group, the blocks
// that a query at position p may still read. When a sequence computed a block that the index has already, its copy is
// dropped in favour of the index's. One caller at a time (the scheduler's, that is). Nothing here reads a clock: time
// comes in through begin_step().
//
// When memory runs out (std::bad_alloc) the books stay right: blocks that were taken are in the sequence, and release()
// gives them back. release(), undo_acquire() and begin_step() need no memory. Events that find none are lost.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "cache/block_key.h"
#include "core/cache_spec.h"
#include "core/metrics.h"
#include "core/step.h"

namespace weft {

struct CacheGroup {
  CacheSpec::Kind kind = CacheSpec::Kind::full;
  int span = 0;             // tokens, of window and chunk groups
  int64_t block_bytes = 0;  // of one block, all layers of the group together
};

struct CacheOptions {
  std::vector<CacheGroup> groups;  // none: the model keeps no cache (encoders)
  int tokens_per_block = 32;
  int64_t budget_bytes = 0;  // of all groups together
  bool block_reuse = true;
  bool partial_reuse = true;  // also the first tokens of a block whose rest differs, by copy
  // A sequence that is alone reserves so many positions behind the one that it computes (a drafter's).
  int lookahead = 0;
  // A sequence that takes up a cached prefix computes its last tokens, so many of them, once more (for the hidden
  // states that a drafter reads). What they write into the cache has the same bits as before.
  int recomputed = 0;
  int event_capacity = 0;  // events kept until take_events(); 0: none are recorded
};

constexpr int kDefaultPriority = 35;

// How long the blocks of one sequence are worth keeping. Where nothing is said, a block has kDefaultPriority.
struct Retention {
  struct Range {
    int first = 0, end = -1;          // token positions [first, end) of the prompt; -1: to its end
    int priority = kDefaultPriority;  // 0 (first to go) .. 100
    int64_t duration_us = 0;          // this long after its last use the block falls back to kDefaultPriority; 0: never
  };
  std::vector<Range> ranges;  // the first that holds a block's first token counts
  int decode_priority = kDefaultPriority;
  int64_t decode_duration_us = 0;
  bool is_default() const { return ranges.empty() && decode_priority == kDefaultPriority; }
};

// One sequence's share of the cache. Owned by the sequence, filled and changed by CacheManager only.
struct CacheSequence {
  struct Table {
    std::vector<int32_t> blocks;  // from `head` on: the held blocks, contiguous in position
    size_t head = 0;
    int first_block = 0;  // position / tokens_per_block of blocks[head]
    // Block numbers below this are on the workers as they are here. Whoever changes or removes an entry lowers it to
    // that entry's number.
    int sent = 0;
    int held() const { return static_cast<int>(blocks.size() - head); }
  };
  std::vector<Table> tables;   // per group
  std::vector<BlockKey> keys;  // of the whole blocks of the known tokens
  BlockKey root;
  std::vector<ContentSpan> content;
  Retention retention;
  int prompt_tokens = 0;
  int published = 0;  // blocks before this one are in the index (or were)
};

struct CacheIdentity {
  std::string salt;
  std::string adapter;  // AdapterUse::digest; empty: none
  std::vector<ContentSpan> content;
  Retention retention;
  // Of the prompt's whole blocks, where somebody has made them already (CacheManager::prompt_keys); null: not yet.
  std::shared_ptr<const std::vector<BlockKey>> keys;
};

struct CacheEvent {
  enum class Kind : uint8_t { stored, removed };
  uint64_t id = 0;  // counts up by one; a gap means that events were dropped (event_capacity)
  Kind kind = Kind::stored;
  int group = 0;
  int home = 0;                 // set by the Scheduler
  BlockKey key, parent;         // parent: the previous block's key, or the root of the salt (stored only)
  std::vector<int32_t> tokens;  // of the block (stored only)
};

class PrefixIndex;
class BlockPool;

class CacheManager {
 public:
  // invalid_argument: a group without block_bytes, without a span that its kind needs, or of an unsupported kind;
  // resource_exhausted: a budget smaller than one block.
  static Result<CacheManager> create(CacheOptions options);
  // Not noexcept: moving a deque makes a new one.
  CacheManager(CacheManager&&);
  CacheManager& operator=(CacheManager&&);
  ~CacheManager();

  const CacheOptions& options() const { return options_; }
  int groups() const { return static_cast<int>(options_.groups.size()); }
  int max_blocks(int group) const;

  // Most bytes that one sequence holds at once while it grows to `tokens` positions, the first `whole` of them in one
  // step and the others one by one.
  int64_t bytes_for(int64_t tokens, int64_t whole) const;
  // The longest sequence that fits into the whole budget when computed token by token (INT32_MAX if there is no limit).
  int max_sequence_tokens() const;
  // Bytes that no sequence holds: what reserve() can still hand out.
  int64_t available_bytes() const;
  // Counts up when bytes become available or the index grows; while it stands still, a reservation that failed fails
  // again.
  uint64_t version() const { return version_; }

  // Sets the time (any epoch, never backwards): priorities whose duration is over fall back.
  void begin_step(int64_t now_us);

  // A new sequence, or one that starts again: `expected_tokens` reserves host memory so that growing to it does not
  // allocate.
  void start(CacheSequence& sequence, CacheIdentity identity, int prompt_tokens, int expected_tokens) const;
  // The keys of a prompt's whole blocks; null where none are needed. Any thread: nothing of the cache is looked at.
  std::shared_ptr<const std::vector<BlockKey>> prompt_keys(std::span<const int32_t> prompt,
                                                           const CacheIdentity& identity) const;
  // Hashes whole blocks of the known tokens that have no key yet.
  void extend_keys(CacheSequence& sequence, std::span<const int32_t> known) const;
  // What acquire_prefix() would find, and how many of the available bytes the sequence would take until it has `end`
  // positions if it went on in single tokens. Changes nothing but the sequence's keys.
  struct Prospect {
    int cached = 0;  // acquire_prefix()'s result
    int64_t bytes = 0;
  };
  Prospect look_up(CacheSequence& sequence, std::span<const int32_t> known, int limit, int end) const;
  // Takes hold of the longest prefix of whole cached blocks, at most `limit` tokens, and returns its length in tokens.
  // The first query may be at that length less CacheOptions::recomputed.
  // The sequence must hold nothing yet.
  int acquire_prefix(CacheSequence& sequence, std::span<const int32_t> known, int limit);
  // After acquire_prefix: a fresh block that begins with a copy of the first tokens of a cached one. Returns how many
  // tokens that is (0: no such block, or no room) and appends the copies, one per group.
  int copy_partial_block(CacheSequence& sequence, std::span<const int32_t> known, int limit,
                         std::vector<BlockCopy>& copies);
  // Where a sequence goes on that found so many tokens in the cache.
  int first_query(int cached) const { return std::max(0, cached - options_.recomputed); }
  // Undoes acquire_prefix() and copy_partial_block(), as if they had not been called (version() included).
  void undo_acquire(CacheSequence& sequence) noexcept;
  // Bytes still to be reserved until the sequence has `tokens` positions, if it goes on in single tokens.
  int64_t missing_bytes(const CacheSequence& sequence, int tokens) const;
  // Reserves positions up to `end` in all groups (or in full groups only); all or nothing.
  bool reserve(CacheSequence& sequence, int end);
  bool reserve_full_groups(CacheSequence& sequence, int end);
  // Tells that the KV of all positions below `computed` is written: blocks that are now whole enter the index, and
  // blocks that no query at `computed` or later can read are released.
  void commit(CacheSequence& sequence, std::span<const int32_t> known, int computed);
  // Releases all blocks of the sequence; those in the index stay there and become evictable.
  void release(CacheSequence& sequence) noexcept;

  // ---- Blocks from and to a store outside (store/block_store.h). Whoever fills or copies them holds them with a
  // CacheSequence of its own, and release()s it in the end.

  // The same prefix as `other`, holding nothing.
  void start_like(CacheSequence& sequence, const CacheSequence& other) const;
  // A block that has been taken for content from outside.
  struct Blank {
    int group = 0, number = 0;  // number: position / tokens_per_block
    int32_t block = 0;
  };
  // The most whole blocks, at most `limit`, whose prefix could be served if the store helped out: `stored` says whether
  // it has a group's block number `number`. The sequence has the keys.
  int longest_import(const CacheSequence& sequence, int limit,
                     const std::function<bool(int group, int number)>& stored) const;
  // For a started sequence that holds nothing: takes hold of all blocks that a prefix of `blocks` whole blocks needs.
  // Those that are in the index are shared, the others are fresh, and come in `blanks`. False where there is no room:
  // then nothing is held.
  bool begin_import(CacheSequence& sequence, std::span<const int32_t> known, int blocks, std::vector<Blank>& blanks);
  // The blanks have been filled: they enter the index.
  void finish_import(CacheSequence& sequence, std::span<const int32_t> known, int blocks);

  // For a started sequence whose keys are there: takes hold of blocks of the index, in each group from `first` on (a
  // full group's from 0) to `blocks`, as far as they follow each other. `indexed`: per group the end of those, from
  // earlier calls. May be called again when more are there. Returns whether all are held.
  bool hold_indexed(CacheSequence& sequence, std::span<const int> first, int blocks, std::vector<int>& indexed);
  // Behind these, takes hold of blocks before `end` that `other`, with the same tokens, computes.
  void hold_computing(CacheSequence& sequence, const CacheSequence& other, int end);

  // For a row at positions first .. end - 1: appends what the workers' tables of `slot` lack, in all groups, of the
  // blocks that a query at `first` can read and of those that are written. They count as sent from then on.
  void send_entries(CacheSequence& sequence, Slot slot, int first, int end, std::vector<TableEntry>& entries) const;
  // Blocks whose memory was given up since the last call and is still. Those for which `releases` has no room, and
  // finds none, come with the next call.
  void take_releases(std::vector<BlockRelease>& releases) noexcept;

  CacheGauges gauges(int group) const;
  int64_t resident_bytes() const;
  std::vector<CacheEvent> take_events();
  uint64_t next_event_id() const { return next_event_; }
  // What the events must replay to: (group, key) of every cached block, sorted.
  std::vector<std::pair<int, BlockKey>> index() const;
  // Empties the index of everything that no sequence holds.
  void drop_cached();

  // For tests: ends the process unless all counts and lists agree with each other and with the sequences that hold
  // blocks.
  void check_integrity(std::span<const CacheSequence* const> sequences) const;

 private:
  explicit CacheManager(CacheOptions options);
  bool keeps_all(int group) const {
    return options_.groups[group].kind != CacheSpec::Kind::window &&
           options_.groups[group].kind != CacheSpec::Kind::chunk;
  }
  int64_t most_blocks(int group, int64_t tokens, int64_t whole) const;
  int first_needed_block(int group, int64_t position) const;
  bool reserve_where(CacheSequence& sequence, int end, bool full_groups_only);
  int longest_match(const CacheSequence& sequence, int limit_blocks, std::vector<int32_t>& nodes) const;
  template <class Has>
  int longest_served(int blocks, Has has) const;
  int32_t take_block(int group);
  void take_blocks(CacheSequence& sequence, int group, int until_block);
  void hold(int group, int32_t block) noexcept;
  void let_go(int group, int32_t block) noexcept;
  void make_evictable(int group, int32_t block) noexcept;
  void uncache(int group, int32_t block) noexcept;
  void evict_one() noexcept;
  void publish_block(CacheSequence& sequence, std::span<const int32_t> known, int number, bool imported = false);
  void enter(int group, int32_t block, int32_t node, const BlockKey& parent, std::span<const int32_t> tokens) noexcept;
  void set_priority(const CacheSequence& sequence, int group, int32_t block, int number);
  void drop_front(CacheSequence& sequence, int group, int until_block);
  void add_event(CacheEvent::Kind kind, int group, const BlockKey& key, const BlockKey& parent = {},
                 std::span<const int32_t> tokens = {}) noexcept;

  CacheOptions options_;
  bool has_full_group_ = false;
  std::unique_ptr<BlockPool> pool_;
  std::unique_ptr<PrefixIndex> index_;
  std::vector<int32_t> matched_;  // scratch: per block of a prompt its node
  std::deque<CacheEvent> events_;
  uint64_t next_event_ = 0;
  uint64_t use_clock_ = 0;  // counts uses of blocks, for least-recently-used order
  int64_t now_us_ = 0;
  uint64_t version_ = 1;
};

}  // namespace weft
