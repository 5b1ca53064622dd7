// Usage over HTTP: the numbers of speculation are there where the server speculates, and nowhere else.
#include "server/answer_json.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

TEST(UsageJson, WithAndWithoutSpeculation) {
  Usage usage{.prompt_tokens = 5, .completion_tokens = 9, .cached_tokens = 2, .draft_tokens = 8, .accepted_tokens = 6};
  const std::string plain =
      R"("prompt_tokens":5,"completion_tokens":9,"total_tokens":14,"prompt_tokens_details":{"cached_tokens":2})";
  EXPECT_EQ(usage_json(usage, false).dump(), "{" + plain + "}");
  EXPECT_EQ(usage_json(usage, true).dump(),
            "{" + plain + R"(,"draft_tokens":8,"accepted_tokens":6,"completion_tokens_details":)" +
                R"({"accepted_prediction_tokens":6,"rejected_prediction_tokens":2}})");
  usage.draft_tokens = usage.accepted_tokens = 0, usage.reasoning_tokens = 3;
  EXPECT_EQ(usage_json(usage, false).dump(), "{" + plain + R"(,"completion_tokens_details":{"reasoning_tokens":3}})");
  EXPECT_EQ(usage_json(usage, true).find("completion_tokens_details")->dump(),
            R"({"reasoning_tokens":3,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0})");
}

}  // namespace
}  // namespace weft
