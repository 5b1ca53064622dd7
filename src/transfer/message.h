// What two servers say to each other about blocks of the KV cache (docs/serving-at-scale.md). A message is a byte with
// its kind, the fields below in their order, and 8 bytes of XXH3 over all that. Numbers are little-endian. Reading
// checks every length against the bytes that are there, and every number against what it may be: a message may come
// from anybody.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"
#include "base/sha256.h"
#include "cache/block_key.h"

namespace weft {

constexpr uint32_t kTransferVersion = 3;
constexpr size_t kLongestMessage = size_t{256} << 20;  // of a peer that is known
// Of a block's content in one message, or one tile of one layer. Pieces that stay in a core's cache between copy,
// checksum and socket take 105 ms where such of 1 MB take 125 (46 MB over loopback, and the rest of the prompt).
constexpr size_t kLongestPiece = size_t{1} << 17;

using Nonce = std::array<uint8_t, 32>;

// ---- How a connection begins: hello, answer, welcome (link.h).
struct HelloMessage {  // from the side that was connected to
  uint32_t version = kTransferVersion;
  Nonce nonce{};
};
struct AnswerMessage {
  uint32_t version = kTransferVersion;
  Nonce nonce{};
  std::string identity;
  Digest proof{};
};
struct WelcomeMessage {
  Digest proof{};
};
struct RefusedMessage {  // the last message of a connection
  std::string why;
};

// ---- Then the side that connected asks, under a ticket that it chooses, and cancels. Tickets are not used again.

// Tiles of a cache group: positions first * kTileTokens and so on.
struct TileRange {
  uint32_t group = 0, first = 0, count = 0;
  bool operator==(const TileRange&) const = default;
};
// The prompt is to be computed, as far as it is not in the cache. Nothing is sent before a SendMessage.
struct ComputeMessage {
  uint64_t ticket = 0;
  std::string salt;
  int32_t priority = 0;
  uint32_t time_limit_ms = 0;  // after which the other side wants nothing any more
  std::vector<int32_t> tokens;
  std::vector<ContentSpan> content;
  std::vector<std::byte> media;                   // images, as runtime/media_message.h writes them; empty: none
  std::string adapter = {}, adapter_digest = {};  // its name, and AdapterUse::digest; empty: none
  uint64_t client = 0;                            // whose turns it takes (NewSequence::client); 0: nobody's
};
// Memory for these is there: they are to be sent as they are computed.
struct SendMessage {
  uint64_t ticket = 0;
  std::vector<TileRange> tiles;
  std::vector<uint32_t> features;  // of which images the features are wanted as well
};
struct CancelMessage {
  uint64_t ticket = 0;
};

// ---- And the other answers.

// Layers and tiles of a group: their content as runtime/block_content.h lays it out.
struct PartMessage {
  uint64_t ticket = 0;
  uint32_t group = 0, first_layer = 0, layers = 0, first_tile = 0, tiles = 0;
  std::span<const std::byte> content;  // of the message that was read
};
// Rows of an image's features.
struct FeaturesMessage {
  uint64_t ticket = 0;
  uint32_t image = 0, rows = 0, columns = 0;  // of all
  uint32_t first_row = 0;
  std::span<const std::byte> values;  // float32, whole rows
};
// It is being worked on. Parts may come before it is known that nothing went wrong with them: those of positions below
// `computed` are right.
struct ProgressMessage {
  uint64_t ticket = 0;
  uint32_t computed = 0;
};
// The end of a ticket: all was sent and is right, or why not.
struct DoneMessage {
  uint64_t ticket = 0;
  bool complete = false;
  std::string why;
};
// Anything is an answer to a ping, at the latest a pong.
struct PingMessage {};
struct PongMessage {};

using TransferMessage =
    std::variant<HelloMessage, AnswerMessage, WelcomeMessage, RefusedMessage, ComputeMessage, SendMessage,
                 CancelMessage, PartMessage, FeaturesMessage, ProgressMessage, DoneMessage, PingMessage, PongMessage>;

std::vector<std::byte> encode(const TransferMessage& message);
// A part whose content is written by the caller: fill(content) is called with its place in the message.
template <class Fill>
std::vector<std::byte> encode_part(const PartMessage& part, size_t bytes, Fill fill);
// Whether the other side will take it: its texts, lists and images are within their limits.
bool can_be_sent(const ComputeMessage& prompt);
// data_corrupt: the checksum is another; invalid_argument: anything else that is wrong, with what it is.
Result<TransferMessage> decode(std::span<const std::byte> bytes);

// ---- Details of encode_part.
std::vector<std::byte> begin_part(const PartMessage& part, size_t bytes, std::span<std::byte>& content);
void end_message(std::vector<std::byte>& message);

template <class Fill>
std::vector<std::byte> encode_part(const PartMessage& part, size_t bytes, Fill fill) {
  std::span<std::byte> content;
  std::vector<std::byte> message = begin_part(part, bytes, content);
  fill(content);
  end_message(message);
  return message;
}

}  // namespace weft
