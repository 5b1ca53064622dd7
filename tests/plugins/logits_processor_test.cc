// Logits processors from real shared objects, in the engine: they do what they should with both samplers, to their own
// request alone, whatever runs beside it; and what a plugin does wrong stays with its request. What banning a token
// must give is known from bad_words, what forcing must give is known from the list.
#include <gtest/gtest.h>

#include "sampling/logits_processor.h"
#include "support/answers.h"
#include "support/reference_case.h"

namespace weft::testing {
namespace {

using Ids = std::vector<int32_t>;

ProcessorChoice choice(const std::string& name, const Ids& tokens) {
  Json list = Json::array();
  for (const int32_t token : tokens) list.push_back(token);
  return {name, Json::object({{"tokens", list}}).dump()};
}

class Plugins : public ::testing::Test {
 protected:
  void SetUp() override {
    auto reference = read_reference_case("llama-3.1");
    ASSERT_TRUE(reference.ok()) << reference.error().to_string();
    reference_ = std::move(reference).value();
  }

  EngineOptions options(std::vector<std::string> plugins) const {
    EngineOptions o;
    o.dtype = ComputeType::float32;
    o.kv_cache_memory = int64_t{64} << 20;
    o.logits_processors = std::move(plugins);
    o.threads = 1;  // more would wait for each other on a busy machine
    return o;
  }
  std::unique_ptr<Engine> load(const EngineOptions& o) const {
    auto engine = Engine::load(reference_.folder, o);
    EXPECT_TRUE(engine.ok()) << (engine.ok() ? "" : engine.error().to_string());
    return engine.ok() ? std::move(engine).value() : nullptr;
  }
  std::string load_error(const std::string& plugin) const {
    const auto engine = Engine::load(reference_.folder, options({plugin}));
    return engine.ok() ? "" : engine.error().message();
  }
  Request request(size_t prompt, float temperature, std::vector<ProcessorChoice> processors = {}) const {
    Request r;
    r.prompt_token_ids = reference_.prompts[prompt % reference_.prompts.size()].input_ids;
    r.max_tokens = 20;
    r.seed = 7 + prompt;
    r.sampling.temperature = temperature;
    r.sampling.ignore_eos = true;
    r.sampling.logprobs = 2;
    r.sampling.logits_processors = std::move(processors);
    return r;
  }

