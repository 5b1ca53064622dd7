// Logits that come with an answer, against the reference checkpoints, and ranks of prompt tokens against those logits.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "support/answers.h"
#include "support/reference_case.h"

namespace weft::testing {
namespace {

class ReturnedLogits : public ::testing::Test {
 protected:
  void SetUp() override {
    auto reference = read_reference_case("llama-3.1");
    ASSERT_TRUE(reference.ok());
    reference_ = std::move(reference).value();
    EngineOptions o;
    o.dtype = ComputeType::float32, o.threads = 1, o.kv_cache_memory = int64_t{64} << 20, o.max_num_tokens = 50,
    o.tokens_per_block = 16;
    auto engine = Engine::load(reference_.folder, o);
    ASSERT_TRUE(engine.ok()) << engine.error().to_string();
    engine_ = std::move(engine).value();
    vocab_ = static_cast<size_t>(engine_->info().vocab_size);
  }
  Request request(const ReferencePrompt& prompt) const {
    Request r;
    r.prompt_token_ids = prompt.input_ids, r.max_tokens = 12, r.sampling.temperature = 0, r.sampling.ignore_eos = true;
    r.sampling.context_logits = r.sampling.generation_logits = true;
    return r;
  }
  ReferenceCase reference_;
  std::unique_ptr<Engine> engine_;
  size_t vocab_ = 0;
};

TEST_F(ReturnedLogits, AreThoseOfTheReference) {
  std::vector<Request> requests;
  for (const ReferencePrompt& prompt : reference_.prompts) requests.push_back(request(prompt));
  for (int round = 0; round < 2; ++round) {  // the second time from the cache
    const std::vector<Answer> answers = ask(*engine_, requests);
    for (size_t p = 0; p < requests.size(); ++p) {
      const ReferencePrompt& prompt = reference_.prompts[p];
      SCOPED_TRACE(prompt.name);
      ASSERT_EQ(answers[p].error, "");
      const std::vector<float>& want = prompt.outputs.at("logits").values;
      ASSERT_EQ(answers[p].prompt_logits.size(), prompt.input_ids.size() * vocab_);
      ASSERT_EQ(want.size(), prompt.rows.size() * vocab_);  // the reference keeps some rows
      double worst = 0;
      for (size_t row = 0; row < prompt.rows.size(); ++row)
        for (size_t i = 0; i < vocab_; ++i) {
          const float got = answers[p].prompt_logits[static_cast<size_t>(prompt.rows[row]) * vocab_ + i];
          worst = std::max(worst, std::abs(static_cast<double>(want[row * vocab_ + i]) - got));
        }
      EXPECT_LT(worst, 1e-3);
      const Choice& choice = answers[p].choices[0];
      ASSERT_EQ(choice.logits.size(), 12 * vocab_);
      // The first generated token comes from the prompt's last row, and each is the best of its row.
      EXPECT_TRUE(std::equal(choice.logits.begin(), choice.logits.begin() + static_cast<ptrdiff_t>(vocab_),
                             answers[p].prompt_logits.end() - static_cast<ptrdiff_t>(vocab_)));
      for (size_t t = 0; t < 12; ++t) {
        const auto row = choice.logits.begin() + static_cast<ptrdiff_t>(t * vocab_);
        EXPECT_EQ(std::max_element(row, row + static_cast<ptrdiff_t>(vocab_)) - row, choice.tokens[t].token);
        EXPECT_EQ(choice.tokens[t].token, prompt.greedy[t]);
      }
    }
  }
}

TEST_F(ReturnedLogits, OfSeveralChoices) {
  Request r = request(reference_.prompts[0]);
  r.sampling.temperature = 1, r.seed = 3, r.n = 3, r.sampling.prompt_logprobs = 1;
  const Answer answer = ask(*engine_, r);
  ASSERT_EQ(answer.error, "");
  EXPECT_EQ(answer.prompt_logits.size(), r.prompt_token_ids->size() * vocab_);
  for (size_t i = 1; i < answer.prompt.size(); ++i) EXPECT_TRUE(answer.prompt[i].logprob.has_value()) << i;
  for (const Choice& choice : answer.choices) EXPECT_EQ(choice.logits.size(), choice.tokens.size() * vocab_);
}

TEST_F(ReturnedLogits, TooManyAreRefused) {
  Request r = request(reference_.prompts[0]);
  r.max_tokens = 200, r.n = 128;
  EXPECT_TRUE(engine_->submit(r, [](const Event&) {}).ok());
  r.max_tokens.reset();  // to the end of the context
  r.n = 4096;
  auto id = engine_->submit(r, [](const Event&) {});
  ASSERT_FALSE(id.ok());
  EXPECT_EQ(id.error().param(), "return_generation_logits");
}

// rank: 1 + the number of tokens with a larger logit, or an equal one and a lower id.
TEST_F(ReturnedLogits, RanksOfPromptTokens) {
  for (const ReferencePrompt& prompt : reference_.prompts) {
    Request r = request(prompt);
    r.sampling.prompt_logprobs = 3, r.sampling.logprobs = 2, r.sampling.temperature = 1.5f, r.seed = 1;
    const Answer answer = ask(*engine_, r);
    ASSERT_EQ(answer.error, "");
    const auto rank_in = [&](const std::vector<float>& logits, size_t row, int32_t token) {
      const float* values = logits.data() + row * vocab_;
      int before = 0;
      for (size_t i = 0; i < vocab_; ++i)
        before += values[i] > values[token] || (values[i] == values[token] && static_cast<int32_t>(i) < token);
      return before + 1;
    };
    EXPECT_EQ(answer.prompt[0].rank, 0);
    for (size_t i = 1; i < answer.prompt.size(); ++i) {
      EXPECT_EQ(answer.prompt[i].rank, rank_in(answer.prompt_logits, i - 1, answer.prompt[i].token)) << i;
      for (size_t k = 0; k < 3; ++k) EXPECT_EQ(answer.prompt[i].top[k].rank, static_cast<int>(k) + 1);
    }
    const Choice& choice = answer.choices[0];
    for (size_t i = 0; i < choice.tokens.size(); ++i)
      EXPECT_EQ(choice.tokens[i].rank, rank_in(choice.logits, i, choice.tokens[i].token));
  }
}

}  // namespace
}  // namespace weft::testing
