// See the header.
#include "orchestrate/cached_blocks.h"

#include <charconv>

namespace weft {

namespace {

Result<uint64_t> number_in(const Json& json, const char* name) {
  const Json* value = json.find(name);
  if (!value || !value->is_integer() || value->as_integer() < 0)
    return fail(Code::invalid_argument, "an answer of /kv_cache_events has no number ", name);
  return static_cast<uint64_t>(value->as_integer());
}

}  // namespace

Result<BlockName> read_block_name(std::string_view hex) {
  BlockName name{};
  bool whole = hex.size() == 64;
  for (size_t i = 0; whole && i < name.size(); ++i) {
    const char* const begin = hex.data() + 16 * i;
    const auto read = std::from_chars(begin, begin + 16, name[i], 16);
    whole = read.ec == std::errc() && read.ptr == begin + 16;
  }
  if (!whole) return fail(Code::invalid_argument, json_quote(hex.substr(0, 80)), " is no block's key");
  return name;
}

Status CachedBlocks::apply(const Json& answer) {
  const auto read = [&]() -> Status {
    WEFT_TRY(const uint64_t lost, number_in(answer, "lost"));
    WEFT_TRY(const uint64_t next, number_in(answer, "next_event_id"));
    const Json* events = answer.find("events");
    if (!events || !events->is_array())
      return fail(Code::invalid_argument, "an answer of /kv_cache_events has no list of events");
    // A server that counts from the start again has nothing of what is known here.
    if (lost > 0 || next < event_) counts_.clear();
    lost_ += lost;
    if (next < event_) {
      event_ = 0;
      return {};
    }
    event_ = next;
    for (const Json& event : events->items()) WEFT_RETURN_IF_ERROR(apply_event(event));
    return {};
  };
  Status status = read();
  if (!status.ok()) counts_.clear();
  return status;
}

Status CachedBlocks::apply_event(const Json& event) {
  const Json *type = event.find("type"), *hash = event.find("block_hash");
  if (!type || !type->is_string() || !hash || !hash->is_string())
    return fail(Code::invalid_argument, "an event of /kv_cache_events has no type or no block_hash");
  WEFT_TRY(const BlockName name, read_block_name(hash->as_string()));
  const auto found = counts_.find(name);
  if (type->as_string() == "removed") {
    if (found != counts_.end() && --found->second == 0) counts_.erase(found);
  } else if (found != counts_.end()) {
    ++found->second;
  } else if (counts_.size() < kMost) {
    counts_.emplace(name, 1);
  }
  return {};
}

int64_t CachedBlocks::leading(std::span<const BlockName> prompt) const {
  int64_t count = 0;
  for (const BlockName& name : prompt) {
    if (!counts_.contains(name)) break;
    ++count;
  }
  return count;
}

}  // namespace weft
