// See the header.
#include "grammar/grammar_cache.h"

#include <new>
#include <utility>

#include "base/json.h"
#include "base/log.h"

namespace weft {

namespace {

using Clock = std::chrono::steady_clock;

// Equal for equal specs only: every part is preceded by its size.
std::string key_of(const GrammarSpec& spec) {
  std::string key;
  const auto add = [&](const std::string& part) { ((key += std::to_string(part.size())) += ':') += part; };
  add(std::to_string(static_cast<int>(spec.kind)) + (spec.compact_json ? "c" : "") + (spec.strict_schemas ? "s" : "") +
      std::to_string(static_cast<int>(spec.thinking)));
  add(spec.text);
  for (const std::string& choice : spec.choices) add(choice);
  return key;
}

}  // namespace

GrammarCache::GrammarCache(std::unique_ptr<const GrammarFactory> factory, GrammarCacheOptions options)
    : factory_(std::move(factory)), options_(options) {}

Result<std::unique_ptr<Grammar>> GrammarCache::copy(Entry& entry) {
  if (entry.error) return Error(*entry.error);
  const std::lock_guard lock(entry.cloning);
  return entry.grammar->clone();
}

Result<std::unique_ptr<Grammar>> GrammarCache::get(const GrammarSpec& spec) {
  std::string key = key_of(spec);
  std::unique_lock lock(mutex_);
  if (const auto found = kept_.find(key); found != kept_.end()) {
    ++metrics_.hits;
    order_.splice(order_.begin(), order_, found->second);
    const std::shared_ptr<Entry> entry = order_.front();
    lock.unlock();
    return copy(*entry);
  }
  if (const auto found = compiling_.find(key); found != compiling_.end()) {
    ++metrics_.hits;
    const std::shared_ptr<Entry> entry = found->second;
    changed_.wait(lock, [&] { return entry->done; });
    lock.unlock();
    return copy(*entry);
  }
  ++metrics_.misses;
  const auto entry = std::make_shared<Entry>();
  entry->key = std::move(key);
  compiling_.emplace(entry->key, entry);
  try {
    if (Status slot = wait_for_slot(lock); !slot.ok()) entry->error = slot.error();
    else compile(spec, *entry, lock);
  } catch (const std::bad_alloc&) {  // others wait for the entry
    if (!lock.owns_lock()) lock.lock(), --running_;
    entry->grammar.reset();
    entry->error.emplace(Code::resource_exhausted, "out of memory");
  }
  entry->done = true;
  compiling_.erase(entry->key);
  keep(entry);
  changed_.notify_all();
  lock.unlock();
  return copy(*entry);
}

Status GrammarCache::wait_for_slot(std::unique_lock<std::mutex>& lock) {
  const auto ticket = waiting_.insert(waiting_.end(), next_ticket_++);
  const double until = spent_ + std::chrono::duration<double>(options_.wait).count();
  const auto my_turn = [&] { return running_ < options_.slots && waiting_.begin() == ticket; };
  changed_.wait(lock, [&] { return my_turn() || spent_ >= until; });
  const bool taken = my_turn();
  waiting_.erase(ticket);
  changed_.notify_all();  // the next one's turn may have come
  if (taken) return {};
  return fail(Code::resource_exhausted, "too many grammars are being compiled; try again later");
}

// Releases the lock while it compiles.
void GrammarCache::compile(const GrammarSpec& spec, Entry& entry, std::unique_lock<std::mutex>& lock) {
  ++running_;
  lock.unlock();
  const auto begin = Clock::now();
  double processor_seconds = 0;
  auto grammar = factory_->compile(spec, &processor_seconds);
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  lock.lock();
  --running_;
  spent_ += processor_seconds;
  metrics_.compile_seconds += seconds;
  entry.bytes = sizeof(Entry) + 2 * entry.key.size();
  if (grammar.ok()) {
    entry.grammar = std::move(grammar).value();
    for (const std::string& warning : entry.grammar->warnings()) log_warning("schema", " ", json_quote(warning));
    entry.bytes += entry.grammar->bytes();
  } else {
    ++metrics_.failures;
    entry.error = grammar.error();
    entry.bytes += grammar.error().message().size();
  }
}

// Adds the entry to the cache and evicts the least recently used ones. Failures for lack of time or memory are not
// kept, since the same grammar may compile later.
void GrammarCache::keep(const std::shared_ptr<Entry>& entry) {
  if (entry->bytes > options_.bytes || (entry->error && entry->error->code() == Code::resource_exhausted)) return;
  try {
    order_.push_front(entry);
    kept_.emplace(entry->key, order_.begin());
  } catch (const std::bad_alloc&) {
    if (!order_.empty() && order_.front() == entry) order_.pop_front();
    return;
  }
  metrics_.bytes += static_cast<int64_t>(entry->bytes);
  while (metrics_.bytes > static_cast<int64_t>(options_.bytes)) {
    metrics_.bytes -= static_cast<int64_t>(order_.back()->bytes);
    ++metrics_.evictions;
    kept_.erase(order_.back()->key);
    order_.pop_back();
  }
  metrics_.entries = static_cast<int64_t>(order_.size());
}

GrammarCacheMetrics GrammarCache::metrics() const {
  const std::lock_guard lock(mutex_);
  return metrics_;
}

}  // namespace weft
