// The cache of compiled grammars: what is compiled and how often, what is dropped, and that callers do not disturb each
// other.
#include "grammar/grammar_cache.h"

#include <thread>

#include "test_vocabulary.h"

namespace weft {
namespace {

using Kind = GrammarSpec::Kind;

TEST(GrammarCache, CompilesOnce) {
  GrammarCache cache(Vocabulary::get().factory());
  const auto first = cache.get(spec(Kind::regex, "[0-9]+"));
  const auto second = cache.get(spec(Kind::regex, "[0-9]+"));
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(cache.metrics().misses, 1);
  EXPECT_EQ(cache.metrics().hits, 1);
  EXPECT_EQ(cache.metrics().entries, 1);
  EXPECT_GE(cache.metrics().bytes, static_cast<int64_t>((*first)->bytes()));
  // Each has a state of its own, and the one in the cache stays at the start.
  ASSERT_TRUE(Vocabulary::get().accept(**first, "12"));
  EXPECT_TRUE((*first)->may_end());
  EXPECT_FALSE((*second)->may_end());
  EXPECT_FALSE((*cache.get(spec(Kind::regex, "[0-9]+")))->may_end());
}

TEST(GrammarCache, OtherSpecsAreOthers) {
  GrammarCache cache(Vocabulary::get().factory());
  GrammarSpec one = spec(Kind::choice, ""), other = one;
  one.choices = {"ab", "c"}, other.choices = {"a", "bc"};
  EXPECT_TRUE(Vocabulary::get().matches(**cache.get(one), "ab"));
  EXPECT_FALSE(Vocabulary::get().matches(**cache.get(other), "ab"));
  EXPECT_TRUE(Vocabulary::get().matches(**cache.get(spec(Kind::regex, "a", Thinking::open)), "x</think>a"));
  EXPECT_FALSE(Vocabulary::get().matches(**cache.get(spec(Kind::regex, "a")), "x</think>a"));
  GrammarSpec compact = spec(Kind::json_object, "");
  EXPECT_TRUE(Vocabulary::get().matches(**cache.get(compact), "{ }"));
  compact.compact_json = true;
  EXPECT_FALSE(Vocabulary::get().matches(**cache.get(compact), "{ }"));
  EXPECT_EQ(cache.metrics().misses, 6);
  EXPECT_EQ(cache.metrics().hits, 0);
}

TEST(GrammarCache, DropsTheLeastRecentlyUsed) {
  const size_t one = (*Vocabulary::get().factory()->compile(spec(Kind::regex, "a[0-9]")))->bytes();
  GrammarCacheOptions options;
  options.bytes = 5 * one / 2;  // two of them, not three
  GrammarCache cache(Vocabulary::get().factory(), options);
  ASSERT_TRUE(cache.get(spec(Kind::regex, "a[0-9]")).ok());
  ASSERT_TRUE(cache.get(spec(Kind::regex, "b[0-9]")).ok());
  ASSERT_TRUE(cache.get(spec(Kind::regex, "a[0-9]")).ok());
  ASSERT_TRUE(cache.get(spec(Kind::regex, "c[0-9]")).ok());  // b goes
  EXPECT_EQ(cache.metrics().entries, 2);
  EXPECT_EQ(cache.metrics().evictions, 1);
  EXPECT_LE(cache.metrics().bytes, static_cast<int64_t>(options.bytes));
  ASSERT_TRUE(cache.get(spec(Kind::regex, "a[0-9]")).ok());
  EXPECT_EQ(cache.metrics().misses, 3);
  ASSERT_TRUE(cache.get(spec(Kind::regex, "b[0-9]")).ok());
  EXPECT_EQ(cache.metrics().misses, 4);
  options.bytes = one / 2;  // too small for any: nothing is kept
  GrammarCache small(Vocabulary::get().factory(), options);
  ASSERT_TRUE(small.get(spec(Kind::regex, "a[0-9]")).ok());
  EXPECT_EQ(small.metrics().entries, 0);
  EXPECT_EQ(small.metrics().bytes, 0);
}

TEST(GrammarCache, RemembersWhatIsWrong) {
  GrammarCache cache(Vocabulary::get().factory());
  const auto first = cache.get(spec(Kind::regex, "[a-"));
  const auto second = cache.get(spec(Kind::regex, "[a-"));
  ASSERT_FALSE(first.ok());
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(first.error().message(), second.error().message());
  EXPECT_EQ(cache.metrics().failures, 1);
  EXPECT_EQ(cache.metrics().hits, 1);
}

TEST(GrammarCache, ManyThreadsAtOnce) {
  GrammarCacheOptions options;
  options.bytes = 1 << 20;
  GrammarCache cache(Vocabulary::get().factory(), options);
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 40; ++i) {
        const std::string word = std::string(1 + (i + t) % 5, 'a');
        const auto grammar = cache.get(spec(Kind::regex, word));
        right += grammar.ok() && Vocabulary::get().matches(**grammar, word) &&
                 !Vocabulary::get().matches(**grammar, word + "a");
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, 160);
  EXPECT_EQ(cache.metrics().misses + cache.metrics().hits, 160);
  EXPECT_EQ(cache.metrics().misses, 5 + cache.metrics().evictions);
}

TEST(GrammarCache, WaitsForASlotOnlySoLong) {
  GrammarCacheOptions options;
  options.slots = 0;
  options.wait = std::chrono::milliseconds(0);
  GrammarCache cache(Vocabulary::get().factory(), options);
  const auto grammar = cache.get(spec(Kind::regex, "a"));
  ASSERT_FALSE(grammar.ok());
  EXPECT_EQ(grammar.error().code(), Code::resource_exhausted);
  EXPECT_EQ(cache.metrics().entries, 0);  // another time it may go well
}

}  // namespace
}  // namespace weft
