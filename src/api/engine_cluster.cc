// What the other servers of a deployment, and the front of it, ask an engine for: events of its cache, the names of a
// prompt's blocks, and who it is.
#include <algorithm>
#include <limits>

#include "api/core_engine.h"
#include "base/hmac.h"
#include "cache/block_key.h"
#include "transfer/peer_link.h"

namespace weft {

// With events_mutex_: takes what is new out of the core. What no reader wants any more falls out at the other end.
Status CoreEngine::fetch_events() {
  if (options_.kv_cache_events == 0)
    return fail(Code::invalid_argument,
                "events of the KV cache are not recorded; start with --kv-cache-events N to keep the last N");
  auto [taken, next] = core_->take_cache_events();
  if (!taken.empty() && taken.front().id != next_event_) events_.clear();  // between them some are lost
  if (taken.empty() && next != next_event_) events_.clear();
  next_event_ = next;
  for (CacheEvent& event : taken) {
    const bool stored = event.kind == CacheEvent::Kind::stored;
    events_.push_back({event.id, stored, event.group, event.key.hex(), stored ? event.parent.hex() : "",
                       std::move(event.tokens), event.home});
  }
  event_homes_ = static_cast<int>(core_->metrics().homes.size());
  const size_t most = static_cast<size_t>(options_.kv_cache_events) * static_cast<size_t>(std::max(1, event_homes_));
  if (events_.size() > most) events_.erase(events_.begin(), events_.end() - static_cast<ptrdiff_t>(most));
  return {};
}

// With events_mutex_.
KvCacheEvents CoreEngine::events_from(uint64_t after, size_t limit) const {
  KvCacheEvents result;
  result.homes = event_homes_;
  const uint64_t first = next_event_ - events_.size();
  result.lost = first > after ? first - after : 0;
  const uint64_t begin = std::min(std::max(first, after), next_event_);
  const uint64_t end = begin + std::min<uint64_t>(limit, next_event_ - begin);
  const auto at = [&](uint64_t id) { return events_.begin() + static_cast<ptrdiff_t>(id - first); };
  result.events.assign(at(begin), at(end));
  result.next_id = end;
  return result;
}

Result<KvCacheEvents> CoreEngine::take_kv_cache_events() {
  const std::lock_guard lock(events_mutex_);
  WEFT_RETURN_IF_ERROR(fetch_events());
  KvCacheEvents events = events_from(first_wanted_event_, std::numeric_limits<size_t>::max());
  first_wanted_event_ = next_event_;
  return events;
}

Result<KvCacheEvents> CoreEngine::read_kv_cache_events(uint64_t after, size_t limit) {
  const std::lock_guard lock(events_mutex_);
  WEFT_RETURN_IF_ERROR(fetch_events());
  return events_from(after, limit);
}

// All that an answer depends on besides the request: what the engine computes, and what the options make of requests
// and answers.
std::string CoreEngine::identity() const {
  const std::string& all = core_->options().identity;
  std::string text = options_.kv_transfer_convert ? without_cache_types(all) : all;
  const auto line = [&](const char* name, const std::string& value) { text += name + (": " + value) + "\n"; };
  line("chat template", text_.chat_template ? text_.chat_template->source() : "");
  line("generation config", name_of(options_.generation_config));
  line("seed", std::to_string(options_.seed));
  line("tool calls", options_.tool_call_parser);
  line("reasoning", name_of(options_.reasoning_parser));
  line("strict schemas", options_.strict_schemas ? "on" : "off");
  for (const std::string& domain : options_.allowed_media_domains) line("media domain", domain);
  for (const std::string& plugin : options_.logits_processors)
    line("logits processor", plugin.substr(plugin.find_last_of('/') + 1));
  return hex_of(sha256(std::as_bytes(std::span(text))));
}

Result<PromptBlocks> CoreEngine::block_keys(const Request& request) const {
  WEFT_TRY(const ImagePrompt prompt, build_prompt(request));
  WEFT_RETURN_IF_ERROR(check_prompt(request, prompt));
  PromptBlocks blocks;
  blocks.tokens = static_cast<int>(prompt.tokens.size());
  if (info_.kv_bytes_per_token == 0) return blocks;
  WEFT_TRY(const AdapterLease adapter, core_->use_adapter(request.lora));
  const CacheIdentity identity = cache_identity(request, prompt, adapter);
  BlockKey key = root_key(identity.salt, identity.adapter);
  const int size = options_.tokens_per_block;
  for (int first = 0; first + size <= blocks.tokens; first += size) {
    const auto tokens = std::span(prompt.tokens).subspan(static_cast<size_t>(first), static_cast<size_t>(size));
    key = next_key(key, tokens, first, identity.content);
    blocks.keys.push_back(key.hex());
  }
  return blocks;
}

}  // namespace weft
