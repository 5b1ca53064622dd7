// Beam search on whole checkpoints: the answers and scores of transformers' generate() (tests/data/beams.json), and
// that beams behave like every other request: no leak, cancellable, untouched by what runs beside them.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <functional>
#include <set>
#include <thread>

#include "base/json.h"
#include "support/answers.h"
#include "support/reference_case.h"

namespace weft::testing {
namespace {

using Ids = std::vector<int32_t>;

Ids ids_of(const Json& list) {
  Ids ids;
  for (const Json& id : list.items()) ids.push_back(static_cast<int32_t>(id.as_integer()));
  return ids;
}

std::unique_ptr<Engine> load(const std::string& folder, const std::function<void(EngineOptions&)>& change = {}) {
  EngineOptions o;
  o.dtype = ComputeType::float32, o.kv_cache_memory = int64_t{64} << 20, o.tokens_per_block = 16, o.threads = 1;
  if (change) change(o);
  auto engine = Engine::load(folder, o);
  EXPECT_TRUE(engine.ok()) << (engine.ok() ? "" : engine.error().to_string());
  return std::move(engine).value();
}

Request request_of(const Json& c, const ReferenceCase& reference) {
  Request r;
  for (const ReferencePrompt& prompt : reference.prompts)
    if (prompt.name == c.find("prompt")->as_string()) r.prompt_token_ids = prompt.input_ids;
  r.max_tokens = static_cast<int>(c.find("max_tokens")->as_integer());
  r.n = static_cast<int>(c.find("num_return_sequences")->as_integer());
  r.sampling.ignore_eos = true;
  r.sampling.stop_token_ids = ids_of(*c.find("ends"));
  r.sampling.logprobs = 2;
  if (const Json* value = c.find("repetition_penalty"))
    r.sampling.repetition_penalty = static_cast<float>(value->as_number());
  if (const Json* value = c.find("no_repeat_ngram_size"))
    r.sampling.no_repeat_ngram_size = static_cast<int>(value->as_integer());
  if (const Json* value = c.find("min_new_tokens")) r.sampling.min_tokens = static_cast<int>(value->as_integer());
  if (const Json* value = c.find("bad_words_ids"))
    for (const Json& word : value->items()) r.sampling.bad_words.push_back(ids_of(word));
  const Json& early = *c.find("early_stopping");
  r.beams = BeamSpec{static_cast<int>(c.find("num_beams")->as_integer()),
                     static_cast<float>(c.find("length_penalty")->as_number()),
                     early.is_string() ? EarlyStopping::never
                     : early.as_bool() ? EarlyStopping::yes
                                       : EarlyStopping::no};
  return r;
}

double score_of(const Choice& choice, float length_penalty) {
  double sum = 0;
  for (const TokenInfo& token : choice.tokens) sum += *token.logprob;
  return sum / std::pow(static_cast<double>(choice.tokens.size()), static_cast<double>(length_penalty));
}

TEST(BeamSearch, AgreesWithTransformers) {
  const auto file = read_json_file(test_data("beams.json"));
  ASSERT_TRUE(file.ok()) << file.error().to_string();
  size_t cases = 0;
  for (const char* model : {"llama-3.1", "qwen2-swa"}) {
    const auto reference = read_reference_case(model);
    ASSERT_TRUE(reference.ok());
    const auto engine = load(reference->folder);
    std::vector<Request> requests;
    std::vector<const Json*> wanted;
    for (const Json& c : file->find("cases")->items()) {
      if (c.find("model")->as_string() != model) continue;
      requests.push_back(request_of(c, *reference));
      wanted.push_back(&c);
    }
    const std::vector<Answer> answers = ask(*engine, requests);  // all at once
    for (size_t i = 0; i < requests.size(); ++i, ++cases) {
      SCOPED_TRACE(wanted[i]->dump());
      ASSERT_EQ(answers[i].error, "");
      const Json::Array& want = wanted[i]->find("answers")->items();
      ASSERT_EQ(answers[i].choices.size(), want.size());
      for (size_t n = 0; n < want.size(); ++n) {
        const Choice& got = answers[i].choices[n];
        EXPECT_EQ(got.ids(), ids_of(want[n])) << "answer " << n;
        EXPECT_NEAR(score_of(got, requests[i].beams->length_penalty), wanted[i]->find("scores")->items()[n].as_number(),
                    2e-4)
            << "answer " << n;
        const Ids& ends = requests[i].sampling.stop_token_ids;
        const bool stopped = std::find(ends.begin(), ends.end(), got.ids().back()) != ends.end();
        EXPECT_EQ(got.finish, stopped ? FinishReason::stop : FinishReason::length);
        for (const TokenInfo& token : got.tokens) EXPECT_EQ(token.top.size(), 2u);
      }
    }
    EXPECT_EQ(engine->metrics().core.blocks().used, 0);
  }
  EXPECT_GE(cases, 50u);
}

class Beams : public ::testing::Test {
 protected:
  void SetUp() override {
    auto reference = read_reference_case("llama-3.1");
    ASSERT_TRUE(reference.ok());
    reference_ = std::move(reference).value();
  }
  Request request(size_t prompt, int width, int max_tokens) const {
    Request r;
    r.prompt_token_ids = reference_.prompts[prompt % reference_.prompts.size()].input_ids;
    r.max_tokens = max_tokens, r.n = width, r.sampling.ignore_eos = true;
    r.beams = BeamSpec{width, 1, EarlyStopping::no};
    return r;
  }
  ReferenceCase reference_;
};

TEST_F(Beams, CancelledAtAnyTimeTheyLeaveNothing) {
  const auto engine = load(reference_.folder, [](EngineOptions& o) { o.max_batch_size = 6; });
  std::atomic<int> ended{0}, cancelled{0};
  std::vector<RequestId> ids;
  for (size_t i = 0; i < 12; ++i) {
    auto id = engine->submit(request(i, 1 + static_cast<int>(i % 5), 200), [&](const Event& event) {
      if (event.finish == FinishReason::cancelled) ++cancelled;
      if (event.last_of_request) ++ended;
    });
    ASSERT_TRUE(id.ok()) << id.error().to_string();
    ids.push_back(*id);
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    engine->cancel(ids[i]);
  }
  EXPECT_EQ(ended, 12);
  EXPECT_GT(cancelled, 12);  // each choice by itself
  const Answer after = ask(*engine, request(0, 3, 10));
  EXPECT_EQ(after.error, "");
  const CoreMetrics metrics = engine->metrics().core;
  EXPECT_EQ(metrics.blocks().used, 0);
  EXPECT_EQ(metrics.scheduler.running + metrics.scheduler.waiting, 0);
}

// Beams hold no blocks between steps; a cache that is too small for all at once changes nothing.
TEST_F(Beams, SmallCacheAndOtherRequests) {
  std::vector<Request> requests;
  for (size_t i = 0; i < 8; ++i) {
    requests.push_back(request(i, 4, 24));
    Request other = request(i, 2, 30);
    other.beams.reset(), other.n = 1, other.seed = i;
    requests.push_back(other);
  }
  const auto alone = load(reference_.folder, [](EngineOptions& o) {
    o.max_batch_size = 1, o.enable_block_reuse = false, o.overlap_scheduler = false;
  });
  const std::vector<Answer> want = ask(*alone, requests);
  const int64_t per_token = alone->info().kv_bytes_per_token;
  const auto small = load(reference_.folder, [&](EngineOptions& o) {
    o.max_batch_size = 16, o.kv_cache_memory = per_token * 320, o.max_num_tokens = 50;
  });
  const std::vector<Answer> got = ask(*small, requests);
  for (size_t i = 0; i < requests.size(); ++i) EXPECT_EQ(got[i].exact_text(), want[i].exact_text()) << i;
  EXPECT_GT(small->metrics().core.scheduler.preemptions, 0u);
  EXPECT_EQ(small->metrics().core.blocks().used, 0);
}

TEST_F(Beams, FollowAGrammar) {
  const auto engine = load(reference_.folder);
  Request r = request(1, 3, 30);
  r.guide = {GuideSpec::Kind::choice, "", {"alpha", "beta", "gamma", "alphabet"}};
  const Answer answer = ask(*engine, r);
  ASSERT_EQ(answer.error, "");
  std::set<std::string> texts;
  for (const Choice& choice : answer.choices) {
    EXPECT_TRUE(std::find(r.guide.choices.begin(), r.guide.choices.end(), choice.text) != r.guide.choices.end())
        << choice.text;
    EXPECT_EQ(choice.finish, FinishReason::stop);
    texts.insert(choice.text);
  }
  EXPECT_GE(texts.size(), 2u);  // a text may come twice, in other tokens
}

TEST_F(Beams, WhatDoesNotFitIsNamed) {
  const auto engine = load(reference_.folder);
  const auto param_of = [&](const std::function<void(Request&)>& change) {
    Request r = request(0, 2, 4);
    change(r);
    auto id = engine->submit(std::move(r), [](const Event&) {});
    return id.ok() ? std::string("accepted") : id.error().param();
  };
  EXPECT_EQ(param_of([](Request& r) { r.sampling.temperature = 0.5f; }), "temperature");
  EXPECT_EQ(param_of([](Request& r) { r.sampling.top_k = 4; }), "top_k");
  EXPECT_EQ(param_of([](Request& r) { r.sampling.top_p = 0.4f; }), "top_p");
  EXPECT_EQ(param_of([](Request& r) { r.sampling.min_p = 0.4f; }), "min_p");
  EXPECT_EQ(param_of([](Request& r) { r.stop = {"x"}; }), "stop");
  EXPECT_EQ(param_of([](Request& r) { r.n = 3; }), "n");
  EXPECT_EQ(param_of([](Request& r) { r.best_of = 2; }), "best_of");
  EXPECT_EQ(param_of([](Request& r) { r.sampling.prompt_logprobs = 1; }), "prompt_logprobs");
  EXPECT_EQ(param_of([](Request& r) { r.beams->width = 0, r.n = 0; }), "beam_width");
  EXPECT_EQ(param_of([](Request& r) { r.beams->length_penalty = INFINITY; }), "length_penalty");
}

}  // namespace
}  // namespace weft::testing
