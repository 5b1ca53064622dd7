#include "runtime/adapter_store.h"

#include <algorithm>
#include <chrono>

#include "base/check.h"
#include "base/log.h"

namespace weft {

namespace {

constexpr size_t kMostName = 256;

Status check_name(const std::string& name) {
  const bool plain = std::ranges::all_of(name, [](unsigned char c) { return c > ' ' && c < 0x7f; });
  if (name.empty() || name.size() > kMostName || !plain)
    return fail(Code::invalid_argument, "an adapter's name is 1 to ", kMostName, " characters of ASCII without spaces")
        .about("lora_name");
  return {};
}

int64_t unix_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// No sequence has it: the store's own is the only one, and copies are made of that under the store's mutex alone.
bool unused(const AdapterLease& lease) { return lease.use_count() == 1; }

}  // namespace

// Under loading_.
Result<AdapterStore::Loaded> AdapterStore::load(const std::string& name, const std::string& path, Digest& digest) {
  WEFT_TRY(AdapterFiles files, read_adapter_files(path));
  WEFT_TRY(const std::shared_ptr<const Adapter> adapter, parse_adapter(files, model_.checkpoint->config()));
  WEFT_RETURN_IF_ERROR(check_adapter(model_.adapter_modules, *adapter, model_.adapters->max_rank));
  WEFT_TRY(std::shared_ptr<const LoadedAdapter> packed, load_adapter(model_, *adapter));
  Loaded loaded{.lease = {}, .bytes = packed->bytes(), .rank = adapter->largest_rank};
  const std::lock_guard lock(mutex_);
  WEFT_RETURN_IF_ERROR(make_room(loaded.bytes, name));
  const auto number = std::ranges::find(numbers_, false);
  if (number == numbers_.end())
    return fail(Code::resource_exhausted, kMaxAdapters, " adapters are in use, no more can be").about("lora");
  const int taken = static_cast<int>(number - numbers_.begin());
  loaded.lease = std::make_shared<const AdapterUse>(
      AdapterUse{taken, name, std::string(adapter->digest.begin(), adapter->digest.end())});
  model_.adapter_table->put(taken, std::move(packed), std::make_shared<const AdapterFiles>(std::move(files)));
  numbers_[static_cast<size_t>(taken)] = true;
  bytes_ += loaded.bytes, ++loads_;
  digest = adapter->digest;
  return loaded;
}

// Under mutex_, as all that follows.
Status AdapterStore::make_room(int64_t bytes, const std::string& name) {
  free_unused();
  while (bytes_ + bytes > max_bytes_) {
    Entry* oldest = nullptr;
    for (auto& [other, entry] : entries_)
      if (entry.loaded.lease && unused(entry.loaded.lease) && (!oldest || entry.last_use < oldest->last_use))
        oldest = &entry;
    if (!oldest)
      return fail(Code::resource_exhausted, "the adapter ", name, " takes ", bytes, " bytes, and adapters in use take ",
                  bytes_, " of --lora-memory ", max_bytes_)
          .about("lora");
    let_go(oldest->loaded);
    ++evictions_;
  }
  return {};
}

void AdapterStore::let_go(Loaded& loaded) {
  model_.adapter_table->put(loaded.lease->number, nullptr, nullptr);
  numbers_[static_cast<size_t>(loaded.lease->number)] = false;
  bytes_ -= loaded.bytes;
  loaded = {};
}

void AdapterStore::free_unused() {
  std::erase_if(removed_, [&](Loaded& loaded) {
    if (!unused(loaded.lease)) return false;
    let_go(loaded);
    return true;
  });
}

Error AdapterStore::not_there(const std::string& name) const {
  std::string names;
  for (const auto& [known, entry] : entries_) names += (names.empty() ? "" : ", ") + known;
  return fail(Code::not_found, "there is no adapter ", name, names.empty() ? "" : "; there are ", names).about("lora");
}

Status AdapterStore::add(const std::string& name, const std::string& path) {
  WEFT_RETURN_IF_ERROR(check_name(name));
  const std::lock_guard loading(loading_);
  if (has(name))
    return fail(Code::invalid_argument, "there is an adapter ", name, " already; unload it first").about("lora_name");
  Entry entry;
  entry.path = path;
  WEFT_TRY(entry.loaded, load(name, path, entry.digest));
  const std::lock_guard lock(mutex_);
  entry.last_use = ++clock_, entry.added = unix_seconds();
  entries_.emplace(name, std::move(entry));
  return {};
}

Status AdapterStore::remove(const std::string& name) {
  const std::lock_guard loading(loading_);  // not while it is read again
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(name);
  if (found == entries_.end()) return not_there(name).about("lora_name");
  if (found->second.loaded.lease) removed_.push_back(std::move(found->second.loaded));
  entries_.erase(found);
  free_unused();
  return {};
}

bool AdapterStore::has(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  return entries_.contains(name);
}

Result<AdapterLease> AdapterStore::use(const std::string& name) {
  const auto find = [&](std::string* path, Digest* digest) -> Result<AdapterLease> {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(name);
    if (found == entries_.end()) return not_there(name);
    Entry& entry = found->second;
    entry.last_use = ++clock_, ++entry.uses;
    if (path) *path = entry.path, *digest = entry.digest;
    return entry.loaded.lease;
  };
  WEFT_TRY(AdapterLease lease, find(nullptr, nullptr));
  if (lease) return lease;
  const std::lock_guard loading(loading_);
  std::string path;
  Digest before{}, digest{};
  WEFT_TRY(lease, find(&path, &before));  // another request may have been first
  if (lease) return lease;
  WEFT_TRY(Loaded loaded, load(name, path, digest));
  if (digest != before) log_warning("adapter ", name, ": what lies at ", path, " has changed since it was read last");
  const std::lock_guard lock(mutex_);
  Entry& entry = entries_.at(name);  // remove() waits for loading_
  entry.loaded = std::move(loaded), entry.digest = digest;
  return entry.loaded.lease;
}

std::vector<AdapterInfo> AdapterStore::list() const {
  const std::lock_guard lock(mutex_);
  std::vector<AdapterInfo> all;
  for (const auto& [name, entry] : entries_)
    all.push_back({name, entry.path, entry.loaded.lease != nullptr, entry.loaded.rank, entry.loaded.bytes, entry.uses,
                   entry.added});
  return all;
}

AdapterMetrics AdapterStore::metrics() const {
  const std::lock_guard lock(mutex_);
  AdapterMetrics m{
      .known = static_cast<int64_t>(entries_.size()), .bytes = bytes_, .loads = loads_, .evictions = evictions_};
  const auto count = [&](const Loaded& loaded) {
    if (!loaded.lease) return;
    ++m.loaded, m.in_use += !unused(loaded.lease);
  };
  for (const auto& [name, entry] : entries_) count(entry.loaded);
  for (const Loaded& loaded : removed_) count(loaded);
  return m;
}

}  // namespace weft
