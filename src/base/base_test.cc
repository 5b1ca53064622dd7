#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/json.h"
#include "base/thread_team.h"

namespace weft {
namespace {

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

TEST(Json, RefusesWhatIsNotJson) {
  for (const char* text : {"", "{", "[1,]", "{\"a\":1} x", "nul", "1e400", "\"\xff\"", "NaN"})
    EXPECT_FALSE(parse_json(text).ok()) << text;
  for (const std::string& text : {std::string("{}\0{\"x\"", 7), std::string("{}\0", 3), std::string("[\"a\0\"]", 6)})
    EXPECT_NE(parse_json(text).error().message().find("NUL"), std::string::npos);
  EXPECT_FALSE(parse_json(std::string(100000, '[')).ok());
  EXPECT_TRUE(parse_json(std::string(200, '[') + std::string(200, ']')).ok());
}

TEST(Json, LastOfDuplicateKeysCounts) { EXPECT_EQ(parse_json(R"({"a":1,"a":2})")->find("a")->as_integer(), 2); }

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
