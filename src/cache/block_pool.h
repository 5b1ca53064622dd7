// Block numbers, who holds them, and the byte budget that all groups share. Says which memory is resident; does not
// decide what to evict (CacheManager does, from the heaps kept here beside the blocks).
#pragma once

#include <cstdint>
#include <vector>

#include "cache/cache_manager.h"
#include "cache/indexed_heap.h"

namespace weft {

class BlockPool {
 public:
  struct Block {
    int32_t refs = 0;   // sequences that hold it
    int32_t node = -1;  // of the prefix index, or -1
    uint8_t priority = kDefaultPriority;
    bool resident = false;
    bool listed = false;      // in releases_
    int64_t duration_us = 0;  // of the priority, after the last use; 0: for ever
    uint64_t last_use = 0;
  };

  explicit BlockPool(const CacheOptions& options);

  int max_blocks(int group) const { return groups_[group].max_blocks; }
  Block& at(int group, int32_t block) { return groups_[group].blocks[block]; }
  const Block& at(int group, int32_t block) const { return groups_[group].blocks[block]; }
  int32_t known_blocks(int group) const { return static_cast<int32_t>(groups_[group].blocks.size()); }

  // Returns a resident block that nobody holds, already counted against the budget, without evicting anything; -1 if
  // that would take an eviction. The only one here that may run out of memory (std::bad_alloc); nothing is changed
  // then.
  int32_t take(int group);
  // A resident block that is neither held nor cached becomes free.
  void put_back(int group, int32_t block) noexcept { groups_[group].free.push_back(block); }

  // Adjust how many blocks of the group sequences hold, and how many the prefix index holds (add a negative number to
  // take away). The caller has changed Block::refs from or to 0 itself.
  void count_used(int group, int blocks);
  void count_cached(int group, int blocks) { groups_[group].cached += blocks; }

  int64_t budget_bytes() const { return budget_bytes_; }
  int64_t resident_bytes() const { return resident_bytes_; }
  int64_t used_bytes() const { return used_bytes_; }
  CacheGauges gauges(int group) const;
  // Those for which there is no memory stay for the next call.
  void take_releases(std::vector<BlockRelease>& releases) noexcept;
  void check_integrity() const;

  // Blocks that may be evicted now, by (priority, last use); and unused cached blocks whose priority lapses, by time.
  IndexedHeap& evictable(int group) { return groups_[group].evictable; }
  IndexedHeap& lapsing(int group) { return groups_[group].lapsing; }

 private:
  struct Group {
    int64_t block_bytes = 0;
    int32_t max_blocks = 0;
    std::vector<Block> blocks;    // grows to max_blocks as numbers are used for the first time
    std::vector<int32_t> free;    // resident
    std::vector<int32_t> absent;  // used once, not resident now
    int used = 0, cached = 0;
    int64_t resident = 0;
    IndexedHeap evictable, lapsing;
  };
  bool give_up_free_block(int except_group);
  void add_block(Group& group);

  std::vector<Group> groups_;
  std::vector<BlockRelease> releases_;
  int64_t budget_bytes_ = 0, resident_bytes_ = 0, used_bytes_ = 0;
};

}  // namespace weft
