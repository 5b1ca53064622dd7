// Every limit of a request: what is just within is taken, what is beyond is refused with the amount, the limit and its
// option in the message.
#include "api/limits.h"

#include <gtest/gtest.h>

#include <set>

#include "api/request_json.h"

namespace weft {
namespace {

RequestRules rules_with(int64_t RequestLimits::*limit, int64_t value) {
  RequestRules rules;
  rules.chat_template = true;
  rules.encode = [](const std::string& text) -> Result<std::vector<int32_t>> {
    return std::vector<int32_t>(text.begin(), text.end());
  };
  rules.limits.*limit = value;
  return rules;
}

struct Row {
  int64_t RequestLimits::*limit;
  int64_t value;  // of the limit
  const char* within;
  const char* beyond;
  Code code;
  const char* param;
  RequestKind kind = RequestKind::completion;
};

const Row kRows[] = {
    {&RequestLimits::prompts, 2, R"({"prompt":["a","b"]})", R"({"prompt":["a","b","c"]})", Code::invalid_argument,
     "prompt"},
    {&RequestLimits::choices, 3, R"({"prompt":"a","n":3})", R"({"prompt":"a","n":4})", Code::invalid_argument, "n"},
    {&RequestLimits::choices, 3, R"({"prompt":"a","use_beam_search":true,"n":1,"beam_width":3})",
     R"({"prompt":"a","use_beam_search":true,"n":1,"beam_width":4})", Code::invalid_argument, "beam_width"},
    {&RequestLimits::sequences, 6, R"({"prompt":["a","b"],"n":3})", R"({"prompt":["a","b"],"n":4})",
     Code::invalid_argument, "n"},
    {&RequestLimits::prompt_bytes, 10, R"({"prompt":["abcde","fghij"]})", R"({"prompt":["abcde","fghijk"]})",
     Code::too_large, "prompt"},
    {&RequestLimits::prompt_tokens, 6, R"({"prompt":[1,2,3],"n":2})", R"({"prompt":[1,2,3,4],"n":2})", Code::too_large,
     "prompt_token_ids"},
    {&RequestLimits::list_items, 2, R"({"prompt":"a","allowed_token_ids":[1,2]})",
     R"({"prompt":"a","allowed_token_ids":[1,2,3]})", Code::invalid_argument, "allowed_token_ids"},
    {&RequestLimits::list_items, 2, R"({"prompt":"a","stop_token_ids":[1,2]})",
     R"({"prompt":"a","stop_token_ids":[1,2,3]})", Code::invalid_argument, "stop_token_ids"},
    {&RequestLimits::list_items, 2, R"({"prompt":"a","bad_token_ids":[1,2]})",
     R"({"prompt":"a","bad_token_ids":[1,2,3]})", Code::invalid_argument, "bad_token_ids"},
    {&RequestLimits::list_items, 2, R"({"prompt":"a","logit_bias":{"1":1,"2":1}})",
     R"({"prompt":"a","logit_bias":{"1":1,"2":1,"3":1}})", Code::invalid_argument, "logit_bias"},
    {&RequestLimits::bad_words, 2, R"({"prompt":"a","bad_words":["x","y"]})",
     R"({"prompt":"a","bad_words":["x","y","z"]})", Code::invalid_argument, "bad_words"},
    {&RequestLimits::bad_word_bytes, 4, R"({"prompt":"a","bad_words":["xx","yy"]})",
     R"({"prompt":"a","bad_words":["xx","yyy"]})", Code::invalid_argument, "bad_words"},
    {&RequestLimits::stop_strings, 2, R"({"prompt":"a","stop":["x","y"]})", R"({"prompt":"a","stop":["x","y","z"]})",
     Code::invalid_argument, "stop"},
    {&RequestLimits::stop_bytes, 4, R"({"prompt":"a","stop":["xx","yy"]})", R"({"prompt":"a","stop":["xx","yyy"]})",
     Code::invalid_argument, "stop"},
    {&RequestLimits::guide_bytes, 5, R"({"prompt":"a","guided_regex":"[a-z]"})",
     R"({"prompt":"a","guided_regex":"[a-z]+"})", Code::invalid_argument, "response_format"},
    {&RequestLimits::template_bytes, 3, R"({"messages":[{"role":"user","content":"a"}],"chat_template":"abc"})",
     R"({"messages":[{"role":"user","content":"a"}],"chat_template":"abcd"})", Code::invalid_argument, "chat_template",
     RequestKind::chat},
    {&RequestLimits::answer_bytes, 100'000, R"({"prompt":"a","logprobs":5,"max_tokens":100})",
     R"({"prompt":"a","logprobs":5,"max_tokens":10000})", Code::too_large, "max_tokens"},
    {&RequestLimits::request_bytes, 100'000, R"({"prompt":["a","b"]})",
     R"({"prompt":[0,0,0,0,0,0,0,0,0,0],"n":1,"stop":"PLACEHOLDER"})", Code::too_large, "prompt_token_ids"},
};

TEST(RequestLimits, WithinAndBeyond) {
  for (Row row : kRows) {
    std::string beyond = row.beyond;
    if (const size_t at = beyond.find("PLACEHOLDER"); at != std::string::npos)
      beyond.replace(at, 11, std::string(2000, 'x'));
    const RequestRules rules = rules_with(row.limit, row.value);
    const auto taken = parse_request(parse_json(row.within).value(), row.kind, rules);
    EXPECT_TRUE(taken.ok()) << row.within << ": " << (taken.ok() ? "" : taken.error().message());
    const auto refused = parse_request(parse_json(beyond).value(), row.kind, rules);
    ASSERT_FALSE(refused.ok()) << row.beyond;
    EXPECT_EQ(refused.error().code(), row.code) << row.beyond;
    EXPECT_EQ(refused.error().param(), row.param) << refused.error().message();
    EXPECT_NE(refused.error().message().find(std::to_string(row.value)), std::string::npos)
        << refused.error().message();
    EXPECT_NE(refused.error().message().find("(--max-"), std::string::npos) << refused.error().message();
    // No limit: the same is taken.
    EXPECT_TRUE(parse_request(parse_json(beyond).value(), row.kind, rules_with(row.limit, 0)).ok()) << row.beyond;
  }
}

// A stream's logprobs are sent away, so nothing is kept.
TEST(RequestLimits, AnswersThatAreStreamedAreNotKept) {
  const RequestRules rules = rules_with(&RequestLimits::answer_bytes, 100'000);
  EXPECT_TRUE(parse_request(parse_json(R"({"prompt":"a","logprobs":5,"max_tokens":10000,"stream":true})").value(),
                            RequestKind::completion, rules)
                  .ok());
}

// Those that the parser checks; the two of the engine and the one of the JSON reader have tests of their own.
TEST(RequestLimits, AllAreTried) {
  std::set<std::string> tried = {"--max-logits", "--max-json-memory"};
  for (const Row& row : kRows)
    for (const RequestLimit& limit : request_limits())
      if (limit.member == row.limit) tried.insert(limit.flag);
  for (const RequestLimit& limit : request_limits()) EXPECT_TRUE(tried.contains(limit.flag)) << limit.flag;
}

TEST(RequestLimits, MemoryOfACall) {
  const auto of = [](const std::string& body) {
    return memory_of(
        *parse_request(parse_json(body).value(), RequestKind::completion, rules_with(&RequestLimits::choices, 0)));
  };
  const int64_t one = of(R"({"prompt":"abcd"})");
  EXPECT_GT(of(R"({"prompt":["abcd","abcd","abcd","abcd"]})"), 3 * one);
  EXPECT_GE(of(R"({"prompt":"abcd","stop":")" + std::string(1000, 'x') + "\"}"), one + 64 * 1000);
  EXPECT_GE(of(R"({"prompt":")" + std::string(1000, 'x') + R"(","n":100})"), 8 * 1000 * 100);
}

}  // namespace
}  // namespace weft
