// What servers send to each other is read without a fault, whatever it is: messages (transfer/message.h) and images in
// them (runtime/media_message.h). The first byte of an input says which: even a message, odd a prompt's images.
//
// What is read is written again and must give the same bytes, so there are no two ways to say a thing and nothing is
// overlooked.
#include <cstdlib>
#include <cstring>

#include "runtime/media_message.h"
#include "target.h"
#include "transfer/message.h"

namespace {

using namespace weft;

constexpr int kTokens = 12;  // of the prompt whose images are read

void require(bool holds) { weft::require(holds, "what was read has the form of a message"); }

bool same(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

void read_media(std::span<const std::byte> bytes) {
  const auto read = decode_media(bytes, kTokens);
  if (!read.ok()) return;
  require(same(encode_media(*read), bytes));
  int end = 0;
  for (const MediaPrompt::Span& span : read->places->spans) {
    require(span.position >= end && span.count > 0 && span.first >= 0 && span.media >= 0);
    end = span.position + span.count;
    require(end <= kTokens && static_cast<size_t>(span.media) < read->media.size());
    require(span.first + span.count <= read->media[static_cast<size_t>(span.media)]->feature_positions());
  }
  int rows = 0;
  for (const int own : read->places->real_rows) rows += own;
  for (const MediaPrompt::Keys& keys : read->places->cross)
    require(keys.first >= 0 && keys.first <= keys.end && keys.end <= rows);
  for (const auto& axis : read->places->positions)
    for (const int32_t position : axis) require(position >= 0 && position <= 1 << 30);
  const int32_t delta = read->places->delta;
  require(delta >= -(1 << 30) && delta <= 1 << 30);
}

void read_message(std::span<const std::byte> bytes) {
  const auto read = decode(bytes);
  if (!read.ok()) return;
  require(same(encode(*read), bytes));
  if (const auto* compute = std::get_if<ComputeMessage>(&*read)) {
    for (const ContentSpan& span : compute->content)
      require(span.first >= 0 && span.tokens > 0 &&
              static_cast<size_t>(span.first) + static_cast<size_t>(span.tokens) <= compute->tokens.size());
    require(can_be_sent(*compute));
    if (!compute->media.empty()) read_media(compute->media);
  }
  if (const auto* features = std::get_if<FeaturesMessage>(&*read)) {
    const uint64_t row = uint64_t{features->columns} * sizeof(float);
    require(row > 0 && features->values.size() % row == 0);
    require(features->first_row + features->values.size() / row <= features->rows);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  // A copy of just these bytes, so that reading behind them is seen.
  const auto* begin = reinterpret_cast<const std::byte*>(data);
  const std::vector<std::byte> bytes(begin + 1, begin + size);
  data[0] % 2 == 0 ? read_message(bytes) : read_media(bytes);
  return 0;
}
