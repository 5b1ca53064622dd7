// Names of cached KV blocks. The KV of a block depends on every token from position 0 to the block's end (and on the
// images among them), so a block's key is a hash chain: SHA-256 over the previous block's key, the block's tokens, and
// the identity of any content in the block that token ids do not name. The chain starts at a root that holds the
// request's salt and the digest of its adapter, so sequences with different salts or adapters share nothing. Isolation
// between tenants rests on this digest alone; that is why it is a cryptographic one.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace weft {

struct BlockKey {
  std::array<uint64_t, 4> words{};
  bool operator==(const BlockKey&) const = default;
  std::string hex() const;  // 64 digits
};

// Positions first .. first + tokens - 1 of a sequence hold content that its token ids do not name: an image's
// embeddings, for instance. `identity` says which (a hash of the pixels *and* their shape).
struct ContentSpan {
  int first = 0, tokens = 0;
  std::string identity;
};

// The key before the first block of a sequence with this salt, and with this adapter (AdapterUse::digest; empty: none).
BlockKey root_key(std::string_view salt, std::string_view adapter = {});

// The key of the block whose tokens begin at position `first`. `content` are all spans of the sequence; those that
// overlap the block enter the key with their offset to it.
BlockKey next_key(const BlockKey& previous, std::span<const int32_t> tokens, int first,
                  std::span<const ContentSpan> content);

}  // namespace weft
