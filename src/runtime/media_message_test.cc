#include "runtime/media_message.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <random>

namespace weft {
namespace {

using Bytes = std::vector<std::byte>;
constexpr int kTokens = 12;

PreparedMedia picture(int seed) {
  PreparedMedia m;
  m.kind = seed % 2 ? MediaKind::video : MediaKind::image;
  m.shape = {2, 3, 2};
  for (int i = 0; i < 12; ++i) m.pixel_values.push_back(static_cast<float>(seed) + 0.25f * static_cast<float>(i));
  m.height = 10 + seed, m.width = 20 + seed, m.tile_rows = 2 + seed, m.tile_columns = 3 + seed;
  m.aspect_ratio_id = 4 + seed, m.grid_frames = 5 + seed, m.grid_rows = 6 + seed, m.grid_columns = 7 + seed;
  m.merge = 8 + seed, m.time_step = 0.5 * seed, m.single = seed % 2 == 0;
  m.positions = {2, 1 + seed};
  for (size_t i = 0; i < m.hash.size(); ++i) m.hash[i] = static_cast<uint8_t>(i + static_cast<size_t>(seed));
  return m;
}

// Of kTokens tokens: features in place of embeddings and positions on several axes.
PromptMedia spans() {
  PromptMedia prompt;
  prompt.media = {std::make_shared<const PreparedMedia>(picture(0)), std::make_shared<const PreparedMedia>(picture(1))};
  prompt.places = std::make_shared<MediaPrompt>();
  prompt.places->spans = {{1, 2, 0, 0}, {3, 1, 0, 2}, {7, 4, 1, 0}};
  for (int axis = 0; axis < 3; ++axis)
    for (int i = 0; i < kTokens; ++i) prompt.places->positions[static_cast<size_t>(axis)].push_back(i * (axis + 1));
  prompt.places->delta = -3;
  return prompt;
}

// Cross attention.
PromptMedia keys() {
  PromptMedia prompt = spans();
  prompt.places->spans.clear(), prompt.places->positions = {}, prompt.places->delta = 0;
  prompt.places->real_rows = {5, 3};
  for (int i = 0; i < kTokens; ++i)
    prompt.places->cross.push_back(i < 4 ? MediaPrompt::Keys{0, 0} : MediaPrompt::Keys{i < 8 ? 0 : 5, 8});
  return prompt;
}

void expect_equal(const PreparedMedia& a, const PreparedMedia& b) {
  EXPECT_EQ(a.kind, b.kind);
  EXPECT_EQ(a.pixel_values, b.pixel_values);
  EXPECT_EQ(a.shape, b.shape);
  const auto numbers = [](const PreparedMedia& m) {
    return std::array{m.height,      m.width,     m.tile_rows,    m.tile_columns, m.aspect_ratio_id,
                      m.grid_frames, m.grid_rows, m.grid_columns, m.merge};
  };
  EXPECT_EQ(numbers(a), numbers(b));
  EXPECT_EQ(a.time_step, b.time_step);
  EXPECT_EQ(a.single, b.single);
  EXPECT_EQ(a.positions, b.positions);
  EXPECT_EQ(a.hash, b.hash);
}

TEST(MediaMessage, ComesAsItWas) {
  for (const PromptMedia& sent : {spans(), keys()}) {
    const auto read = decode_media(encode_media(sent), kTokens);
    ASSERT_TRUE(read.ok()) << read.error().message();
    ASSERT_EQ(read->media.size(), sent.media.size());
    for (size_t i = 0; i < sent.media.size(); ++i) expect_equal(*read->media[i], *sent.media[i]);
    const MediaPrompt &a = *read->places, &b = *sent.places;
    ASSERT_EQ(a.spans.size(), b.spans.size());
    for (size_t i = 0; i < b.spans.size(); ++i) {
      const auto fields = [](const MediaPrompt::Span& s) { return std::array{s.position, s.count, s.media, s.first}; };
      EXPECT_EQ(fields(a.spans[i]), fields(b.spans[i]));
    }
    ASSERT_EQ(a.cross.size(), b.cross.size());
    for (size_t i = 0; i < b.cross.size(); ++i) {
      EXPECT_EQ(a.cross[i].first, b.cross[i].first);
      EXPECT_EQ(a.cross[i].end, b.cross[i].end);
    }
    EXPECT_EQ(a.real_rows, b.real_rows);
    EXPECT_EQ(a.positions, b.positions);
    EXPECT_EQ(a.delta, b.delta);
    ASSERT_EQ(a.features.size(), 2u) << "room for each image's features";
    EXPECT_EQ(a.features[0], nullptr);
  }
}

bool is_read(const PromptMedia& prompt, int tokens = kTokens) {
  const auto read = decode_media(encode_media(prompt), tokens);
  EXPECT_TRUE(read.ok() || read.error().code() == Code::invalid_argument);
  return read.ok();
}

// A prompt that `change` has changed is refused.
template <class Change>
void expect_refused(PromptMedia prompt, const char* what, Change change) {
  prompt.places = std::make_shared<MediaPrompt>(*prompt.places);
  change(prompt);
  EXPECT_FALSE(is_read(prompt)) << what;
}
template <class Change>
void expect_bad_image(const char* what, Change change) {
  expect_refused(spans(), what, [&](PromptMedia& prompt) {
    PreparedMedia changed = *prompt.media[0];
    change(changed);
    prompt.media[0] = std::make_shared<const PreparedMedia>(std::move(changed));
  });
}

constexpr int kMax = std::numeric_limits<int>::max(), kMin = std::numeric_limits<int>::min();

TEST(MediaMessage, SpansLieInTheirPromptAndImage) {
  const auto refused = [](const char* what, size_t index, MediaPrompt::Span span) {
    expect_refused(spans(), what, [&](PromptMedia& prompt) { prompt.places->spans[index] = span; });
  };
  refused("before the prompt", 0, {-1, 2, 0, 0});
  refused("behind the prompt", 2, {9, 4, 1, 0});
  refused("far behind the prompt", 2, {kMax, 1, 1, 0});
  refused("a length that overflows", 2, {7, kMax, 1, 0});
  refused("over the one before", 1, {2, 1, 0, 2});
  refused("no position", 1, {3, 0, 0, 2});
  refused("less than none", 1, {3, kMin, 0, 2});
  refused("no such image", 1, {3, 1, 2, 0});
  refused("an image before the first", 1, {3, 1, -1, 0});
  refused("behind the image's features", 1, {3, 1, 0, 3});
  refused("partly behind them", 0, {1, 2, 0, 2});
  refused("before them", 1, {3, 1, 0, -1});
  refused("far behind them", 1, {3, 1, 0, kMax});
  EXPECT_FALSE(is_read(spans(), kTokens - 2)) << "a shorter prompt";
}

TEST(MediaMessage, PositionsAreOneForEachToken) {
  for (size_t axis = 0; axis < 3; ++axis) {
    const auto refused = [&](const char* what, auto change) {
      expect_refused(spans(), what, [&](PromptMedia& prompt) { change(prompt.places->positions[axis]); });
    };
    refused("one less", [](std::vector<int32_t>& positions) { positions.pop_back(); });
    refused("one more", [](std::vector<int32_t>& positions) { positions.push_back(0); });
    refused("negative", [](std::vector<int32_t>& positions) { positions[5] = -1; });
    refused("such a long way off that adding to it overflows", [](auto& positions) { positions[5] = kMax; });
    refused("none where other axes have some", [](std::vector<int32_t>& positions) { positions.clear(); });
  }
  for (const int delta : {kMax, kMin})
    expect_refused(spans(), "generated tokens far off", [&](PromptMedia& p) { p.places->delta = delta; });
}

TEST(MediaMessage, KeysLieInTheRows) {
  const auto refused = [](const char* what, auto change) {
    expect_refused(keys(), what, [&](PromptMedia& prompt) { change(*prompt.places); });
  };
  refused("one token less", [](MediaPrompt& p) { p.cross.pop_back(); });
  refused("one token more", [](MediaPrompt& p) { p.cross.push_back({}); });
  refused("behind the rows", [](MediaPrompt& p) { p.cross[5].end = 9; });
  refused("before them", [](MediaPrompt& p) { p.cross[5].first = -1; });
  refused("the end before the beginning", [](MediaPrompt& p) { p.cross[5] = {3, 2}; });
  refused("rows of an image that is not there", [](MediaPrompt& p) { p.real_rows.push_back(1); });
  refused("an image without", [](MediaPrompt& p) { p.real_rows.pop_back(); });
  refused("less than none", [](MediaPrompt& p) { p.real_rows = {-1, 9}; });
  refused("more than there may be", [](MediaPrompt& p) { p.real_rows = {kMax, 9}; });
  refused("rows without keys", [](MediaPrompt& p) { p.cross.clear(); });
}

TEST(MediaMessage, ImagesAreWhatTheirShapesSay) {
  expect_bad_image("a value less", [](PreparedMedia& m) { m.pixel_values.pop_back(); });
  expect_bad_image("no shape", [](PreparedMedia& m) { m.shape.clear(); });
  expect_bad_image("no shape and a value", [](PreparedMedia& m) { m.shape.clear(), m.pixel_values.resize(1); });
  expect_bad_image("nothing", [](PreparedMedia& m) { m.shape = {0}, m.pixel_values.clear(); });
  expect_bad_image("two negative sides", [](PreparedMedia& m) { m.shape = {-2, -6}; });
  expect_bad_image("sides whose product overflows to the values' number",
                   [](PreparedMedia& m) { m.shape = {int64_t{1} << 32, int64_t{1} << 32, 12}; });
  expect_bad_image("nine sides", [](PreparedMedia& m) { m.shape = {12, 1, 1, 1, 1, 1, 1, 1, 1}; });
  expect_bad_image("an unknown kind", [](PreparedMedia& m) { m.kind = static_cast<MediaKind>(2); });
  for (int PreparedMedia::*number :
       {&PreparedMedia::height, &PreparedMedia::width, &PreparedMedia::tile_rows, &PreparedMedia::tile_columns,
        &PreparedMedia::aspect_ratio_id, &PreparedMedia::grid_frames, &PreparedMedia::grid_rows,
        &PreparedMedia::grid_columns, &PreparedMedia::merge})
    for (const int value : {-1, kMin, kMax}) expect_bad_image("a number", [&](PreparedMedia& m) { m.*number = value; });
  expect_bad_image("division by zero", [](PreparedMedia& m) { m.merge = 0; });
  for (const std::vector<int>& positions : {std::vector<int>{-1, 4}, {kMax, 1}, {kMax, kMax, 5}, {1 << 24, 1 << 24}})
    expect_bad_image("positions", [&](PreparedMedia& m) { m.positions = positions; });
  // So many that their sum overflows to the right one.
  expect_bad_image("many positions", [&](PreparedMedia& m) { m.positions.assign(257, 1 << 24), m.positions[0] = 3; });
  for (const double step : {-1.0, std::numeric_limits<double>::infinity(), std::nan("")})
    expect_bad_image("time", [&](PreparedMedia& m) { m.time_step = step; });
}

TEST(MediaMessage, PiecesAndMoreAreRefused) {
  for (const PromptMedia& prompt : {spans(), keys()}) {
    Bytes bytes = encode_media(prompt);
    for (size_t size = 0; size < bytes.size(); ++size)
      ASSERT_FALSE(decode_media(std::span(bytes).first(size), kTokens).ok()) << size << " of " << bytes.size();
    bytes.push_back(std::byte{0});
    EXPECT_FALSE(decode_media(bytes, kTokens).ok());
  }
}

// What whoever computes the prompt relies on.
void expect_in_range(const PromptMedia& prompt) {
  const MediaPrompt& places = *prompt.places;
  int end = 0;
  for (const MediaPrompt::Span& span : places.spans) {
    ASSERT_GE(span.position, end);
    end = span.position + span.count;
    ASSERT_LE(end, kTokens);
    ASSERT_LT(static_cast<size_t>(span.media), prompt.media.size());
    ASSERT_GE(span.first, 0);
    ASSERT_LE(span.first + span.count, prompt.media[static_cast<size_t>(span.media)]->feature_positions());
  }
  for (const auto& axis : places.positions)
    for (const int32_t position : axis) ASSERT_TRUE(position >= 0 && position <= 1 << 30);
  int rows = 0;
  for (const int own : places.real_rows) rows += own;
  for (const MediaPrompt::Keys& key : places.cross)
    ASSERT_TRUE(key.first >= 0 && key.first <= key.end && key.end <= rows);
}

TEST(MediaMessage, MutatedNumbersAreRefusedOrInRange) {
  std::mt19937 random(1);
  const uint64_t values[] = {0, 1, 2, 3, 5, 13, 0x7f, 0xff, 1 << 24, 0x7fffffff, 0x80000000, 0xffffffff, ~uint64_t{0}};
  int passed = 0, refused = 0;
  for (const PromptMedia& prompt : {spans(), keys()}) {
    const Bytes whole = encode_media(prompt);
    for (size_t at = 0; at < whole.size(); ++at)
      for (const uint64_t value : values)
        for (const size_t width : {1, 4, 8}) {
          Bytes bytes = whole;
          std::memcpy(bytes.data() + at, &value, std::min(width, bytes.size() - at));
          if (random() % 4 == 0) bytes[random() % bytes.size()] = static_cast<std::byte>(random());
          const auto read = decode_media(bytes, kTokens);
          ++(read.ok() ? passed : refused);
          if (!read.ok()) continue;
          ASSERT_NO_FATAL_FAILURE(expect_in_range(*read)) << value << " at " << at;
          ASSERT_EQ(encode_media(*read), bytes) << value << " at " << at;
        }
  }
  EXPECT_GT(passed, 1000);
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace weft
