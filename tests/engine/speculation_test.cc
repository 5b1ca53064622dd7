// Speculation through the library's front door, with drafters that know the answer: how many tokens a step brings, and
// where answers end inside of what was accepted. That no drafter changes an answer is tests/equivalence's to show.
#include <gtest/gtest.h>

#include <algorithm>

#include "support/answers.h"
#include "support/reference_case.h"
#include "support/scripted_drafter.h"

namespace weft::testing {
namespace {

constexpr int kDrafts = 4;

class Speculation : public ::testing::Test {
 protected:
  void SetUp() override {
    auto reference = read_reference_case("llama-3.1");
    ASSERT_TRUE(reference.ok()) << reference.error().to_string();
    folder_ = reference->folder;
    request_.prompt_token_ids = reference->prompts[0].input_ids;
    request_.max_tokens = 1 + 4 * (kDrafts + 1);
    request_.sampling.temperature = 0, request_.sampling.ignore_eos = true;
    options_.dtype = ComputeType::float32, options_.threads = 1, options_.kv_cache_memory = int64_t{16} << 20;
    plain_ = load_and_ask(options_, request_);
    ASSERT_EQ(plain_.error, "");
  }

  Answer load_and_ask(const EngineOptions& options, const Request& request) {
    auto engine = Engine::load(folder_, options);
    if (!engine.ok()) return {.error = engine.error().to_string()};
    Answer answer = ask(**engine, request);
    metrics_ = (*engine)->metrics().core.scheduler;
    return answer;
  }

  // The engine's options with a drafter whose tokens are right with this probability.
  EngineOptions drafting(double right) const {
    std::vector<int32_t> tokens = *request_.prompt_token_ids;
    const std::vector<int32_t> ids = plain_.choices[0].ids();
    tokens.insert(tokens.end(), ids.begin(), ids.end());
    auto drafter = std::make_shared<ScriptedDrafter>(right, 1, 512);
    drafter->record(tokens);
    EngineOptions options = options_;
    options.drafter = drafter, options.speculation.num_tokens = kDrafts;
    return options;
  }

