// Vectors are reserved to their largest size at once: that costs address space, not memory, and keeps steps free of
// allocations. Beyond kReservedBlocks they all grow when a block is taken for the first time, so that nothing else can
// run out of memory.
#include "cache/block_pool.h"

#include <algorithm>
#include <new>

#include "base/check.h"
#include "base/make_room.h"

namespace weft {
namespace {

// Beyond this many blocks vectors grow as they need to.
constexpr size_t kReservedBlocks = size_t{1} << 20;

}  // namespace

BlockPool::BlockPool(const CacheOptions& options) : budget_bytes_(options.budget_bytes) {
  size_t most = 0;
  for (const CacheGroup& group : options.groups) {
    Group& g = groups_.emplace_back();
    g.block_bytes = group.block_bytes;
    g.max_blocks = static_cast<int32_t>(std::min<int64_t>(budget_bytes_ / group.block_bytes, INT32_MAX / 4));
    const size_t room = std::min<size_t>(g.max_blocks, kReservedBlocks);
    most = std::max(most, room);
    g.blocks.reserve(room), g.free.reserve(room), g.absent.reserve(room);
    g.evictable.reserve(room), g.lapsing.reserve(room);
  }
  if (groups_.size() > 1) releases_.reserve(2 * most);
}

int32_t BlockPool::take(int group) {
  Group& g = groups_[group];
  if (!g.free.empty()) {
    const int32_t block = g.free.back();
    g.free.pop_back();
    return block;
  }
  while (resident_bytes_ + g.block_bytes > budget_bytes_) {
    if (!give_up_free_block(group)) return -1;
  }
  int32_t block = known_blocks(group);
  if (!g.absent.empty()) {
    block = g.absent.back();
    g.absent.pop_back();
  } else {
    add_block(g);
  }
  g.blocks[block].resident = true;
  ++g.resident;
  resident_bytes_ += g.block_bytes;
  return block;
}

void BlockPool::add_block(Group& group) {
  const size_t count = group.blocks.size() + 1;
  const auto room = [count](std::vector<int32_t>& list) { make_room(list, count - list.size()); };
  room(group.free), room(group.absent);
  group.evictable.make_room(count), group.lapsing.make_room(count);
  group.blocks.emplace_back();
}

bool BlockPool::give_up_free_block(int except_group) {
  for (int i = 0; i < static_cast<int>(groups_.size()); ++i) {
    Group& g = groups_[i];
    if (i == except_group || g.free.empty()) continue;
    const int32_t block = g.free.back();
    if (!g.blocks[block].listed) releases_.push_back({i, block});  // first, since it may run out of memory
    g.free.pop_back();
    g.absent.push_back(block);
    g.blocks[block].resident = false;
    --g.resident;
    resident_bytes_ -= g.block_bytes;
    g.blocks[block].listed = true;
    return true;
  }
  return false;
}

void BlockPool::count_used(int group, int blocks) {
  groups_[group].used += blocks;
  used_bytes_ += blocks * groups_[group].block_bytes;
}

CacheGauges BlockPool::gauges(int group) const {
  const Group& g = groups_[group];
  CacheGauges gauges;
  gauges.max_blocks = g.max_blocks;
  gauges.resident = static_cast<int>(g.resident);
  gauges.used = g.used;
  gauges.cached = g.cached;
  gauges.free = static_cast<int>(g.free.size());
  gauges.evictable = gauges.resident - gauges.used - gauges.free;
  return gauges;
}

void BlockPool::take_releases(std::vector<BlockRelease>& releases) noexcept {
  try {
    make_room(releases, releases_.size());
  } catch (const std::bad_alloc&) {
    return;
  }
  for (const BlockRelease& release : releases_) {
    Block& block = at(release.group, release.block);
    block.listed = false;
    if (!block.resident) releases.push_back(release);
  }
  releases_.clear();
}

void BlockPool::check_integrity() const {
  int64_t resident_bytes = 0, used_bytes = 0;
  for (const Group& g : groups_) {
    int resident = 0, used = 0, cached = 0, idle = 0;
    for (const Block& block : g.blocks) {
      WEFT_CHECK(block.refs >= 0 && (block.resident || (block.refs == 0 && block.node < 0)));
      resident += block.resident, used += block.refs > 0, cached += block.node >= 0;
      idle += block.resident && block.refs == 0 && block.node < 0;
    }
    WEFT_CHECK(resident == g.resident && used == g.used && cached == g.cached &&
               idle == static_cast<int>(g.free.size()));
    WEFT_CHECK(g.blocks.size() == g.resident + g.absent.size() && static_cast<int>(g.blocks.size()) <= g.max_blocks);
    resident_bytes += resident * g.block_bytes, used_bytes += used * g.block_bytes;
  }
  WEFT_CHECK(resident_bytes == resident_bytes_ && used_bytes == used_bytes_ && resident_bytes <= budget_bytes_);
}

}  // namespace weft
