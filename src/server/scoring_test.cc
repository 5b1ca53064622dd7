// Bodies and answers of the scoring calls. Probabilities are compared with the formulas in double precision.
#include "server/scoring.h"

#include <gtest/gtest.h>

#include <cmath>

namespace weft {
namespace {

Result<std::vector<Request>> read(const char* body, ScoringKind kind) {
  return read_scoring(parse_json(body).value(), kind);
}

TEST(Scoring, Inputs) {
  auto requests = read(R"({"input": "a"})", ScoringKind::classify);
  ASSERT_TRUE(requests.ok());
  EXPECT_EQ(requests->at(0).prompt, "a");
  requests = read(R"({"input": ["a", {"text": "b", "text_pair": "c"}, [1, 2]], "add_special_tokens": false})",
                  ScoringKind::classify);
  ASSERT_TRUE(requests.ok()) << requests.error().message();
  EXPECT_EQ(requests->at(1).text_pair, "c");
  EXPECT_EQ(requests->at(2).prompt_token_ids, (std::vector<int32_t>{1, 2}));
  EXPECT_FALSE(requests->at(0).add_special_tokens);
  EXPECT_EQ(read(R"({"input": [1, 2]})", ScoringKind::reward)->size(), 1u);
  EXPECT_TRUE(
      read(R"({"messages": [{"role": "user", "content": "a"}]})", ScoringKind::reward)->at(0).messages.has_value());
  requests = read(R"({"text_1": "q", "text_2": ["a", "b"]})", ScoringKind::score);
  EXPECT_EQ(requests->at(1).prompt, "q");
  EXPECT_EQ(requests->at(1).text_pair, "b");
  for (const char* body :
       {R"({})", R"({"input": []})", R"({"input": 5})", R"({"input": [{}]})", R"({"input": [[-1]]})"})
    EXPECT_FALSE(read(body, ScoringKind::classify).ok()) << body;
  for (const char* body : {R"({"text_1": "a"})", R"({"text_1": ["a", "b"], "text_2": "c"})",
                           R"({"text_1": [], "text_2": "c"})", R"({"text_1": "a", "text_2": [1]})"})
    EXPECT_FALSE(read(body, ScoringKind::score).ok()) << body;
}

// Every field is honoured or refused.
TEST(Scoring, Fields) {
  const auto refused = [](const char* body, ScoringKind kind) {
    const auto requests = read(body, kind);
    return requests.ok() ? std::string("accepted") : requests.error().param();
  };
  auto requests = read(R"({"model": "m", "user": "u", "input": ["a", "b"], "cache_salt": "s", "priority": 50,
                           "softmax": true, "truncate_prompt_tokens": null, "nonsense": null})",
                       ScoringKind::classify);
  ASSERT_TRUE(requests.ok()) << requests.error().message();
  EXPECT_EQ(requests->at(1).cache_salt, "s");
  EXPECT_EQ(requests->at(1).priority, 50);
  requests = read(R"({"messages": [{"role": "user", "content": "a"}], "add_generation_prompt": false})",
                  ScoringKind::classify);
  EXPECT_FALSE(requests->at(0).add_generation_prompt);
  EXPECT_EQ(refused(R"({"input": "a", "nonsense": 1})", ScoringKind::classify), "nonsense");
  EXPECT_EQ(refused(R"({"input": "a", "truncate_prompt_tokens": 5})", ScoringKind::classify), "truncate_prompt_tokens");
  EXPECT_EQ(refused(R"({"input": "a", "softmax": false})", ScoringKind::classify), "softmax");
  EXPECT_EQ(refused(R"({"input": "a", "use_activation": true})", ScoringKind::reward), "use_activation");
  EXPECT_EQ(refused(R"({"input": "a", "chat_template": "x"})", ScoringKind::classify), "chat_template");
  EXPECT_EQ(refused(R"({"input": "a", "messages": []})", ScoringKind::classify), "input");
  EXPECT_EQ(refused(R"({"input": [{"text": "a", "pair": "b"}]})", ScoringKind::classify), "input[0]");
  EXPECT_EQ(refused(R"({"text_1": "a", "text_2": "b", "input": "c"})", ScoringKind::score), "input");
}

TEST(Scoring, Items) {
  ModelInfo info;
  info.labels = {"no", "yes"};
  ScoreResult result;
  result.tensors["logits"] = {{2}, std::vector<float>{1.0f, 3.0f}};
  const double yes = std::exp(3.0) / (std::exp(1.0) + std::exp(3.0));
  auto item = scoring_item(ScoringKind::classify, 4, result, info);
  EXPECT_EQ(item->find("index")->as_integer(), 4);
  EXPECT_EQ(item->find("label")->as_string(), "yes");
  EXPECT_DOUBLE_EQ(item->find("probs")->items()[1].as_number(), yes);
  EXPECT_DOUBLE_EQ(scoring_item(ScoringKind::score, 0, result, info)->find("score")->as_number(), yes);
  result.tensors["logits"] = {{1}, std::vector<float>{0.5f}};
  EXPECT_DOUBLE_EQ(scoring_item(ScoringKind::score, 0, result, info)->find("score")->as_number(),
                   1 / (1 + std::exp(-0.5)));
  EXPECT_FALSE(scoring_item(ScoringKind::reward, 0, result, info).ok());
  result.tensors["reward"] = {{1}, std::vector<float>{-2.5f}};
  result.tensors["step_probs"] = {{2}, std::vector<float>{0.25f, 0.5f}};
  item = scoring_item(ScoringKind::reward, 0, result, info);
  EXPECT_EQ(item->find("score")->as_number(), -2.5);
  EXPECT_EQ(item->find("step_probs")->dump(), "[0.25,0.5]");
  result.tensors["logits"] = {{3, 2}, std::vector<float>(6)};
  EXPECT_FALSE(scoring_item(ScoringKind::classify, 0, result, info).ok());
}

}  // namespace
}  // namespace weft
