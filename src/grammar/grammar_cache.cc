// See the header.
#include "grammar/grammar_cache.h"

#include <new>
#include <utility>

#include "base/json.h"
#include "base/log.h"
#include "base/stop_flag.h"

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

// Waits until `over()`, or until `stop` is set.
template <class Condition>
Status GrammarCache::wait(std::unique_lock<std::mutex>& lock, const StopFlag* stop, const Condition& over) {
  constexpr std::chrono::milliseconds kLook{5};
  while (!over()) {
    WEFT_RETURN_IF_ERROR(check_stop(stop));
    if (stop) changed_.wait_for(lock, kLook);
    else changed_.wait(lock);
  }
  return {};
}

Result<std::unique_ptr<Grammar>> GrammarCache::get(const GrammarSpec& spec, const StopFlag* stop) {
  std::string key = key_of(spec);
  std::unique_lock lock(mutex_);
  while (true) {
    if (const auto found = kept_.find(key); found != kept_.end()) {
      ++metrics_.hits;
      order_.splice(order_.begin(), order_, found->second);
      const std::shared_ptr<Entry> entry = order_.front();
      lock.unlock();
      return copy(*entry);
    }
    const auto found = compiling_.find(key);
    if (found == compiling_.end()) return make(std::move(key), spec, lock, stop);
    const std::shared_ptr<Entry> entry = found->second;
    WEFT_RETURN_IF_ERROR(wait(lock, stop, [&] { return entry->done; }));
    if (entry->stopped) continue;
    ++metrics_.hits;
    lock.unlock();
    return copy(*entry);
  }
}

// Compiles what nobody has compiled yet.
Result<std::unique_ptr<Grammar>> GrammarCache::make(std::string key, const GrammarSpec& spec,
                                                    std::unique_lock<std::mutex>& lock, const StopFlag* stop) {
  ++metrics_.misses;
  const auto entry = std::make_shared<Entry>();
  entry->key = std::move(key);
  compiling_.emplace(entry->key, entry);
  try {
    if (Status slot = wait_for_slot(lock, stop); !slot.ok()) entry->error = slot.error();
    else compile(spec, *entry, lock, stop);
  } catch (const std::bad_alloc&) {  // others wait for the entry
    if (!lock.owns_lock()) lock.lock(), --running_;
    entry->grammar.reset();
    entry->error.emplace(Code::resource_exhausted, "out of memory");
  }
  entry->done = true;
  entry->stopped =
      entry->error && (entry->error->code() == Code::cancelled || entry->error->code() == Code::deadline_exceeded);
  compiling_.erase(entry->key);
  keep(entry);
  changed_.notify_all();
  lock.unlock();
  return copy(*entry);
}

Status GrammarCache::wait_for_slot(std::unique_lock<std::mutex>& lock, const StopFlag* stop) {
  const auto ticket = waiting_.insert(waiting_.end(), next_ticket_++);
  const double until = spent_ + std::chrono::duration<double>(options_.wait).count();
  const auto my_turn = [&] { return running_ < options_.slots && waiting_.begin() == ticket; };
  const Status waited = wait(lock, stop, [&] { return my_turn() || spent_ >= until; });
  const bool taken = waited.ok() && my_turn();
  waiting_.erase(ticket);
  changed_.notify_all();  // the next one's turn may have come
  if (taken || !waited.ok()) return waited;
  return fail(Code::resource_exhausted, "too many grammars are being compiled; try again later");
}

// Releases the lock while it compiles.
void GrammarCache::compile(const GrammarSpec& spec, Entry& entry, std::unique_lock<std::mutex>& lock,
                           const StopFlag* stop) {
  ++running_;
  lock.unlock();
  const auto begin = Clock::now();
  double processor_seconds = 0;
  auto grammar = factory_->compile(spec, &processor_seconds, stop);
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  lock.lock();
  --running_;
  spent_ += processor_seconds;
  metrics_.compile_seconds += seconds;
  entry.bytes = sizeof(Entry) + 2 * entry.key.size();
  if (grammar.ok()) {
    entry.grammar = std::move(grammar).value();
    static WarningLimit schemas;
    for (const std::string& warning : entry.grammar->warnings()) schemas.warn("schema", " ", json_quote(warning));
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
  if (entry->bytes > options_.bytes || entry->stopped) return;
  if (entry->error && entry->error->code() == Code::resource_exhausted) return;
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
