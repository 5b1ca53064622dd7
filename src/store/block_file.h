// One block of the KV cache as a file: a header of 128 bytes with a checksum of its own, then the content.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/file_descriptor.h"
#include "base/result.h"
#include "base/sha256.h"
#include "cache/block_key.h"

namespace weft {

struct BlockId {
  int group = 0;
  BlockKey key;
  bool operator==(const BlockId&) const = default;
};

struct BlockIdHash {  // keys are digests, so any of their bits are as good as a hash
  size_t operator()(const BlockId& id) const {
    return id.key.words[0] + 0x9e3779b97f4a7c15u * static_cast<size_t>(id.group);
  }
};

constexpr int kBlockFileVersion = 2;  // enters the identity, so files of other versions lie elsewhere
constexpr int64_t kBlockHeaderBytes = 128;

// "KEY-GROUP" with the key's 64 digits, and back; nothing for a name that is none.
std::string block_file_name(const BlockId& id);
std::optional<BlockId> parse_block_file_name(std::string_view name);

// Writes header and content into the file; `path` is for errors alone.
Status write_block_file(int fd, const std::string& path, const Digest& identity, const BlockId& id,
                        std::span<const std::byte> content);

struct BlockRead {
  enum class Outcome : uint8_t {
    good,
    absent,
    torn,  // there, but damaged, of another size, or another block
  } outcome = Outcome::absent;
  int64_t file_bytes = 0;  // unless absent
};

// Reads the content of the block, which must have the size of `into`, and marks the file as used.
BlockRead read_block_file(const std::string& path, const Digest& identity, const BlockId& id,
                          std::span<std::byte> into);

// Whether there is a file; if so it is marked as used: its modification time is brought to now if it is more than a
// minute old.
bool touch_block_file(const std::string& path);

}  // namespace weft
