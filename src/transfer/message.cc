#include "transfer/message.h"

#define XXH_INLINE_ALL  // so that no library is linked
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

#include "base/checked_reader.h"

namespace weft {

namespace {

static_assert(std::endian::native == std::endian::little, "numbers are copied as they are");

constexpr size_t kSumBytes = 8;
constexpr size_t kMostSalt = 4096, kMostText = 8192, kMostSpans = 1 << 16;

uint64_t checksum(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

class Writer {
 public:
  explicit Writer(size_t kind) { put(static_cast<uint8_t>(kind)); }
  template <class T>
  void put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    append(&value, sizeof value);
  }
  template <class T>
  void put_all(std::span<const T> values) {
    put(static_cast<uint64_t>(values.size()));
    append(values.data(), values.size_bytes());
  }
  void put_text(const std::string& text) { put_all(std::span<const char>(text)); }
  std::vector<std::byte> take() {
    end_message(bytes_);
    return std::move(bytes_);
  }
  std::vector<std::byte>& bytes() { return bytes_; }

 private:
  void append(const void* data, size_t size) {
    const auto* begin = static_cast<const std::byte*>(data);
    bytes_.insert(bytes_.end(), begin, begin + size);
  }
  std::vector<std::byte> bytes_;
};

// Fields of each kind: write(writer, message) and read(reader, message) name them in the same order.
void write(Writer& w, const HelloMessage& m) { w.put(m.version), w.put(m.nonce); }
void read(CheckedReader& r, HelloMessage& m) { m.version = r.take<uint32_t>(), m.nonce = r.take<Nonce>(); }

void write(Writer& w, const AnswerMessage& m) {
  w.put(m.version), w.put(m.nonce), w.put_text(m.identity), w.put(m.proof);
}
void read(CheckedReader& r, AnswerMessage& m) {
  m.version = r.take<uint32_t>(), m.nonce = r.take<Nonce>(), m.identity = r.take_text(kMostText);
  m.proof = r.take<Digest>();
}

void write(Writer& w, const WelcomeMessage& m) { w.put(m.proof); }
void read(CheckedReader& r, WelcomeMessage& m) { m.proof = r.take<Digest>(); }

void write(Writer& w, const RefusedMessage& m) { w.put_text(m.why); }
void read(CheckedReader& r, RefusedMessage& m) { m.why = r.take_text(kMostText); }

void write(Writer& w, const ComputeMessage& m) {
  w.put(m.ticket), w.put_text(m.salt), w.put(m.priority), w.put(m.time_limit_ms);
  w.put_all(std::span<const int32_t>(m.tokens));
  w.put(static_cast<uint64_t>(m.content.size()));
  for (const ContentSpan& span : m.content)
    w.put(int64_t{span.first}), w.put(int64_t{span.tokens}), w.put_text(span.identity);
  w.put_all(std::span<const std::byte>(m.media));
  w.put_text(m.adapter), w.put_text(m.adapter_digest), w.put(m.client);
}
void read(CheckedReader& r, ComputeMessage& m) {
  m.ticket = r.take<uint64_t>(), m.salt = r.take_text(kMostSalt), m.priority = r.take<int32_t>();
  m.time_limit_ms = r.take<uint32_t>();
  m.tokens = r.take_all<int32_t>(kLongestMessage / sizeof(int32_t));
  const auto spans = r.take<uint64_t>();
  if (spans > kMostSpans) return r.fail();
  for (uint64_t i = 0; i < spans && !r.failed(); ++i) {
    const auto first = r.take<int64_t>(), tokens = r.take<int64_t>();
    const auto size = static_cast<int64_t>(m.tokens.size());
    if (first < 0 || tokens < 1 || first >= size || tokens > size - first) return r.fail();
    m.content.push_back({static_cast<int>(first), static_cast<int>(tokens), r.take_text(kMostText)});
  }
  m.media = r.take_all<std::byte>(kLongestMessage);
  m.adapter = r.take_text(kMostText), m.adapter_digest = r.take_text(kMostText), m.client = r.take<uint64_t>();
}

void write(Writer& w, const SendMessage& m) {
  w.put(m.ticket), w.put_all(std::span<const TileRange>(m.tiles)), w.put_all(std::span<const uint32_t>(m.features));
}
void read(CheckedReader& r, SendMessage& m) {
  m.ticket = r.take<uint64_t>(), m.tiles = r.take_all<TileRange>(kMostSpans);
  m.features = r.take_all<uint32_t>(kMostSpans);
}

void write(Writer& w, const CancelMessage& m) { w.put(m.ticket); }
void read(CheckedReader& r, CancelMessage& m) { m.ticket = r.take<uint64_t>(); }

void write_part(Writer& w, const PartMessage& m) {
  w.put(m.ticket);
  for (const uint32_t n : {m.group, m.first_layer, m.layers, m.first_tile, m.tiles}) w.put(n);
}
void write(Writer& w, const PartMessage& m) { write_part(w, m), w.put_all(m.content); }
void read(CheckedReader& r, PartMessage& m) {
  m.ticket = r.take<uint64_t>();
  for (uint32_t* n : {&m.group, &m.first_layer, &m.layers, &m.first_tile, &m.tiles}) *n = r.take<uint32_t>();
  m.content = r.take_span(kLongestMessage);
}

void write(Writer& w, const FeaturesMessage& m) {
  w.put(m.ticket);
  for (const uint32_t n : {m.image, m.rows, m.columns, m.first_row}) w.put(n);
  w.put_all(m.values);
}
void read(CheckedReader& r, FeaturesMessage& m) {
  m.ticket = r.take<uint64_t>();
  for (uint32_t* n : {&m.image, &m.rows, &m.columns, &m.first_row}) *n = r.take<uint32_t>();
  m.values = r.take_span(kLongestMessage);
  const uint64_t row = uint64_t{m.columns} * sizeof(float), rows = row == 0 ? 0 : m.values.size() / row;
  if (row == 0 || m.values.size() % row != 0 || m.first_row > m.rows || rows > m.rows - m.first_row) r.fail();
}

void write(Writer& w, const ProgressMessage& m) { w.put(m.ticket), w.put(m.computed); }
void read(CheckedReader& r, ProgressMessage& m) { m.ticket = r.take<uint64_t>(), m.computed = r.take<uint32_t>(); }

void write(Writer& w, const DoneMessage& m) { w.put(m.ticket), w.put(uint8_t{m.complete}), w.put_text(m.why); }
void read(CheckedReader& r, DoneMessage& m) {
  m.ticket = r.take<uint64_t>(), m.complete = r.take_bool(), m.why = r.take_text(kMostText);
}

void write(Writer&, const PingMessage&) {}
void read(CheckedReader&, PingMessage&) {}
void write(Writer&, const PongMessage&) {}
void read(CheckedReader&, PongMessage&) {}

// Reads alternative `kind` of the variant.
template <size_t I = 0>
bool read_kind(size_t kind, CheckedReader& reader, TransferMessage& message) {
  if constexpr (I < std::variant_size_v<TransferMessage>) {
    if (kind != I) return read_kind<I + 1>(kind, reader, message);
    read(reader, message.emplace<I>());
    return true;
  } else {
    return false;
  }
}

}  // namespace

std::vector<std::byte> encode(const TransferMessage& message) {
  Writer writer(message.index());
  std::visit([&](const auto& m) { write(writer, m); }, message);
  return writer.take();
}

bool can_be_sent(const ComputeMessage& prompt) {
  const auto is_short = [](const ContentSpan& span) { return span.identity.size() <= kMostText; };
  if (prompt.salt.size() > kMostSalt || prompt.adapter.size() > kMostText || prompt.content.size() > kMostSpans ||
      !std::ranges::all_of(prompt.content, is_short))
    return false;
  constexpr size_t kFixed = 128, kOfSpan = 3 * sizeof(uint64_t);  // kFixed: no less than its other fields take
  size_t bytes = kFixed + prompt.salt.size() + prompt.adapter.size() + prompt.adapter_digest.size() +
                 prompt.tokens.size() * sizeof(int32_t) + prompt.media.size();
  for (const ContentSpan& span : prompt.content) bytes += kOfSpan + span.identity.size();
  return bytes <= kLongestMessage;
}

std::vector<std::byte> begin_part(const PartMessage& part, size_t bytes, std::span<std::byte>& content) {
  Writer writer(TransferMessage(part).index());
  write_part(writer, part);
  writer.put(static_cast<uint64_t>(bytes));
  std::vector<std::byte> message = std::move(writer.bytes());
  const size_t begin = message.size();
  message.reserve(begin + bytes + kSumBytes);
  message.resize(begin + bytes);
  content = std::span<std::byte>(message).subspan(begin);
  return message;
}

void end_message(std::vector<std::byte>& message) {
  const uint64_t sum = checksum(message);
  message.resize(message.size() + sizeof sum);
  std::memcpy(message.data() + message.size() - sizeof sum, &sum, sizeof sum);
}

Result<TransferMessage> decode(std::span<const std::byte> bytes) {
  if (bytes.size() < 1 + kSumBytes)
    return fail(Code::invalid_argument, "a message of ", bytes.size(), " bytes, which is no message");
  const std::span<const std::byte> body = bytes.first(bytes.size() - kSumBytes);
  uint64_t sum = 0;
  std::memcpy(&sum, bytes.data() + body.size(), sizeof sum);
  if (sum != checksum(body)) return fail(Code::data_corrupt, "a message of ", bytes.size(), " bytes came damaged");
  CheckedReader reader(body.subspan(1));
  TransferMessage message;
  const auto kind = static_cast<size_t>(body[0]);
  if (!read_kind(kind, reader, message)) return fail(Code::invalid_argument, "a message of the unknown kind ", kind);
  if (reader.failed() || !reader.at_end())
    return fail(Code::invalid_argument, "a message of kind ", kind, " and ", bytes.size(), " bytes is malformed");
  return message;
}

}  // namespace weft
