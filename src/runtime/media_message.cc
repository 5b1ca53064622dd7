#include "runtime/media_message.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/bytes.h"
#include "base/checked_reader.h"

namespace weft {

namespace {

constexpr size_t kMostMedia = 1 << 16, kMostValues = size_t{1} << 28, kMostSpans = 1 << 16;
constexpr int kMostRows = 1 << 24;        // of an image, and of a prompt's images together
constexpr int kFarthest = 1 << 30;        // a position, so that a token's index can be added to it
constexpr double kLongestStep = 1 << 24;  // between two frames

template <class Media>
auto numbers(Media& m) {
  return std::array{&m.height,      &m.width,     &m.tile_rows,    &m.tile_columns, &m.aspect_ratio_id,
                    &m.grid_frames, &m.grid_rows, &m.grid_columns, &m.merge};
}

void write(const PreparedMedia& m, ByteWriter& to) {
  to.put(static_cast<uint8_t>(m.kind)), to.put(static_cast<uint8_t>(m.single));
  to.put_all(m.shape), to.put_all(m.pixel_values), to.put_all(m.positions);
  for (const int* value : numbers(m)) to.put(*value);
  to.put(m.time_step), to.put(m.hash);
}

PreparedMedia read(CheckedReader& from) {
  PreparedMedia m;
  const auto kind = from.take<uint8_t>();
  if (kind >= kMediaKinds) from.fail();
  m.kind = static_cast<MediaKind>(kind), m.single = from.take_bool();
  m.shape = from.take_all<int64_t>(8), m.pixel_values = from.take_all<float>(kMostValues);
  m.positions = from.take_all<int>(kMostMedia);
  for (int* value : numbers(m)) {
    *value = from.take<int>();
    if (*value < 0 || *value > kMostRows) from.fail();
  }
  m.time_step = from.take<double>(), m.hash = from.take<Digest>();
  if (m.merge < 1 || !(m.time_step >= 0 && m.time_step <= kLongestStep)) from.fail();
  // The values that the shape says.
  uint64_t values = 1;
  for (const int64_t size : m.shape) {
    if (size < 1 || size > static_cast<int64_t>(kMostValues)) from.fail();
    values = std::min<uint64_t>(values * static_cast<uint64_t>(std::max<int64_t>(size, 0)), uint64_t{1} << 34);
  }
  if (values != m.pixel_values.size() || m.shape.empty()) from.fail();
  int64_t rows = 0;
  for (const int count : m.positions) {
    if (count < 0 || count > kMostRows) from.fail();
    rows += count;
  }
  if (rows > kMostRows) from.fail();
  return m;
}

void check(CheckedReader& from, const PromptMedia& prompt, int tokens) {
  const MediaPrompt& places = *prompt.places;
  const int media = static_cast<int>(prompt.media.size());
  int last = 0;
  for (const MediaPrompt::Span& span : places.spans) {
    const bool inside = span.position >= last && span.count >= 1 && span.count <= tokens - span.position &&
                        span.media >= 0 && span.media < media && span.first >= 0 &&
                        span.count <= prompt.media[static_cast<size_t>(span.media)]->feature_positions() - span.first;
    if (!inside) return from.fail();
    last = span.position + span.count;
  }
  const size_t positions = places.positions[0].empty() ? 0 : static_cast<size_t>(tokens);
  for (const auto& axis : places.positions) {
    if (axis.size() != positions) return from.fail();
    for (const int32_t position : axis)
      if (position < 0 || position > kFarthest) return from.fail();
  }
  if (places.delta < -kFarthest || places.delta > kFarthest) return from.fail();
  if (places.cross.empty()) return places.real_rows.empty() ? void() : from.fail();
  if (places.cross.size() != static_cast<size_t>(tokens) || places.real_rows.size() != static_cast<size_t>(media))
    return from.fail();
  int64_t rows = 0;
  for (const int own : places.real_rows) {
    if (own < 0 || own > kMostRows) return from.fail();
    rows += own;
  }
  if (rows > kMostRows) return from.fail();
  for (const MediaPrompt::Keys& keys : places.cross)
    if (keys.first < 0 || keys.first > keys.end || keys.end > rows) return from.fail();
}

}  // namespace

std::vector<std::byte> encode_media(const PromptMedia& prompt) {
  ByteWriter to;
  to.put(uint64_t{prompt.media.size()});
  for (const auto& media : prompt.media) write(*media, to);
  const MediaPrompt& places = *prompt.places;
  to.put_all(places.spans), to.put_all(places.cross), to.put_all(places.real_rows);
  for (const auto& axis : places.positions) to.put_all(axis);
  to.put(places.delta);
  return {to.bytes().begin(), to.bytes().end()};
}

Result<PromptMedia> decode_media(std::span<const std::byte> bytes, int tokens) {
  CheckedReader from(bytes);
  PromptMedia prompt;
  const auto count = from.take<uint64_t>();
  if (count > kMostMedia) from.fail();
  for (uint64_t i = 0; i < count && !from.failed(); ++i)
    prompt.media.push_back(std::make_shared<const PreparedMedia>(read(from)));
  prompt.places = std::make_shared<MediaPrompt>();
  MediaPrompt& places = *prompt.places;
  places.spans = from.take_all<MediaPrompt::Span>(kMostSpans);
  places.cross = from.take_all<MediaPrompt::Keys>(kMostValues);
  places.real_rows = from.take_all<int>(kMostMedia);
  for (auto& axis : places.positions) axis = from.take_all<int32_t>(kMostValues);
  places.delta = from.take<int32_t>();
  places.features.resize(prompt.media.size());
  if (!from.failed() && from.at_end()) check(from, prompt, tokens);
  if (from.failed() || !from.at_end())
    return fail(Code::invalid_argument, "a prompt's images of ", bytes.size(), " bytes are malformed");
  return prompt;
}

}  // namespace weft
