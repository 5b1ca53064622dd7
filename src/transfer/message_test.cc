#include "transfer/message.h"

#define XXH_INLINE_ALL
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <xxhash.h>

#include <cstring>
#include <numeric>

#include "base/check.h"

namespace weft {
namespace {

using Bytes = std::vector<std::byte>;

Bytes bytes_of(std::initializer_list<int> values) {
  Bytes bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

// With the checksum behind it, as message.h says.
Bytes summed(Bytes body) {
  const uint64_t sum = XXH3_64bits(body.data(), body.size());
  for (int i = 0; i < 8; ++i) body.push_back(static_cast<std::byte>(sum >> (8 * i)));
  return body;
}

Bytes body_of(const TransferMessage& message) {
  Bytes bytes = encode(message);
  bytes.resize(bytes.size() - 8);
  return bytes;
}

template <class Array>
Array counted(int from) {
  Array array{};
  std::iota(array.begin(), array.end(), static_cast<uint8_t>(from));
  return array;
}

const Bytes kContent = bytes_of({9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5, 6});

// One of each kind, no field as by default, and small variants of those with lists.
std::vector<TransferMessage> samples() {
  return {
      HelloMessage{7, counted<Nonce>(1)},
      AnswerMessage{8, counted<Nonce>(2), "model: x\nprogram: weft 1\n", counted<Digest>(3)},
      WelcomeMessage{counted<Digest>(4)},
      RefusedMessage{"the servers differ: dtype"},
      ComputeMessage{0x1122334455667788,
                     "pepper",
                     -5,
                     120000,
                     {1, -2, 300000, 4, 5},
                     {{0, 2, "one"}, {1, 4, ""}, {4, 1, std::string("t\0o", 3)}},
                     bytes_of({1, 2, 3}),
                     "law",
                     std::string("\0\1\2", 3),
                     0x99aabbccddeeff00},
      ComputeMessage{1, "", 0, 0, {}, {}, {}},
      SendMessage{2, {{1, 2, 3}, {4, 5, 0xffffffff}}, {6, 7, 8}},
      SendMessage{3, {}, {}},
      CancelMessage{0xfedcba9876543210},
      PartMessage{4, 1, 2, 3, 4, 5, kContent},
      PartMessage{5, 0, 0, 0, 0, 0, {}},
      FeaturesMessage{6, 1, 7, 2, 5, kContent},
      ProgressMessage{7, 4000000000u},
      DoneMessage{8, true, "because"},
      DoneMessage{9, false, ""},
      PingMessage{},
      PongMessage{},
  };
}

template <class Message>
const Message& read_as(const TransferMessage& sent, Bytes& bytes, TransferMessage& to) {
  bytes = encode(sent);
  auto read = decode(bytes);
  WEFT_CHECK(read.ok()) << read.error().message();
  to = std::move(*read);
  return std::get<Message>(to);
}

TEST(TransferMessages, GreetingsComeAsTheyWere) {
  Bytes bytes;
  TransferMessage to;
  const auto hello = read_as<HelloMessage>(HelloMessage{7, counted<Nonce>(1)}, bytes, to);
  EXPECT_EQ(hello.version, 7u);
  EXPECT_EQ(hello.nonce, counted<Nonce>(1));
  const auto answer =
      read_as<AnswerMessage>(AnswerMessage{8, counted<Nonce>(2), "a: b\n", counted<Digest>(3)}, bytes, to);
  EXPECT_EQ(answer.version, 8u);
  EXPECT_EQ(answer.nonce, counted<Nonce>(2));
  EXPECT_EQ(answer.identity, "a: b\n");
  EXPECT_EQ(answer.proof, counted<Digest>(3));
  EXPECT_EQ(read_as<WelcomeMessage>(WelcomeMessage{counted<Digest>(4)}, bytes, to).proof, counted<Digest>(4));
  EXPECT_EQ(read_as<RefusedMessage>(RefusedMessage{"why"}, bytes, to).why, "why");
  read_as<PingMessage>(PingMessage{}, bytes, to), read_as<PongMessage>(PongMessage{}, bytes, to);
}

TEST(TransferMessages, QuestionsComeAsTheyWere) {
  Bytes bytes;
  TransferMessage to;
  const ComputeMessage sent{0x1122334455667788,
                            "pepper",
                            -5,
                            120000,
                            {1, -2, 300000},
                            {{0, 2, "one"}, {2, 1, std::string("t\0o", 3)}},
                            bytes_of({1, 2, 3}),
                            "law",
                            std::string("t\0o", 3),
                            0x99aabbccddeeff00};
  const auto compute = read_as<ComputeMessage>(sent, bytes, to);
  EXPECT_EQ(compute.ticket, sent.ticket);
  EXPECT_EQ(compute.salt, "pepper");
  EXPECT_EQ(compute.adapter, "law");
  EXPECT_EQ(compute.adapter_digest, sent.adapter_digest);
  EXPECT_EQ(compute.priority, -5);
  EXPECT_EQ(compute.time_limit_ms, 120000u);
  EXPECT_EQ(compute.tokens, sent.tokens);
  ASSERT_EQ(compute.content.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(compute.content[i].first, sent.content[i].first);
    EXPECT_EQ(compute.content[i].tokens, sent.content[i].tokens);
    EXPECT_EQ(compute.content[i].identity, sent.content[i].identity);
  }
  EXPECT_EQ(compute.media, sent.media);
  EXPECT_EQ(compute.client, sent.client);

  const SendMessage wanted{2, {{1, 2, 3}, {4, 5, 0xffffffff}}, {6, 7, 8}};
  const auto send = read_as<SendMessage>(wanted, bytes, to);
  EXPECT_EQ(send.ticket, 2u);
  EXPECT_EQ(send.tiles, wanted.tiles);
  EXPECT_EQ(send.features, wanted.features);
  EXPECT_EQ(read_as<CancelMessage>(CancelMessage{3}, bytes, to).ticket, 3u);
}

TEST(TransferMessages, AnswersComeAsTheyWere) {
  Bytes bytes;
  TransferMessage to;
  const auto part = read_as<PartMessage>(PartMessage{4, 1, 2, 3, 4, 5, kContent}, bytes, to);
  EXPECT_EQ(part.ticket, 4u);
  EXPECT_EQ((std::array{part.group, part.first_layer, part.layers, part.first_tile, part.tiles}),
            (std::array{1u, 2u, 3u, 4u, 5u}));
  EXPECT_EQ(Bytes(part.content.begin(), part.content.end()), kContent);
  EXPECT_TRUE(part.content.data() > bytes.data() && part.content.data() < bytes.data() + bytes.size()) << "no copy";

  const auto features = read_as<FeaturesMessage>(FeaturesMessage{6, 1, 7, 2, 5, kContent}, bytes, to);
  EXPECT_EQ(features.ticket, 6u);
  EXPECT_EQ((std::array{features.image, features.rows, features.columns, features.first_row}),
            (std::array{1u, 7u, 2u, 5u}));
  EXPECT_EQ(Bytes(features.values.begin(), features.values.end()), kContent);

  const auto progress = read_as<ProgressMessage>(ProgressMessage{7, 4000000000u}, bytes, to);
  EXPECT_EQ(progress.ticket, 7u);
  EXPECT_EQ(progress.computed, 4000000000u);
  const auto done = read_as<DoneMessage>(DoneMessage{8, true, "because"}, bytes, to);
  EXPECT_EQ(done.ticket, 8u);
  EXPECT_TRUE(done.complete);
  EXPECT_EQ(done.why, "because");
  EXPECT_FALSE(read_as<DoneMessage>(DoneMessage{8, false, ""}, bytes, to).complete);
}

TEST(TransferMessages, APartWrittenInPlaceIsTheSame) {
  const PartMessage head{4, 1, 2, 3, 4, 5, {}};
  PartMessage whole = head;
  whole.content = kContent;
  EXPECT_EQ(encode_part(head, kContent.size(),
                        [](std::span<std::byte> to) { std::memcpy(to.data(), kContent.data(), to.size()); }),
            encode(whole));
}

// Servers of one version understand each other whatever they were built from.
TEST(TransferMessages, HaveTheseBytes) {
  EXPECT_EQ(encode(CancelMessage{0x0102030405060708}), summed(bytes_of({6, 8, 7, 6, 5, 4, 3, 2, 1})));
  EXPECT_EQ(encode(PingMessage{}), summed(bytes_of({11})));
  EXPECT_EQ(encode(DoneMessage{3, true, "ok"}),
            summed(bytes_of({10, 3, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 'o', 'k'})));
  const ComputeMessage compute{1, "s", -1, 258, {5, -2}, {{0, 2, "i"}}, bytes_of({7}), "a", "", 3};
  EXPECT_EQ(encode(compute), summed(bytes_of({
                                 4,                                        // kind
                                 1,    0,    0,    0,    0, 0, 0, 0,       // ticket
                                 1,    0,    0,    0,    0, 0, 0, 0, 's',  // salt
                                 0xff, 0xff, 0xff, 0xff,                   // priority
                                 2,    1,    0,    0,                      // time limit
                                 2,    0,    0,    0,    0, 0, 0, 0,       // tokens
                                 5,    0,    0,    0,                      //
                                 0xfe, 0xff, 0xff, 0xff,                   //
                                 1,    0,    0,    0,    0, 0, 0, 0,       // spans of content
                                 0,    0,    0,    0,    0, 0, 0, 0,       // first
                                 2,    0,    0,    0,    0, 0, 0, 0,       // tokens
                                 1,    0,    0,    0,    0, 0, 0, 0, 'i',  // identity
                                 1,    0,    0,    0,    0, 0, 0, 0, 7,    // media
                                 1,    0,    0,    0,    0, 0, 0, 0, 'a',  // adapter
                                 0,    0,    0,    0,    0, 0, 0, 0,       // its digest
                                 3,    0,    0,    0,    0, 0, 0, 0,       // client
                             })));
  // And the sum is XXH3 with its default secret and seed: a value of the library's own tables, of no bytes.
  EXPECT_EQ(XXH3_64bits("", 0), 0x2d06800538d394c2u);
}

void expect_fault(const Bytes& bytes, Code code, const std::string& what) {
  const auto read = decode(bytes);
  ASSERT_FALSE(read.ok()) << what << " was taken for a message";
  EXPECT_EQ(read.error().code(), code) << what << ": " << read.error().message();
}

TEST(TransferMessages, PiecesAreNone) {
  for (const TransferMessage& sample : samples()) {
    const Bytes whole = encode(sample), body = body_of(sample);
    const std::string kind = "kind " + std::to_string(sample.index()) + ", ";
    for (size_t size = 0; size < whole.size(); ++size)
      ASSERT_FALSE(decode(std::span(whole).first(size)).ok()) << kind << size << " bytes";
    for (size_t size = 0; size < body.size(); ++size)
      expect_fault(summed({body.begin(), body.begin() + static_cast<ptrdiff_t>(size)}), Code::invalid_argument,
                   kind + std::to_string(size) + " bytes with their sum");
    Bytes longer = body;
    longer.push_back(std::byte{0});
    expect_fault(summed(longer), Code::invalid_argument, kind + "a byte behind it");
  }
}

TEST(TransferMessages, AFlippedBitIsNoticed) {
  for (const TransferMessage& sample : samples()) {
    Bytes bytes = encode(sample);
    for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
      bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
      expect_fault(bytes, Code::data_corrupt, "bit " + std::to_string(bit));
      bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    }
  }
}

TEST(TransferMessages, UnknownKindsAreNone) {
  for (size_t kind = std::variant_size_v<TransferMessage>; kind < 256; ++kind) {
    Bytes body(40);
    body[0] = static_cast<std::byte>(kind);
    const auto read = decode(summed(body));
    ASSERT_FALSE(read.ok());
    EXPECT_NE(read.error().message().find("unknown kind " + std::to_string(kind)), std::string::npos)
        << read.error().message();
  }
}

long peak_kilobytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

void put(Bytes& bytes, size_t at, uint64_t value) { std::memcpy(bytes.data() + at, &value, sizeof value); }

constexpr uint64_t kHuge[] = {~uint64_t{0},         uint64_t{1} << 63, (uint64_t{1} << 62) + 1, uint64_t{1} << 61,
                              uint64_t{0x7fffffff}, uint64_t{1} << 32, uint64_t{1} << 27,       1 << 20};

// Lengths are where message.h's order of the fields puts them.
TEST(TransferMessages, LengthsOfMoreThanIsThereAreFaults) {
  const ComputeMessage compute{1, "pepper", 0, 0, {1, 2, 3}, {{0, 2, "one"}}, bytes_of({1, 2})};
  const size_t salt = 9, tokens = salt + 8 + 6 + 8, spans = tokens + 8 + 3 * 4, identity = spans + 8 + 16,
               media = identity + 8 + 3;
  const std::vector<std::pair<TransferMessage, std::vector<size_t>>> cases = {
      {AnswerMessage{1, {}, "identity", {}}, {1 + 4 + 32}},    {RefusedMessage{"why"}, {1}},
      {compute, {salt, tokens, spans, identity, media}},       {SendMessage{1, {{1, 2, 3}}, {1, 2}}, {9, 9 + 8 + 12}},
      {PartMessage{4, 1, 2, 3, 4, 5, kContent}, {1 + 8 + 20}}, {FeaturesMessage{6, 1, 7, 2, 5, kContent}, {1 + 8 + 16}},
      {DoneMessage{8, true, "because"}, {1 + 8 + 1}},
  };
  const long before = peak_kilobytes();
  for (const auto& [message, places] : cases)
    for (const size_t place : places) {
      const Bytes body = body_of(message);
      uint64_t length = 0;
      std::memcpy(&length, body.data() + place, sizeof length);
      ASSERT_LT(length, 20u) << "no length is there";
      for (const uint64_t huge : kHuge) {
        Bytes changed = body;
        put(changed, place, huge);
        expect_fault(summed(changed), Code::invalid_argument, std::to_string(huge) + " at " + std::to_string(place));
      }
      for (const uint64_t near : {length - 1, length + 1}) {
        Bytes changed = body;
        put(changed, place, near);
        expect_fault(summed(changed), Code::invalid_argument, std::to_string(near) + " at " + std::to_string(place));
      }
    }
  // Wherever a huge number is written: an error, or a message with these bytes.
  for (const TransferMessage& sample : samples())
    for (size_t at = 1; at + 8 <= body_of(sample).size(); ++at)
      for (const uint64_t huge : kHuge) {
        Bytes changed = body_of(sample);
        put(changed, at, huge);
        const Bytes bytes = summed(changed);
        const auto read = decode(bytes);
        if (read.ok()) {
          EXPECT_EQ(encode(*read), bytes);
        }
      }
  EXPECT_LT(peak_kilobytes() - before, 32 << 10) << "memory was taken for lengths that are not there";
}

TEST(TransferMessages, TextsAndListsHaveTheirLimits) {
  const auto is_read = [](const TransferMessage& message) { return decode(encode(message)).ok(); };
  EXPECT_TRUE(is_read(RefusedMessage{std::string(8192, 'x')}));
  EXPECT_FALSE(is_read(RefusedMessage{std::string(8193, 'x')}));
  EXPECT_TRUE(is_read(ComputeMessage{1, std::string(4096, 'x'), 0, 0, {1}, {}, {}}));
  EXPECT_FALSE(is_read(ComputeMessage{1, std::string(4097, 'x'), 0, 0, {1}, {}, {}}));
  EXPECT_TRUE(is_read(SendMessage{1, std::vector<TileRange>(1 << 16), {}}));
  EXPECT_FALSE(is_read(SendMessage{1, std::vector<TileRange>((1 << 16) + 1), {}}));
  EXPECT_FALSE(is_read(SendMessage{1, {}, std::vector<uint32_t>((1 << 16) + 1)}));
}

// A prompt that cannot be sent is computed at home, and its connection goes on.
TEST(TransferMessages, WhetherAPromptCanBeSentIsKnownBefore) {
  const ContentSpan span{0, 1, "x"}, long_span{0, 1, std::string(8193, 'x')};
  const std::vector<std::pair<ComputeMessage, bool>> cases = {
      {{1, std::string(4096, 'x'), 0, 0, {1}, {}, {}}, true},
      {{1, std::string(4097, 'x'), 0, 0, {1}, {}, {}}, false},
      {{1, "", 0, 0, {1}, {{0, 1, std::string(8192, 'x')}}, {}}, true},
      {{1, "", 0, 0, {1}, {span, long_span}, {}}, false},
      {{1, "", 0, 0, {1}, std::vector<ContentSpan>(1 << 16, span), {}}, true},
      {{1, "", 0, 0, {1}, std::vector<ContentSpan>((1 << 16) + 1, span), {}}, false},
  };
  for (const auto& [prompt, fits] : cases) {
    EXPECT_EQ(can_be_sent(prompt), fits);
    EXPECT_EQ(decode(encode(prompt)).ok(), fits);
  }
  const auto of_images = [](size_t bytes) { return ComputeMessage{1, "", 0, 0, {1}, {}, Bytes(bytes)}; };
  EXPECT_TRUE(can_be_sent(of_images(kLongestMessage - 128 - 4)));
  EXPECT_FALSE(can_be_sent(of_images(kLongestMessage)));
  const ComputeMessage empty{};
  EXPECT_LE(encode(empty).size(), 128u) << "what is not counted";
}

TEST(TransferMessages, ContentLiesWithinTheTokens) {
  constexpr int kMax = std::numeric_limits<int>::max(), kMin = std::numeric_limits<int>::min();
  const auto is_read = [](int first, int tokens) {
    return decode(encode(ComputeMessage{1, "", 0, 0, {1, 2, 3, 4, 5}, {{first, tokens, "x"}}, {}})).ok();
  };
  EXPECT_TRUE(is_read(0, 5) && is_read(4, 1) && is_read(1, 3));
  const std::vector<std::pair<int, int>> outside = {{0, 6},       {4, 2},    {5, 1},   {5, 0},    {0, 0},
                                                    {2, -1},      {-1, 2},   {-1, 7},  {kMax, 1}, {1, kMax},
                                                    {kMax, kMax}, {kMin, 1}, {0, kMin}};
  for (const auto& [first, tokens] : outside) EXPECT_FALSE(is_read(first, tokens)) << first << " + " << tokens;
  // Numbers of 64 bits whose lower halves are right.
  const Bytes body = body_of(ComputeMessage{1, "", 0, 0, {1, 2, 3}, {{0, 2, ""}}, {}});
  const size_t first = 1 + 8 + 8 + 8 + 8 + 12 + 8;
  for (const size_t at : {first, first + 8}) {
    Bytes changed = body;
    changed[at + 4] = std::byte{1};
    expect_fault(summed(changed), Code::invalid_argument, "a place behind 2^32");
  }
}

TEST(TransferMessages, RowsOfFeaturesAreWholeAndWithinTheImage) {
  const auto is_read = [](uint32_t rows, uint32_t columns, uint32_t first) {
    return decode(encode(FeaturesMessage{1, 0, rows, columns, first, kContent})).ok();  // 4 numbers
  };
  EXPECT_TRUE(is_read(2, 2, 0) && is_read(9, 1, 5) && is_read(0xffffffff, 4, 0xfffffffe));
  const std::vector<std::array<uint32_t, 3>> wrong = {{2, 3, 0}, {2, 0, 0},          {1, 2, 0},
                                                      {2, 2, 1}, {2, 2, 3},          {2, 2, 0xffffffff},
                                                      {0, 4, 0}, {4, 0xffffffff, 0}, {4, 0x40000001, 0}};
  for (const auto& [rows, columns, first] : wrong)
    EXPECT_FALSE(is_read(rows, columns, first)) << rows << " rows of " << columns << " from " << first;
}

TEST(TransferMessages, YesAndNoAreOneAndZero) {
  for (int value = 2; value < 256; ++value)
    expect_fault(summed(bytes_of({10, 3, 0, 0, 0, 0, 0, 0, 0, value, 0, 0, 0, 0, 0, 0, 0, 0})), Code::invalid_argument,
                 std::to_string(value));
}

}  // namespace
}  // namespace weft
