// Real models against greedy continuations computed with transformers on the same (dequantised) weights. The weights
// are too large for the repository: scripts/fetch-weights brings them, and without them these tests are skipped.
#include <gtest/gtest.h>

#include <cmath>

#include "base/files.h"
#include "support/answers.h"
#include "support/reference_case.h"

namespace weft::testing {
namespace {

constexpr double kTieGap = 1e-3;

struct RealModel {
  const char* name;
  const char* weights;    // in weights/
  const char* reference;  // in tests/data/real/
};

class RealWeights : public ::testing::TestWithParam<RealModel> {
 protected:
  static std::string weights() { return std::string(WEFT_SOURCE_DIR) + "/weights/" + GetParam().weights; }
};

std::vector<int32_t> ids_of(const Json& list) {
  std::vector<int32_t> ids;
  for (const Json& item : list.items()) ids.push_back(static_cast<int32_t>(item.as_integer()));
  return ids;
}

void check_prompt(Engine& engine, const Json& want) {
  SCOPED_TRACE(want.find("name")->as_string());
  Request request;
  if (const Json* messages = want.find("messages")) {
    request.messages = *messages;
    const auto rendered = engine.render_chat(request);
    ASSERT_TRUE(rendered.ok()) << rendered.error().to_string();
    EXPECT_EQ(*rendered, want.find("rendered")->as_string());
  } else {
    request.prompt = want.find("prompt")->as_string();
  }
  const auto prompt = engine.prompt_tokens(request);
  ASSERT_TRUE(prompt.ok()) << prompt.error().to_string();
  EXPECT_EQ(*prompt, ids_of(*want.find("prompt_token_ids")));

  const std::vector<int32_t> greedy = ids_of(*want.find("greedy"));
  request.max_tokens = static_cast<int>(greedy.size());
  request.sampling.temperature = 0, request.sampling.ignore_eos = true, request.sampling.logprobs = 5;
  request.skip_special_tokens = false;
  const Answer answer = ask(engine, request);
  ASSERT_EQ(answer.error, "");
  const std::vector<int32_t> got = answer.choices.at(0).ids();
  ASSERT_EQ(got.size(), greedy.size());
  const Json::Array& gaps = want.find("gap")->items();
  for (size_t t = 0; t < got.size() && (got[t] == greedy[t] || gaps[t].as_number() > kTieGap); ++t)
    ASSERT_EQ(got[t], greedy[t]) << "token " << t;
  if (got == greedy) {
    EXPECT_EQ(answer.choices[0].text, want.find("text")->as_string());
  }

  const Json::Array& best = want.find("first_top5_logprobs")->items();
  const std::vector<TokenLogprob>& top = answer.choices[0].tokens.at(0).top;
  ASSERT_EQ(top.size(), best.size());
  for (size_t i = 0; i < best.size(); ++i) {
    EXPECT_EQ(top[i].token, best[i].items()[0].as_integer());
    EXPECT_NEAR(top[i].logprob, best[i].items()[1].as_number(), 1e-3);
  }
}

TEST_P(RealWeights, Greedy) {
  if (!is_file(weights()))
    GTEST_SKIP() << "no weights/" << GetParam().weights << "; scripts/fetch-weights --all fetches it";
  const auto reference = read_json_file(test_data(std::string("real/") + GetParam().reference));
  ASSERT_TRUE(reference.ok()) << reference.error().to_string();
  EngineOptions options;
  options.dtype = ComputeType::float32;
  options.max_seq_len = 1024;
  auto engine = Engine::load(weights(), options);
  ASSERT_TRUE(engine.ok()) << engine.error().to_string();
  for (const Json& prompt : reference->find("prompts")->items()) check_prompt(**engine, prompt);
}

INSTANTIATE_TEST_SUITE_P(, RealWeights,
                         ::testing::Values(RealModel{"SmolLM2", "SmolLM2-135M-Instruct.Q4_1.gguf",
                                                     "smollm2-135m-instruct.json"},
                                           RealModel{"Gemma3", "gemma-3-270m.Q4_K_M.gguf", "gemma-3-270m.json"}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace weft::testing
