// The n-gram drafter against a search through the whole text, and its rules one by one.
#include "spec/ngram_drafter.h"

#include <gtest/gtest.h>

#include <random>

namespace weft {
namespace {

using Tokens = std::vector<int32_t>;
constexpr std::array<uint64_t, 4> kSalt = {1, 2, 3, 4}, kOtherSalt = {1, 2, 3, 5};

SpeculationOptions options(int shortest = 2, int longest = 5, bool shared = false) {
  SpeculationOptions options;
  options.method = DraftMethod::ngram;
  options.ngram_min = shortest, options.ngram_max = longest, options.ngram_shared = shared;
  return options;
}

Tokens propose(NgramDrafter& drafter, const Tokens& tokens, int most = kMostDrafts, Slot slot = 0,
               const MediaPrompt* media = nullptr) {
  Tokens drafts;
  drafter.propose({.slot = slot, .tokens = tokens, .prompt_tokens = 0, .params = nullptr, .media = media}, most,
                  drafts);
  return drafts;
}

Tokens propose_once(const Tokens& tokens, int most = kMostDrafts, int shortest = 2, int longest = 5) {
  NgramDrafter drafter(options(shortest, longest));
  drafter.open(0, kSalt);
  return propose(drafter, tokens, most);
}

Tokens random_tokens(std::mt19937& random, int count, int vocabulary) {
  Tokens tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % vocabulary);
  return tokens;
}

// Tokens before the place that agree with the end of the text.
int match(const Tokens& tokens, size_t place) {
  int length = 0;
  while (static_cast<size_t>(length) < place && length < NgramIndex::kLongestMatch &&
         tokens[place - 1 - length] == tokens[tokens.size() - 1 - length])
    ++length;
  return length;
}

TEST(NgramDrafter, TheLongestMatchWins) {
  // 1 2 3 -> 9 stands before, and later 2 3 -> 8, which agrees less far.
  EXPECT_EQ(propose_once({1, 2, 3, 9, 7, 2, 3, 8, 6, 1, 2, 3}, 1), Tokens({9}));
  // Of equally long ones the newest.
  EXPECT_EQ(propose_once({1, 2, 3, 9, 7, 1, 2, 3, 8, 6, 1, 2, 3}, 1), Tokens({8}));
  // Of three equally long ones that which two go on with.
  EXPECT_EQ(propose_once({1, 2, 3, 9, 7, 1, 2, 3, 9, 5, 1, 2, 3, 8, 6, 1, 2, 3}, 1), Tokens({9}));
  // Beyond the longest run that has a chain of its own.
  EXPECT_EQ(propose_once({1, 2, 3, 4, 5, 6, 7, 99, 0, 2, 3, 4, 5, 6, 7, 98, 1, 2, 3, 4, 5, 6, 7}, 1), Tokens({99}));
}

TEST(NgramDrafter, FindsTheLongestMatchOfRandomTexts) {
  std::mt19937 random(3);
  int proposed = 0;
  for (int round = 0; round < 2000; ++round) {
    const Tokens tokens = random_tokens(random, 5 + static_cast<int>(random() % 200), 6);
    const Tokens drafts = propose_once(tokens, 1);
    int longest = 0;
    std::vector<int> votes(6);
    for (size_t place = 1; place < tokens.size(); ++place) longest = std::max(longest, match(tokens, place));
    for (size_t place = 1; place < tokens.size(); ++place)
      if (match(tokens, place) == longest) ++votes[tokens[place]];
    if (longest < 2) {
      EXPECT_TRUE(drafts.empty());
    } else if (!drafts.empty()) {  // empty: eight places that all go on differently
      EXPECT_GT(votes[drafts[0]], 0) << "round " << round;
      ++proposed;
    }
  }
  EXPECT_GT(proposed, 1500);
}

TEST(NgramDrafter, NothingBelowTheShortestRun) {
  EXPECT_EQ(propose_once({1, 2, 9, 3, 1, 2}, 4, 3), Tokens());
  EXPECT_EQ(propose_once({1, 2, 9, 3, 1, 2}, 1, 2), Tokens({9}));
  EXPECT_EQ(propose_once({2, 9, 3, 1, 2}, 1, 2), Tokens());
  EXPECT_EQ(propose_once({2, 9, 3, 1, 2}, 1, 1), Tokens({9}));
  EXPECT_EQ(propose_once({1, 2, 3, 4, 5, 6}), Tokens());
  EXPECT_EQ(propose_once({1}), Tokens());
  EXPECT_EQ(propose_once({}), Tokens());
  EXPECT_EQ(propose_once({7, 7, 7, 7}, 0), Tokens());
}

TEST(NgramDrafter, LoopsAreDraftedRoundAndRound) {
  EXPECT_EQ(propose_once({5, 6, 7, 5, 6, 7, 5, 6, 7}, 8), Tokens({5, 6, 7, 5, 6, 7, 5, 6}));
  EXPECT_EQ(propose_once({4, 4, 4, 4}, 6), Tokens({4, 4, 4, 4, 4, 4}));
  // A long loop, entered for the second time: the copy runs to the end of the text and goes on with itself.
  EXPECT_EQ(propose_once({1, 2, 3, 4, 5, 1, 2, 3, 4}, 12), Tokens({5, 1, 2, 3, 4, 5, 1, 2}));
}

TEST(NgramDrafter, TrustsNoFurtherThanTwiceTheMatch) {
  const Tokens tokens = {1, 2, 10, 11, 12, 13, 14, 15, 16, 1, 2};
  EXPECT_EQ(propose_once(tokens), Tokens({10, 11, 12, 13}));
  EXPECT_EQ(propose_once(tokens, 3), Tokens({10, 11, 12}));
}

TEST(NgramDrafter, EndsWherePlacesDisagree) {
  // Eight places agree on 3 and go on with eight tokens: the newest has one vote of eight.
  Tokens tokens;
  for (int i = 0; i < 8; ++i) tokens.insert(tokens.end(), {100 + i, 1, 2, 3, 200 + i});
  tokens.insert(tokens.end(), {99, 1, 2});
  EXPECT_EQ(propose_once(tokens), Tokens({3}));
}

TEST(NgramDrafter, StepByStepIsAsFromScratch) {
  std::mt19937 random(5);
  NgramDrafter drafter(options());
  for (int text = 0; text < 4; ++text) {  // the slot is opened anew for each
    const Tokens all = random_tokens(random, 700, 5 + 10 * text);
    drafter.open(3, kSalt);
    for (size_t known = 1 + random() % 9; known <= all.size(); known += 1 + random() % 9) {
      const Tokens tokens(all.begin(), all.begin() + static_cast<ptrdiff_t>(known));
      ASSERT_EQ(propose(drafter, tokens, kMostDrafts, 3), propose_once(tokens)) << text << " " << known;
    }
    if (text % 2 == 0) drafter.close(3, all, 10);
  }
}

TEST(NgramDrafter, AReopenedSlotKnowsNothing) {
  NgramDrafter drafter(options());
  drafter.open(0, kSalt);
  EXPECT_EQ(propose(drafter, {1, 2, 3, 1, 2}, 1), Tokens({3}));
  drafter.close(0, Tokens{1, 2, 3, 1, 2}, 1);
  drafter.open(0, kSalt);
  EXPECT_EQ(propose(drafter, {8, 9, 9, 8, 1, 2}), Tokens());
  // and not even closed, as after a failure
  drafter.open(0, kSalt);
  EXPECT_EQ(propose(drafter, {3, 1, 2}), Tokens());
  // Slots are apart.
  drafter.open(5, kSalt);
  EXPECT_EQ(propose(drafter, {1, 2, 3, 1, 2}, 1, 5), Tokens({3}));
  EXPECT_EQ(propose(drafter, {3, 1, 2, 7}), Tokens());
}

TEST(NgramDrafter, NeverProposesWhatIsNoToken) {
  EXPECT_EQ(propose_once({1, 2, 3, -1, 4, 1, 2}), Tokens({3}));
  EXPECT_EQ(propose_once({1, 2, -1, 4, 1, 2}), Tokens());
  // Places of an image, though their ids look like tokens.
  MediaPrompt media;
  media.spans = {{.position = 0, .count = 1}, {.position = 3, .count = 2}, {.position = 20, .count = 5}};
  NgramDrafter drafter(options());
  drafter.open(0, kSalt);
  EXPECT_EQ(propose(drafter, {50, 1, 2, 50, 50, 3, 1, 2}, 8, 0, &media), Tokens());
  drafter.open(0, kSalt);
  EXPECT_EQ(propose(drafter, {1, 2, 9, 50, 50, 3, 1, 2}, 8, 0, &media), Tokens({9}));
  drafter.open(0, kSalt);
  EXPECT_EQ(propose(drafter, {50, 50, 50, 50, 50, 1, 2, 9, 8, 7, 1, 2}, 3, 0, &media), Tokens({9, 8, 7}));
}

TEST(NgramDrafter, AnswersOfTheSameSaltAreShared) {
  NgramDrafter drafter(options(2, 5, true), 4096);
  drafter.open(0, kSalt);
  drafter.close(0, Tokens{70, 71, 72, 1, 2, 3, 4, 5, 6}, 3);
  drafter.open(0, kSalt), drafter.open(1, kOtherSalt);
  EXPECT_EQ(propose(drafter, {9, 1, 2, 3}, 8, 0), Tokens({4, 5, 6}));  // as far as the answer goes
  EXPECT_EQ(propose(drafter, {9, 1, 2, 3}, 8, 1), Tokens());           // another salt's
  drafter.open(0, kSalt);
  EXPECT_EQ(propose(drafter, {9, 70, 71}, 8, 0), Tokens());  // the prompt is not shared
  drafter.open(0, kSalt);
  EXPECT_EQ(propose(drafter, {72, 1}, 8, 0), Tokens());  // nor does a match begin in it
  // The longer match wins, be it the sequence's own or another's; of equal ones its own.
  drafter.open(0, kSalt);
  EXPECT_EQ(propose(drafter, {2, 3, 60, 61, 1, 2, 3}, 1, 0), Tokens({4}));
  drafter.open(0, kSalt);
  EXPECT_EQ(propose(drafter, {1, 2, 3, 60, 61, 1, 2, 3}, 1, 0), Tokens({60}));

  NgramDrafter alone(options());
  alone.open(0, kSalt);
  alone.close(0, Tokens{70, 71, 72, 1, 2, 3, 4, 5, 6}, 3);
  alone.open(0, kSalt);
  EXPECT_EQ(propose(alone, {9, 1, 2, 3}), Tokens());  // not asked for
}

TEST(AnswerStore, KeepsTheNewestTokens) {
  constexpr int kTokens = 1024;
  AnswerStore store(2, 5, kTokens);
  const auto answer = [](int number) {
    Tokens tokens;
    for (int i = 0; i < 100; ++i) tokens.push_back(number * 1000 + i);
    return tokens;
  };
  // The store's ring goes round many times.
  for (int last = 0; last < 60; ++last) {
    store.add(last % 2 ? kSalt : kOtherSalt, answer(last));
    for (int number = 0; number <= last; ++number) {
      const Tokens text = {5, number * 1000 + 96, number * 1000 + 97};
      const auto& salt = number % 2 ? kSalt : kOtherSalt;
      const NgramIndex::Matches matches = store.find(salt, text);
      const bool kept = (last - number + 1) * 100 <= kTokens;
      ASSERT_EQ(matches.count, (last - number) * 100 < kTokens - 3 ? 1 : 0) << number << " of " << last;
      if (!kept || matches.count == 0) continue;
      EXPECT_EQ(matches.length, 2);
      EXPECT_EQ(store.token(matches.places[0], 0), number * 1000 + 98);
      EXPECT_EQ(store.token(matches.places[0], 1), number * 1000 + 99);
      EXPECT_EQ(store.token(matches.places[0], 2), -1);
      EXPECT_EQ(store.find(number % 2 ? kOtherSalt : kSalt, text).count, 0);
    }
  }
}

TEST(AnswerStore, TakesAnswersOfAnyLength) {
  std::mt19937 random(11);
  AnswerStore store(1, 8, 256);  // 8 answers
  for (int round = 0; round < 3000; ++round) {
    const Tokens answer = random_tokens(random, static_cast<int>(random() % (round % 50 == 0 ? 900 : 20)), 4);
    store.add(round % 3 ? kSalt : kOtherSalt, answer);
    const Tokens text = random_tokens(random, 12, 4);
    const NgramIndex::Matches matches = store.find(kSalt, text);
    for (int i = 0; i < matches.count; ++i) {
      ASSERT_GE(matches.length, 1);
      for (int k = 1; k <= matches.length; ++k) {
        ASSERT_EQ(store.token(matches.places[i], -k), text[text.size() - k]) << round;
      }
      ASSERT_GE(store.token(matches.places[i], 0), 0);
    }
  }
}

}  // namespace
}  // namespace weft