  ReferenceCase reference_;
};

TEST_F(Plugins, BanningIsWhatBadWordsDo) {
  for (const SamplerKind sampler : {SamplerKind::fused, SamplerKind::reference}) {
    EngineOptions o = options({TOKEN_LISTS});
    o.sampler = sampler;
    const auto engine = load(o);
    for (const float temperature : {0.0f, 0.9f}) {
      Request plain = request(1, temperature);
      const Answer free = ask(*engine, plain);
      const Ids banned = free.choices[0].ids();
      for (const int32_t token : banned) plain.sampling.bad_words.push_back({token});
      const Answer want = ask(*engine, plain),
                   got = ask(*engine, request(1, temperature, {choice("ban_tokens", banned)}));
      EXPECT_EQ(got.exact_text(), want.exact_text()) << name_of(sampler);
      EXPECT_NE(got.exact_text(), free.exact_text()) << name_of(sampler);
    }
  }
}

TEST_F(Plugins, ForcedTokensComeAndLogprobsStayRaw) {
  const auto engine = load(options({TOKEN_LISTS}));
  const Ids forced = {11, 250, 3, 3, 77};
  const Answer got = ask(*engine, request(2, 0.8f, {choice("force_tokens", forced)}));
  ASSERT_EQ(got.error, "");
  const Ids ids = got.choices[0].ids();
  EXPECT_EQ(Ids(ids.begin(), ids.begin() + 5), forced);
  // The logprobs are the model's own: those that the same tokens have as a prompt.
  Request echoed = request(2, 0);
  echoed.prompt_token_ids->insert(echoed.prompt_token_ids->end(), forced.begin(), forced.end());
  echoed.sampling.prompt_logprobs = 2;
  const Answer prompt = ask(*engine, echoed);
  for (size_t i = 0; i < forced.size(); ++i) {
    const TokenInfo& want = prompt.prompt[prompt.prompt.size() - forced.size() + i];
    EXPECT_EQ(got.choices[0].tokens[i].logprob, want.logprob) << i;
    EXPECT_EQ(got.choices[0].tokens[i].top[0].token, want.top[0].token) << i;
  }
}

// A batched processor makes the others of its request run beside it, in the request's order.
TEST_F(Plugins, OrderOfSeveral) {
  const auto engine = load(options({TOKEN_LISTS}));
  const Answer banned_first = ask(*engine, request(1, 0, {choice("ban_tokens", {5}), choice("force_tokens", {5})}));
  EXPECT_NE(banned_first.error.find("no token is allowed here"), std::string::npos) << banned_first.error;
  const Answer other = ask(*engine, request(1, 0, {choice("force_tokens", {5}), choice("ban_tokens", {6})}));
  EXPECT_EQ(other.error, "");
  EXPECT_EQ(other.choices[0].ids()[0], 5);
}

// Requests with and without processors side by side, under pressure, against each of them alone.
TEST_F(Plugins, OthersAreNotTouched) {
  std::vector<Request> requests;
  for (size_t i = 0; i < 24; ++i) {
    const float temperature = i % 3 == 0 ? 0.0f : 1.0f;
    if (i % 4 == 1)
      requests.push_back(request(i, temperature, {choice("ban_tokens", {1, 2, 3, static_cast<int32_t>(i)})}));
    else if (i % 4 == 2)
      requests.push_back(request(i, temperature, {choice("force_tokens", {9, static_cast<int32_t>(i), 40})}));
    else if (i % 4 == 3)
      requests.push_back(request(i, temperature, {choice("force_tokens", {8}), choice("ban_tokens", {4, 5, 6, 7})}));
    else requests.push_back(request(i, temperature));
  }
  EngineOptions alone = options({TOKEN_LISTS});
  alone.overlap_scheduler = false, alone.enable_block_reuse = false, alone.max_batch_size = 1,
  alone.sampler = SamplerKind::reference;
  const std::vector<Answer> want = ask(*load(alone), requests);
  EngineOptions crowded = options({TOKEN_LISTS});
  crowded.threads = 2, crowded.max_batch_size = 16, crowded.max_num_tokens = 40, crowded.tokens_per_block = 16;
  const auto engine = load(crowded);
  crowded.kv_cache_memory = engine->info().kv_bytes_per_token * 320;
  const auto small = load(crowded);
  for (Engine* e : {engine.get(), small.get()}) {
    const std::vector<Answer> got = ask(*e, requests);
    for (size_t i = 0; i < requests.size(); ++i) EXPECT_EQ(got[i].exact_text(), want[i].exact_text()) << i;
    EXPECT_EQ(e->metrics().core.blocks().used, 0);
  }
  EXPECT_GT(small->metrics().core.scheduler.preemptions, 0u);
}

TEST_F(Plugins, AFailureStaysWithItsRequest) {
  const auto engine = load(options({TOKEN_LISTS, BAD_PROCESSORS}));
  std::vector<Request> requests;
  for (const char* name :
       {"fail_at_third", "throw_at_third", "nan_at_third", "infinite", "forbid_all", "fail_odd_prompts"}) {
    requests.push_back(request(0, 0.7f, {{name, "null"}}));
    requests.push_back(request(0, 0.7f));
    requests.push_back(request(0, 0.7f, {choice("force_tokens", {9, 8})}));
  }
  requests[15].prompt_token_ids->resize(5), requests[16].prompt_token_ids->resize(5);
  Request even = requests[15];
  even.prompt_token_ids->resize(4);
  requests.push_back(even);
  const std::vector<Answer> got = ask(*engine, requests);
  const char* const want[] = {"no third token", "it threw: out of luck", "not a number",
                              "not a number",   "no token is allowed",   "\"fail_odd_prompts\": xxx"};
  for (size_t i = 0; i < std::size(want); ++i) {
    EXPECT_NE(got[3 * i].error.find(want[i]), std::string::npos) << i << ": " << got[3 * i].error;
    EXPECT_EQ(got[3 * i].choices[0].finish, FinishReason::error);
    EXPECT_EQ(got[3 * i].choices[0].tokens.size(), i < 3 ? 2u : 0u) << i;
    for (const size_t other : {3 * i + 1, 3 * i + 2}) {
      EXPECT_EQ(got[other].error, "") << other;
      EXPECT_EQ(got[other].exact_text(), ask(*engine, requests[other]).exact_text()) << other;
    }
  }
  EXPECT_EQ(got.back().error, "");  // an even prompt in the same batch call
  EXPECT_EQ(engine->metrics().core.blocks().used, 0);
}

TEST_F(Plugins, WrongSelectionsAreNamed) {
  const auto engine = load(options({TOKEN_LISTS, BAD_PROCESSORS}));
  const auto error_of = [&](std::vector<ProcessorChoice> choices) {
    auto id = engine->submit(request(0, 0, std::move(choices)), [](const Event&) {});
    EXPECT_FALSE(id.ok());
    return id.ok() ? Error(Code::internal, "") : id.error();
  };
  const Error unknown = error_of({choice("ban_tokens", {1}), choice("bann_tokens", {1})});
  EXPECT_EQ(unknown.code(), Code::invalid_argument);
  EXPECT_EQ(unknown.param(), "logits_processors[1].name");
  EXPECT_NE(unknown.message().find("\"bann_tokens\" is loaded; there are \"ban_tokens\", \"force_tokens\""),
            std::string::npos)
      << unknown.message();
  const Error params = error_of({{"ban_tokens", "{\"token\":3}"}});
  EXPECT_EQ(params.param(), "logits_processors[0].params");
  EXPECT_NE(params.message().find("\"ban_tokens\": params must be"), std::string::npos) << params.message();
  EXPECT_NE(error_of({choice("ban_tokens", {1 << 20})}).message().find("outside the vocabulary"), std::string::npos);
  EXPECT_NE(error_of({{"refuse", "null"}}).message().find("gave no reason"), std::string::npos);
}

TEST_F(Plugins, BadFilesAreErrorsAtTheStart) {
  EXPECT_NE(load_error("/nowhere/plugin.so").find("--logits-processor /nowhere/plugin.so: "), std::string::npos);
  EXPECT_NE(load_error(__FILE__).find("logits_processor_test.cc"), std::string::npos);  // no shared object
  EXPECT_NE(load_error(NO_ENTRY).find("does not export weft_logits_plugin()"), std::string::npos);
  EXPECT_NE(load_error(WRONG_ABI).find("version 2 of weft/logits_processor.h, and this weft has version 1"),
            std::string::npos);
  EXPECT_NE(load_error(NO_APPLY).find("\"half\" must have either apply() or apply_batch()"), std::string::npos);
  const auto twice = Engine::load(reference_.folder, options({TOKEN_LISTS, TOKEN_LISTS}));
  ASSERT_FALSE(twice.ok());
  EXPECT_NE(twice.error().message().find("there is a processor \"ban_tokens\" already"), std::string::npos);
}

// A kind that the program brings along.
class Shift : public LogitsProcessorKind {
 public:
  struct Add : LogitsProcessor {
    Status process(std::span<float> logits, const SlotView& view) override {
      logits[view.tokens.size() % logits.size()] += 100;
      return {};
    }
  };
  const std::string& name() const override { return name_; }
  Result<std::shared_ptr<LogitsProcessor>> create(const std::string&, int) const override {
    return std::shared_ptr<LogitsProcessor>(std::make_shared<Add>());
  }

 private:
  std::string name_ = "shift";
};

TEST_F(Plugins, KindsOfTheProgram) {
  EngineOptions o = options({});
  o.logits_processor_kinds.push_back(std::make_shared<const Shift>());
  const auto engine = load(o);
  const Request r = request(0, 0, {{"shift", "null"}});
  const Answer answer = ask(*engine, r);
  Ids want;
  for (size_t i = 0; i < 20; ++i) want.push_back(static_cast<int32_t>(r.prompt_token_ids->size() + i));
  EXPECT_EQ(answer.choices[0].ids(), want);
}

}  // namespace
}  // namespace weft::testing
