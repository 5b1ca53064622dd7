#include "orchestrate/cached_blocks.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

// A key whose 64 digits end the number; its name is what its first 32 say.
std::string key(int number) {
  const std::string digits = std::to_string(number);
  return std::string(32 - digits.size(), '0') + digits + std::string(32, 'f');
}
BlockName name(int number) { return *read_block_name(key(number)); }

struct Event {
  bool stored;
  int number;
};
Json answer(uint64_t next, const std::vector<Event>& events, int lost = 0) {
  Json::Array list;
  for (const Event& event : events)
    list.push_back(Json::object({{"type", event.stored ? "stored" : "removed"}, {"block_hash", key(event.number)}}));
  return Json::object({{"events", Json(std::move(list))}, {"lost", lost}, {"next_event_id", static_cast<long>(next)}});
}

TEST(CachedBlocks, Names) {
  EXPECT_EQ(*read_block_name("0123456789abcdeffedcba98765432100000000000000000ffffffffffffffff"),
            (BlockName{0x0123456789abcdefu, 0xfedcba9876543210u}));
  for (const std::string& wrong : {std::string(), std::string(63, 'a'), std::string(65, 'a'), std::string(64, 'g'),
                                   "-" + std::string(63, '1'), std::string(16, 'a') + " " + std::string(47, 'a')})
    EXPECT_FALSE(read_block_name(wrong).ok()) << wrong;
}

TEST(CachedBlocks, FollowsEvents) {
  CachedBlocks blocks;
  ASSERT_TRUE(blocks.apply(answer(3, {{true, 1}, {true, 2}, {true, 4}})).ok());
  EXPECT_EQ(blocks.event(), 3u);
  const std::vector<BlockName> prompt{name(1), name(2), name(3), name(4)};
  EXPECT_EQ(blocks.leading(prompt), 2) << "the third is not there, so the fourth is of no use";
  EXPECT_EQ(blocks.leading({}), 0);
  ASSERT_TRUE(blocks.apply(answer(5, {{true, 3}, {false, 2}})).ok());
  EXPECT_EQ(blocks.leading(prompt), 1);
  EXPECT_EQ(blocks.size(), 3u);
}

// A block of two groups of layers, or two homes, is there until both have dropped it.
TEST(CachedBlocks, CountsCaches) {
  CachedBlocks blocks;
  ASSERT_TRUE(blocks.apply(answer(3, {{true, 1}, {true, 1}, {false, 1}})).ok());
  EXPECT_EQ(blocks.leading(std::vector{name(1)}), 1);
  ASSERT_TRUE(blocks.apply(answer(5, {{false, 1}, {false, 1}})).ok());
  EXPECT_EQ(blocks.leading(std::vector{name(1)}), 0);
}

TEST(CachedBlocks, LostEventsEmptyIt) {
  CachedBlocks blocks;
  ASSERT_TRUE(blocks.apply(answer(2, {{true, 1}, {true, 2}})).ok());
  ASSERT_TRUE(blocks.apply(answer(9, {{true, 7}}, 6)).ok());
  EXPECT_EQ(blocks.leading(std::vector{name(1)}), 0);
  EXPECT_EQ(blocks.leading(std::vector{name(7)}), 1) << "what came behind them";
  EXPECT_EQ(blocks.lost(), 6u);
}

TEST(CachedBlocks, AServerThatCountsFromTheStartAgain) {
  CachedBlocks blocks;
  ASSERT_TRUE(blocks.apply(answer(9, {{true, 1}})).ok());
  ASSERT_TRUE(blocks.apply(answer(2, {})).ok());
  EXPECT_EQ(blocks.event(), 0u) << "to be asked for all of them";
  EXPECT_EQ(blocks.size(), 0u);
}

TEST(CachedBlocks, AnswersThatAreNone) {
  for (const char* text :
       {"{}", "[]", R"({"events": [], "lost": 0})", R"({"events": 5, "lost": 0, "next_event_id": 4})",
        R"({"events": [{}], "lost": 0, "next_event_id": 4})", R"({"events": [], "lost": -1, "next_event_id": 4})",
        R"({"events": [{"type": "stored", "block_hash": "xyz"}], "lost": 0, "next_event_id": 4})"}) {
    CachedBlocks blocks;
    ASSERT_TRUE(blocks.apply(answer(1, {{true, 1}})).ok());
    EXPECT_FALSE(blocks.apply(*parse_json(text)).ok()) << text;
    EXPECT_EQ(blocks.size(), 0u);
  }
}

}  // namespace
}  // namespace weft