  std::string folder_;
  Request request_;
  EngineOptions options_;
  Answer plain_;
  SchedulerMetrics metrics_;
};

TEST_F(Speculation, RightDraftsBringOneTokenMoreThanTheyAre) {
  for (const bool overlap : {false, true}) {
    SCOPED_TRACE(overlap);
    EngineOptions options = drafting(1);
    options.overlap_scheduler = overlap;
    const Answer answer = load_and_ask(options, request_);
    EXPECT_EQ(answer.exact_text(), plain_.exact_text());
    EXPECT_EQ(metrics_.draft_rounds, 4u);
    EXPECT_EQ(answer.usage.draft_tokens, 4 * kDrafts);
    EXPECT_EQ(answer.usage.accepted_tokens, 4 * kDrafts);
    for (int i = 0; i < kDrafts; ++i) {
      EXPECT_EQ(metrics_.drafted[i], 4u);
      EXPECT_EQ(metrics_.accepted[i], 4u);
    }
    EXPECT_EQ(metrics_.drafted[kDrafts], 0u);
  }
}

TEST_F(Speculation, WrongDraftsCostStepsOnly) {
  const Answer answer = load_and_ask(drafting(0), request_);
  EXPECT_EQ(answer.exact_text(), plain_.exact_text());
  EXPECT_EQ(answer.usage.accepted_tokens, 0);
  EXPECT_EQ(metrics_.draft_rounds, 4u * (kDrafts + 1));
}

// At each place of an accepted run, by a stop token and by the length.
TEST_F(Speculation, AnswersEndInsideOfAnAcceptedRun) {
  const std::vector<int32_t> ids = plain_.choices[0].ids();
  for (size_t end = 1; end < ids.size(); ++end) {
    SCOPED_TRACE(end);
    Request shorter = request_;
    shorter.max_tokens = static_cast<int>(end);
    const Answer cut = load_and_ask(drafting(1), shorter);
    EXPECT_EQ(cut.choices[0].ids(), std::vector<int32_t>(ids.begin(), ids.begin() + static_cast<ptrdiff_t>(end)));
    EXPECT_EQ(cut.usage.completion_tokens, static_cast<int>(end));
    EXPECT_LT(cut.usage.accepted_tokens, static_cast<int>(end));
    Request stopped = request_;
    stopped.sampling.stop_token_ids = {ids[end]};
    const Answer with = load_and_ask(drafting(1), stopped), without = load_and_ask(options_, stopped);
    EXPECT_EQ(with.exact_text(), without.exact_text());
    EXPECT_EQ(with.usage.completion_tokens, without.usage.completion_tokens);
  }
}

TEST_F(Speculation, ARequestLimitsItsDrafts) {
  request_.sampling.max_draft_tokens = 0;
  EXPECT_EQ(load_and_ask(drafting(1), request_).exact_text(), plain_.exact_text());
  EXPECT_EQ(metrics_.draft_rounds, 0u);
  request_.sampling.max_draft_tokens = 2;
  EXPECT_EQ(load_and_ask(drafting(1), request_).exact_text(), plain_.exact_text());
  EXPECT_GT(metrics_.drafted[1], 0u);
  EXPECT_EQ(metrics_.drafted[2], 0u);
}

TEST_F(Speculation, BeamsGoWithout) {
  request_.beams = BeamSpec{.width = 2};
  const Answer plain = load_and_ask(options_, request_), with = load_and_ask(drafting(1), request_);
  EXPECT_EQ(with.error, "");
  EXPECT_EQ(with.exact_text(), plain.exact_text());
  EXPECT_EQ(metrics_.draft_rounds, 0u);
}

// A model that drafts for itself is always right, with a prefix from the cache too, as long as its own keys come along.
TEST_F(Speculation, ACachedPrefixServesTargetAndDraftAlike) {
  EngineOptions options = options_;
  options.tokens_per_block = 16;
  options.speculation = {.method = DraftMethod::draft_model, .model = folder_, .num_tokens = kDrafts};
  auto engine = Engine::load(folder_, options);
  ASSERT_TRUE(engine.ok()) << engine.error().to_string();
  std::vector<int32_t>& prompt = *request_.prompt_token_ids;
  const Answer cold = ask(**engine, request_), whole = ask(**engine, request_);
  prompt.resize(prompt.size() - 7);  // ends inside of a cached block
  const Answer part = ask(**engine, request_);
  EXPECT_EQ(cold.usage.cached_tokens, 0);
  EXPECT_EQ(whole.usage.cached_tokens, static_cast<int>(prompt.size()) + 7 - 1);
  EXPECT_EQ(part.usage.cached_tokens, static_cast<int>(prompt.size()) - 1);
  for (const Answer* answer : {&cold, &whole, &part}) {
    EXPECT_EQ(answer->error, "");
    EXPECT_EQ(answer->usage.draft_tokens, 4 * kDrafts);
    EXPECT_EQ(answer->usage.accepted_tokens, 4 * kDrafts);
  }
  EXPECT_EQ(whole.exact_text(), cold.exact_text());
  EXPECT_NE((*engine)->plan_text().find("\nthe draft " + folder_ + "\n"), std::string::npos) << "as `weft plan` has it";
}

// The last piece of a prompt may be one token, which is no step of an answer.
TEST_F(Speculation, ScoresDraftNothing) {
  EngineOptions options = options_;
  options.speculation = {.method = DraftMethod::ngram};
  const auto plain = Engine::load(folder_, options_);
  ASSERT_TRUE(plain.ok()) << plain.error().to_string();
  const int tokens = static_cast<int>(request_.prompt_token_ids->size());
  for (const int most : {tokens - 1, tokens / 2, 1}) {
    for (const DraftMethod method : {DraftMethod::ngram, DraftMethod::draft_model}) {
      options.max_num_tokens = options.chunked_prefill_size = most;
      options.max_batch_size = std::min(most, 4);
      options.speculation.method = method;
      options.speculation.model = method == DraftMethod::draft_model ? folder_ : "";
      options.draft_scores = true;
      const auto engine = Engine::load(folder_, options);
      ASSERT_TRUE(engine.ok()) << engine.error().to_string();
      const auto want = std::move(score(**plain, {request_})[0]), got = std::move(score(**engine, {request_})[0]);
      ASSERT_TRUE(got.ok()) << got.error().to_string();
      const auto& logits = std::get<std::vector<float>>(want->tensors.at("logits").data);
      EXPECT_EQ(std::get<std::vector<float>>(got->tensors.at("logits").data), logits) << most;
      if (method == DraftMethod::ngram) continue;
      EXPECT_EQ(std::get<std::vector<float>>(got->tensors.at("draft_logits").data), logits) << most;
    }
  }
}

// Ids that the model does not have end the drafts.
TEST_F(Speculation, ADrafterMayProposeAnything) {
  class Wild : public Drafter {
   public:
    void propose(const DraftContext&, int most, std::vector<int32_t>& drafts) override {
      drafts.push_back(7);
      drafts.push_back(++calls_ % 2 == 0 ? -1 : 1 << 30);
      drafts.insert(drafts.end(), static_cast<size_t>(most) + 5, 3);
    }

   private:
    int calls_ = 0;
  };
  EngineOptions options = options_;
  options.drafter = std::make_shared<Wild>(), options.speculation.num_tokens = kDrafts;
  EXPECT_EQ(load_and_ask(options, request_).exact_text(), plain_.exact_text());
  EXPECT_GT(metrics_.drafted[0], 0u);
  EXPECT_EQ(metrics_.drafted[1], 0u);
}

}  // namespace
}  // namespace weft::testing
