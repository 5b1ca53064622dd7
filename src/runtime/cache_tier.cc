#include "runtime/cache_tier.h"

#include <algorithm>
#include <chrono>

#include "base/clock.h"
#include "base/keep_going.h"
#include "base/log.h"

namespace weft {
namespace {

// A mean of late measurements.
void mix(double& mean, double value) { mean = mean == 0 ? value : 0.75 * mean + 0.25 * value; }

constexpr double kFlushSeconds = 5;
constexpr int kTellingTokens = 64;  // a step of fewer prompt tokens says little of how fast prompts are computed

}  // namespace

CacheTier::CacheTier(std::shared_ptr<BlockStore> store, const Options& options, BlockMemory& memory, std::mutex& mutex,
                     Scheduler& scheduler, std::function<void(SequenceId)> ready, std::function<void()> freed)
    : store_(std::move(store)), options_(options), memory_(memory), mutex_(mutex), scheduler_(scheduler),
      ready_(std::move(ready)), freed_(std::move(freed)) {
  importer_ =
      std::thread([this] { keep_going("the thread that takes blocks from the cache's tier", [&] { import_loop(); }); });
  try {
    exporter_ = std::thread(
        [this] { keep_going("the thread that copies blocks to the cache's tier", [&] { export_loop(); }); });
  } catch (...) {
    end();
    throw;
  }
}

CacheTier::~CacheTier() { end(); }

void CacheTier::end() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  import_wake_.notify_all(), export_wake_.notify_all();
  for (std::thread* thread : {&importer_, &exporter_})
    if (thread->joinable()) thread->join();
}

void CacheTier::import(SequenceId id) {
  imports_.push_back(id);
  import_wake_.notify_all();
}

void CacheTier::step_finished(uint64_t step) {
  finished_ = step;
  import_wake_.notify_all();
}

void CacheTier::measured(int prompt_tokens, double step_seconds) {
  if (prompt_tokens >= kTellingTokens && step_seconds > 0) mix(prompt_rate_, prompt_tokens / step_seconds);
}

TierMetrics CacheTier::metrics() const {
  TierMetrics metrics = metrics_;
  metrics.store = store_->metrics();
  return metrics;
}

// ---- Coming in -----------------------------------------------------------------------------------------------------

void CacheTier::import_loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    import_wake_.wait(lock, [&] { return stopping_ || !imports_.empty(); });
    if (stopping_) return;
    const SequenceId id = imports_.front();
    imports_.pop_front();
    try {
      run_import(id, lock);
    } catch (const std::bad_alloc&) {  // then its prompt is computed
      if (!lock.owns_lock()) lock.lock();
      ++metrics_.failed_imports;
    }
    ready_(id);
  }
}

// What a read finds missing or damaged is not looked for again, so another try may find a shorter prefix.
void CacheTier::run_import(SequenceId id, std::unique_lock<std::mutex>& lock) {
  constexpr int kTries = 4;
  for (int i = 0; i < kTries && !stopping_; ++i) {
    const std::unique_ptr<BlockTransfer> transfer = scheduler_.plan_import(id);
    if (!transfer || !prepare_import(*transfer, lock)) return;
    bool filled = false;
    try {
      filled = fill(*transfer, lock);
    } catch (const std::bad_alloc&) {
      if (!lock.owns_lock()) lock.lock();
    }
    scheduler_.end_import(*transfer, filled ? transfer->blocks : 0);
    if (!filled) {
      ++metrics_.failed_imports;
      continue;
    }
    ++metrics_.imports, metrics_.imported_blocks += transfer->blanks.size();
    return;
  }
}

