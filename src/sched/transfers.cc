// Blocks that come from a store outside, and that go there.
#include <algorithm>

#include "base/check.h"
#include "base/make_room.h"
#include "sched/home.h"
#include "sched/scheduler.h"
#include "sched/sequence.h"

namespace weft {

namespace {

// Blocks that are being copied are held, so they take room from sequences: not more than this part of a cache.
constexpr int64_t kExportShare = 4;

}  // namespace

std::unique_ptr<BlockTransfer> Scheduler::plan_import(SequenceId id) {
  const auto found = sequences_.find(static_cast<uint64_t>(id));
  if (found == sequences_.end() || found->second->state != Sequence::State::held) return nullptr;
  Sequence& sequence = *found->second;
  const int limit = cache_limit(sequence), tokens_per_block = homes_[0].cache.options().tokens_per_block;
  if (limit < tokens_per_block || !homes_[0].cache.options().block_reuse) return nullptr;
  auto transfer = std::make_unique<BlockTransfer>();
  transfer->tokens = sequence.prompt.copy();  // it has not started yet
  transfer->tokens.insert(transfer->tokens.end(), sequence.first_output.begin(), sequence.first_output.end());
  transfer->tokens.resize(static_cast<size_t>(limit / tokens_per_block * tokens_per_block));
  homes_[0].cache.start(transfer->cache, CacheIdentity(sequence.identity), sequence.prompt_tokens, 0);
  // A prompt of whole blocks has a key more, of the block with the token that is computed in any case.
  std::vector<BlockKey>& keys = transfer->cache.keys;
  keys.resize(std::min(keys.size(), transfer->tokens.size() / static_cast<size_t>(tokens_per_block)));
  return transfer;
}

int Scheduler::look_up_import(BlockTransfer& transfer, const std::function<bool(int group, int number)>& stored) const {
  int most_cached = -1;
  for (int h = 0; h < homes(); ++h) {
    const CacheManager& cache = homes_[h].cache;
    const int blocks = static_cast<int>(transfer.cache.keys.size()), tokens = blocks * cache.options().tokens_per_block;
    const int cached = cache.look_up(transfer.cache, transfer.tokens, tokens, tokens).cached;
    const bool more_room =
        cached == most_cached && cache.available_bytes() > homes_[transfer.home].cache.available_bytes();
    if (cached > most_cached || more_room) most_cached = cached, transfer.home = h;
  }
  const CacheManager& cache = homes_[transfer.home].cache;
  transfer.blocks = cache.longest_import(transfer.cache, static_cast<int>(transfer.cache.keys.size()), stored);
  return most_cached;
}

bool Scheduler::begin_import(BlockTransfer& transfer) {
  make_room(transfers_, 1);
  if (!homes_[transfer.home].cache.begin_import(transfer.cache, transfer.tokens, transfer.blocks, transfer.blanks))
    return false;
  transfer.after = step_;
  transfers_.push_back(&transfer);
  return true;
}

void Scheduler::end_import(BlockTransfer& transfer, int filled) noexcept {
  CacheManager& cache = homes_[transfer.home].cache;
  try {
    if (filled > 0) cache.finish_import(transfer.cache, transfer.tokens, filled);
  } catch (const std::bad_alloc&) {  // what has not entered the index by now is lost
  }
  cache.release(transfer.cache);
  std::erase(transfers_, &transfer);
}

std::unique_ptr<BlockTransfer> Scheduler::plan_lease(std::vector<int32_t> tokens, CacheIdentity identity) const {
  auto lease = std::make_unique<BlockTransfer>();
  const int prompt_tokens = static_cast<int>(tokens.size());
  const CacheManager& cache = homes_[0].cache;
  lease->tokens = std::move(tokens), lease->blocks = (prompt_tokens - 1) / cache.options().tokens_per_block;
  lease->tokens.resize(static_cast<size_t>(lease->blocks * cache.options().tokens_per_block));
  cache.start(lease->cache, std::move(identity), prompt_tokens, 0);
  cache.extend_keys(lease->cache, lease->tokens);
  return lease;
}

bool Scheduler::is_cached(const BlockTransfer& lease) const {
  const int tokens = static_cast<int>(lease.tokens.size());
  return std::ranges::any_of(homes_, [&](const Home& home) {
    CacheSequence probe;
    home.cache.start_like(probe, lease.cache);
    return home.cache.look_up(probe, lease.tokens, tokens, tokens).cached == tokens;
  });
}

bool Scheduler::hold_lease(BlockTransfer& lease, std::span<const int> first, SequenceId id) {
  const auto found = sequences_.find(static_cast<uint64_t>(id));
  const Sequence* const sequence = found == sequences_.end() ? nullptr : found->second.get();
  const bool runs = sequence && sequence->state == Sequence::State::running;
  const bool begins = std::ranges::find(transfers_, &lease) == transfers_.end();
  int home = lease.home;
  if (sequence && homes() > 1) {
    if (!runs) return false;
    home = sequence->home;
  } else if (begins) {
    home = home_with_most(lease);
  }
  if (home != lease.home) homes_[lease.home].cache.release(lease.cache), lease.home = home;
  if (begins) transfers_.push_back(&lease);
  CacheManager& cache = homes_[home].cache;
  lease.indexed.resize(static_cast<size_t>(cache.groups()));
  const bool all = cache.hold_indexed(lease.cache, first, lease.blocks, lease.indexed);
  if (runs) hold_computing(lease, *sequence);
  return all;
}

// Where most of the lease's blocks are cached.
int Scheduler::home_with_most(BlockTransfer& lease) const {
  int most = -1, home = 0;
  for (int h = 0; h < homes(); ++h) {
    const int tokens = static_cast<int>(lease.tokens.size());
    const int cached = homes_[h].cache.look_up(lease.cache, lease.tokens, tokens, tokens).cached;
    if (cached > most) most = cached, home = h;
  }
  return home;
}

// What steps in flight write.
void Scheduler::hold_computing(BlockTransfer& lease, const Sequence& sequence) {
  CacheManager& cache = cache_of(sequence);
  const int tokens_per_block = cache.options().tokens_per_block;
  lease.certain = std::max(lease.certain, sequence.computed);
  lease.computing.clear();
  for (size_t i = 0; i < records_in_flight_; ++i) {
    const StepRecord& record = records_[(first_record_ + i) % records_.size()];
    for (const RowRecord& row : record.rows)
      if (row.sequence == &sequence && row.epoch == sequence.epoch)
        lease.computing.push_back({(row.row.first + row.row.tokens) / tokens_per_block, record.step});
  }
  const int end = lease.computing.empty() ? 0 : lease.computing.back().end;
  cache.hold_computing(lease.cache, sequence.cache, std::min(end, lease.blocks));
}

void Scheduler::end_lease(BlockTransfer& lease) noexcept {
  homes_[lease.home].cache.release(lease.cache);
  std::erase(transfers_, &lease);
}

// The blocks that the sequence leaves in the index are held until they have been copied.
void Scheduler::queue_export(Sequence& sequence) noexcept {
  CacheManager& cache = cache_of(sequence);
  if (sequence.cache.published == 0) return;
  std::unique_ptr<BlockTransfer> transfer;
  try {
    transfer = make_export(sequence);
    if (!transfer) return;
    make_room(transfers_, 1);
    exports_.push_back(nullptr);
  } catch (const std::bad_alloc&) {
    if (transfer) cache.release(transfer->cache);
    ++metrics_.exports_dropped;
    return;
  }
  export_bytes_ += transfer->bytes;
  transfers_.push_back(transfer.get());
  exports_.back() = std::move(transfer);
}

// Null: there is nothing to copy, or no room for it.
std::unique_ptr<BlockTransfer> Scheduler::make_export(const Sequence& sequence) {
  CacheManager& cache = homes_[sequence.home].cache;
  auto transfer = std::make_unique<BlockTransfer>();
  const int tokens = sequence.cache.published * cache.options().tokens_per_block;
  transfer->home = sequence.home;
  transfer->tokens.assign(sequence.tokens.begin(), sequence.tokens.begin() + tokens);
  cache.start_like(transfer->cache, sequence.cache);
  if (cache.acquire_prefix(transfer->cache, transfer->tokens, tokens) == 0) return nullptr;
  transfer->blocks = transfer->cache.published;
  for (int g = 0; g < cache.groups(); ++g)
    transfer->bytes += int64_t{transfer->cache.tables[g].held()} * cache.options().groups[g].block_bytes;
  if (export_bytes_ + transfer->bytes > cache.options().budget_bytes / kExportShare) {
    cache.release(transfer->cache);
    ++metrics_.exports_dropped;
    return nullptr;
  }
  return transfer;
}

std::unique_ptr<BlockTransfer> Scheduler::take_export() {
  if (exports_.empty()) return nullptr;
  std::unique_ptr<BlockTransfer> first = std::move(exports_.front());
  exports_.pop_front();
  return first;
}

void Scheduler::end_export(BlockTransfer& transfer) noexcept {
  homes_[transfer.home].cache.release(transfer.cache);
  export_bytes_ -= transfer.bytes;
  std::erase(transfers_, &transfer);
}

}  // namespace weft
