#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <numeric>
#include <thread>
#include <vector>

#include "base/json.h"
#include "base/short_id.h"
#include "base/stoppable_json.h"
#include "base/thread_team.h"

namespace weft {
namespace {

// Mistral's templates take nine letters and digits. The values are those of the same hash in Python.
TEST(ShortId, IsNineLettersOfAHash) {
  EXPECT_EQ(short_id(""), "5nGVpMeG0");
  EXPECT_EQ(short_id("call_0123456789"), "yvyPoF79l");
  EXPECT_EQ(short_id("a"), "42e77VQWe");
  EXPECT_EQ(short_id("b"), "D2NwxM8k8");
  EXPECT_TRUE(is_short_id(short_id("a")));
  for (const char* other : {"", "12345678", "1234567890", "12345678_", "12345678\xc3"})
    EXPECT_FALSE(is_short_id(other)) << other;
}

TEST(Json, KeepsOrderAndRoundTripsNumbers) {
  const std::string text = R"({"b":1,"a":[true,null,-2.5,"x\né"],"c":{"d":9007199254740993}})";
  const auto parsed = parse_json(text);
  ASSERT_TRUE(parsed.ok()) << parsed.error().to_string();
  EXPECT_EQ(parsed->dump(), "{\"b\":1,\"a\":[true,null,-2.5,\"x\\n\xc3\xa9\"],\"c\":{\"d\":9007199254740993}}");
  EXPECT_EQ(parsed->find("c")->find("d")->as_integer(), 9007199254740993);
  const float value = -12.345679f;
  EXPECT_EQ(static_cast<float>(parse_json(Json(value).dump())->as_number()), value);
  EXPECT_EQ(parse_json(Json(0.1).dump())->as_number(), 0.1);
}

TEST(Json, NumbersKeepTheirText) {
  for (const char* text : {"17592186044416.0", "9.5367431640625e-07", "1E-7", "1.50", "-0.0", "3.4028234663852886e+38",
                           "9223372036854775808", "-9223372036854775808", "18446744073709551615",
                           "100000000000000000000", "-123456789012345678901234567890"}) {
    auto parsed = parse_json("[" + std::string(text) + "]");
    ASSERT_TRUE(parsed.ok()) << text;
    Json copy = *parsed;
    EXPECT_EQ(copy.dump(), "[" + std::string(text) + "]");
    Json moved = std::move(copy.items()[0]);
    EXPECT_EQ(moved.dump(), text);
    EXPECT_EQ(moved.as_number(), std::stod(text));
    copy = Json("x");
    EXPECT_EQ(parsed->items()[0], moved);
  }
  EXPECT_FALSE(parse_json("100000000000000000001").value() == parse_json("100000000000000000000").value());
  EXPECT_FALSE(parse_json("9007199254740993").value() == parse_json("9007199254740992").value());
  EXPECT_EQ(parse_json("1.0").value(), Json(1));
  EXPECT_EQ(Json(17592186044416.0f).dump(), "1.7592186e+13");  // made here
}

TEST(Json, RefusesWhatIsNotJson) {
  for (const char* text : {"", "{", "[1,]", "{\"a\":1} x", "nul", "1e400", "\"\xff\"", "NaN"})
    EXPECT_FALSE(parse_json(text).ok()) << text;
  for (const std::string& text : {std::string("{}\0{\"x\"", 7), std::string("{}\0", 3), std::string("[\"a\0\"]", 6)})
    EXPECT_NE(parse_json(text).error().message().find("NUL"), std::string::npos);
  EXPECT_FALSE(parse_json(std::string(100000, '[')).ok());
  EXPECT_TRUE(parse_json(std::string(200, '[') + std::string(200, ']')).ok());
}

TEST(Json, LastOfDuplicateKeysCounts) { EXPECT_EQ(parse_json(R"({"a":1,"a":2})")->find("a")->as_integer(), 2); }

TEST(Json, RepeatedKeysAreDropped) {
  const auto kept = parse_json(R"({"a":1,"b":{"x":1,"x":2},"a":null,"c":3})", {.keep_repeated = false});
  EXPECT_EQ(kept->dump(), R"({"b":{"x":2},"a":null,"c":3})");
  EXPECT_EQ(parse_json(R"({"a":1,"a":2})")->members().size(), 2u);
}

TEST(Json, EqualObjectsHaveEqualMembers) {
  const auto read = [](const char* text) { return parse_json(text).value(); };
  EXPECT_EQ(read(R"({"a":1,"b":[2]})"), read(R"({"b":[2.0],"a":1})")) << "in any order";
  EXPECT_EQ(read(R"({"a":1,"a":2,"b":3})"), read(R"({"b":3,"a":2})")) << "the last one counts";
  EXPECT_FALSE(read(R"({"a":1,"a":2})") == read(R"({"a":2,"a":1})"));
  EXPECT_FALSE(read(R"({"a":1})") == read(R"({"a":1,"b":null})"));
  EXPECT_FALSE(read(R"({"a":1,"b":1})") == read(R"({"a":1,"c":1})"));
}

TEST(Json, ReadingStopsWhenItIsToldTo) {
  std::string text = "[0";
  for (int i = 0; i < 5000; ++i) text += ",0";
  text += "]";
  StopFlag goes_on, late, left;
  late.set(StopReason::out_of_time), left.set(StopReason::client_left);
  EXPECT_TRUE(parse_json(text, {}, goes_on).ok());
  for (const std::string& one : {text, std::string("{}")}) {
    EXPECT_EQ(parse_json(one, {}, late).error().code(), Code::deadline_exceeded);
    EXPECT_EQ(parse_json(one, {}, left).error().code(), Code::cancelled);
  }
}

// A flag that is set while a long text is read is seen before its end, where there is a fault. On a busy machine the
// reader may be done before; then it is tried again.
TEST(Json, ReadingStopsInTheMiddle) {
  std::string text = "[0";
  for (int i = 0; i < 1'000'000; ++i) text += ",0";
  text += ",x]";
  EXPECT_EQ(parse_json(text).error().code(), Code::invalid_argument);
  Code code = Code::invalid_argument;
  for (int attempt = 0; attempt < 50 && code != Code::cancelled; ++attempt) {
    StopFlag flag;
    std::thread other([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(3));
      flag.set(StopReason::client_left);
    });
    code = parse_json(text, {}, flag).error().code();
    other.join();
  }
  EXPECT_EQ(code, Code::cancelled);
}

// What is refused is found while it is read, so little more than the limit is ever held.
TEST(Json, MemoryIsBounded) {
  for (const std::string& unit :
       {std::string("[],"), std::string("1,"), std::string("{\"\":0},"), std::string("\"abc\",")}) {
    std::string text = "[";
    for (int i = 0; i < 10000; ++i) text += unit;
    text.back() = ']';
    const auto all = parse_json(text);
    ASSERT_TRUE(all.ok());
    const size_t memory = all->memory();
    EXPECT_GE(memory, 10000 * sizeof(Json));
    const auto refused = parse_json(text, {.max_bytes = memory / 2});
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code(), Code::too_large);
    EXPECT_NE(refused.error().message().find(std::to_string(memory / 2)), std::string::npos);
    EXPECT_TRUE(parse_json(text, {.max_bytes = 4 * memory}).ok()) << unit;
  }
}

TEST(Json, QuoteEscapesAllEndsOfLines) {
  EXPECT_EQ(json_quote("a\n\r\f\v\x1c\x1d\x1e\xc2\x85\xe2\x80\xa8\xe2\x80\xa9\xc2\x86"),
            "\"a\\n\\r\\f\\u000b\\u001c\\u001d\\u001e\\u0085\\u2028\\u2029\xc2\x86\"");
}

TEST(Json, QuoteReplacesInvalidUtf8) { EXPECT_EQ(json_quote("a\xff\"\x01"), "\"a\xef\xbf\xbd\\\"\\u0001\""); }

TEST(ThreadTeam, RunsEveryThreadAndBarriersSeparatePhases) {
  for (int size : {1, 2, 3, 9}) {  // also more than there are processors
    ThreadTeam team(size);
    for (int round = 0; round < 200; ++round) {
      std::vector<int> first(size), second(size);
      team.run([&](int thread) {
        first[thread] = thread + 1;
        team.barrier();
        second[thread] = std::accumulate(first.begin(), first.end(), 0);
      });
      for (int sum : second) ASSERT_EQ(sum, size * (size + 1) / 2);
    }
  }
}

}  // namespace
}  // namespace weft