// Whether there is anything to fetch, worth it, and room for it.
bool CacheTier::prepare_import(BlockTransfer& transfer, std::unique_lock<std::mutex>& lock) {
  lock.unlock();
  const CacheManager& any = scheduler_.cache(0);
  any.extend_keys(transfer.cache, transfer.tokens);
  const auto groups = static_cast<size_t>(any.groups());
  std::vector<std::vector<bool>> stored(groups);
  bool some = false;
  for (size_t g = 0; g < groups; ++g)
    for (const BlockKey& key : transfer.cache.keys) {
      stored[g].push_back(store_->has(static_cast<int>(g), key));
      some |= stored[g].back();
    }
  lock.lock();
  if (!some || stopping_) return false;
  const int cached = scheduler_.look_up_import(
      transfer, [&](int g, int number) { return bool(stored[static_cast<size_t>(g)][static_cast<size_t>(number)]); });
  if (transfer.blocks * any.options().tokens_per_block <= cached || !pays(transfer, cached)) return false;
  if (scheduler_.begin_import(transfer)) return true;
  ++metrics_.imports_without_room;
  return false;
}

// Reading is expected to be faster than computing; as long as either is unknown, it is tried.
bool CacheTier::pays(const BlockTransfer& transfer, int cached) const {
  if (options_.always || prompt_rate_ == 0 || read_rate_ == 0) return true;
  const CacheManager& cache = scheduler_.cache(transfer.home);
  const int tokens_per_block = cache.options().tokens_per_block, blocks = transfer.blocks - cached / tokens_per_block;
  double bytes = 0;
  for (int g = 0; g < cache.groups(); ++g) {
    const int span = cache.options().groups[static_cast<size_t>(g)].span;  // 0: all blocks are read
    const int read = span > 0 ? std::min(blocks, span / tokens_per_block + 1) : blocks;
    bytes += static_cast<double>(memory_.block_bytes(g)) * read;
  }
  return bytes / read_rate_ < blocks * tokens_per_block / prompt_rate_;
}

bool CacheTier::fill(const BlockTransfer& transfer, std::unique_lock<std::mutex>& lock) {
  // What steps in flight read and write in these blocks is not ours yet.
  import_wake_.wait(lock, [&] { return stopping_ || finished_ >= transfer.after; });
  if (stopping_) return false;
  lock.unlock();
  const double begin = seconds();
  size_t bytes = 0;
  bool filled = true;
  for (size_t i = 0; filled && i < transfer.blanks.size(); ++i) {
    const CacheManager::Blank& blank = transfer.blanks[i];
    std::vector<std::byte> content(memory_.block_bytes(blank.group));
    filled = store_->read(blank.group, transfer.cache.keys[static_cast<size_t>(blank.number)], content);
    if (filled) memory_.write_block(transfer.home, blank.group, blank.block, memory_.whole(blank.group), content);
    bytes += content.size();
  }
  const double took = seconds() - begin;
  lock.lock();
  if (filled) mix(read_rate_, static_cast<double>(bytes) / std::max(took, 1e-6));
  return filled;
}

// ---- Going out -----------------------------------------------------------------------------------------------------

void CacheTier::export_loop() {
  std::unique_lock lock(mutex_);
  double stop_at = 0;
  for (;;) {
    std::unique_ptr<BlockTransfer> transfer = scheduler_.take_export();
    if (!transfer) {
      if (stopping_) return;
      export_wake_.wait(lock);
      continue;
    }
    if (stopping_ && stop_at == 0) stop_at = seconds() + kFlushSeconds;
    lock.unlock();
    try {
      if (stop_at == 0 || seconds() < stop_at) run_export(*transfer);
    } catch (const std::bad_alloc&) {  // these blocks are not kept
    }
    lock.lock();
    scheduler_.end_export(*transfer);
    freed_();
  }
}

void CacheTier::run_export(BlockTransfer& transfer) {
  for (int g = 0; g < static_cast<int>(transfer.cache.tables.size()); ++g) {
    const CacheSequence::Table& table = transfer.cache.tables[static_cast<size_t>(g)];
    std::vector<std::byte> content(memory_.block_bytes(g));
    for (int i = 0; i < table.held(); ++i) {
      const BlockKey& key = transfer.cache.keys[static_cast<size_t>(table.first_block + i)];
      if (store_->has(g, key)) continue;
      memory_.read_block(transfer.home, g, table.blocks[table.head + static_cast<size_t>(i)], memory_.whole(g),
                         content);
      if (const Status written = store_->write(g, key, content); !written.ok()) {
        log_warning("the cache's tier: ", written.error().to_string());
        return;
      }
    }
  }
}

}  // namespace weft
