// Every variable-length part of a hashed message is preceded by its length, so two different inputs are never the same
// message.
#include "cache/block_key.h"

#include "base/sha256.h"

namespace weft {
namespace {

void put(Sha256& hash, uint64_t value) {
  uint8_t bytes[8];
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<uint8_t>(value >> (8 * i));
  hash.update(bytes, 8);
}

BlockKey finish(Sha256& hash) {
  const Digest digest = hash.digest();
  BlockKey key;
  for (size_t i = 0; i < digest.size(); ++i) key.words[i / 8] = key.words[i / 8] << 8 | digest[i];
  return key;
}

}  // namespace

std::string BlockKey::hex() const {
  std::string text;
  for (uint64_t word : words) {
    for (int shift = 60; shift >= 0; shift -= 4) text += "0123456789abcdef"[word >> shift & 15];
  }
  return text;
}

BlockKey root_key(std::string_view salt, std::string_view adapter) {
  Sha256 hash;
  constexpr std::string_view kDomain = "weft kv block chain 1";
  hash.update(kDomain.data(), kDomain.size());
  put(hash, salt.size());
  hash.update(salt.data(), salt.size());
  if (!adapter.empty()) {
    put(hash, adapter.size());
    hash.update(adapter.data(), adapter.size());
  }
  return finish(hash);
}

BlockKey next_key(const BlockKey& previous, std::span<const int32_t> tokens, int first,
                  std::span<const ContentSpan> content) {
  Sha256 hash;
  for (uint64_t word : previous.words) put(hash, word);
  put(hash, tokens.size());
  static_assert(sizeof(int32_t) == 4);
  hash.update(tokens.data(), tokens.size() * sizeof(int32_t));
  const int end = first + static_cast<int>(tokens.size());
  for (const ContentSpan& span : content) {
    if (span.first >= end || span.first + span.tokens <= first) continue;
    put(hash, static_cast<uint64_t>(static_cast<int64_t>(span.first) - first));
    put(hash, static_cast<uint64_t>(span.tokens));
    put(hash, span.identity.size());
    hash.update(span.identity.data(), span.identity.size());
  }
  return finish(hash);
}

}  // namespace weft
