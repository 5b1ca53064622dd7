// `weft plan --disaggregated`: what it estimates from a configuration is what `weft plan` estimates for single steps,
// and options that do not go together are refused.
#include "deployment_estimate.h"

#include <gtest/gtest.h>

#include "plan_estimate.h"

namespace weft {
namespace {

const std::string kModel = WEFT_TEST_DATA "/configs/qwen3-235b-a22b";

Arguments parsed(std::vector<const char*> options) {
  std::vector<const char*> words = {"weft", "plan", kModel.c_str(), "--disaggregated"};
  words.insert(words.end(), options.begin(), options.end());
  auto result = parse_arguments(static_cast<int>(words.size()), words.data());
  if (const Leave* leave = std::get_if<Leave>(&result)) ADD_FAILURE() << leave->error;
  return std::holds_alternative<Arguments>(result) ? std::get<Arguments>(result) : Arguments{};
}

constexpr const char* kTargets[] = {"--ttft-target-ms", "9000", "--tpot-target-ms", "300", "--request-rate", "1"};

Arguments with_targets(std::vector<const char*> options) {
  options.insert(options.begin(), std::begin(kTargets), std::end(kTargets));
  return parsed(options);
}

Result<DeploymentEstimate> estimate(const RecordedPlan& recorded, const Arguments& arguments) {
  return make_deployment_estimate(recorded, arguments);
}

class Deployments : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto read = record_plan(kModel, {});
    ASSERT_TRUE(read.ok()) << read.error().message();
    recorded = new RecordedPlan(std::move(*read));
  }
  static void TearDownTestSuite() { delete recorded, recorded = nullptr; }
  static RecordedPlan* recorded;
};
RecordedPlan* Deployments::recorded = nullptr;

// The single steps that it is made of, as `weft plan` estimates them.
TEST_F(Deployments, StepsAreThoseOfTheEstimateOfSteps) {
  const auto e = estimate(*recorded, with_targets({"--input-tokens", "1000", "--output-tokens", "48", "--tp-size", "4",
                                                   "--context-tp", "2"}));
  ASSERT_TRUE(e.ok()) << e.error().message();
  const auto step = [](int tp, int batch, int context, int prompt) {
    EngineOptions engine;
    engine.tp_size = tp;
    EstimateArguments options;
    options.batch_size = batch, options.context_tokens = context, options.prompt_tokens = prompt;
    options.summary = true;
    return make_estimate(*recorded, engine, options).value();
  };
  // A prompt of 1000 tokens is one chunk, since with experts a step takes as many as --max-num-tokens; sequences see
  // 1000 + 48 / 2 tokens.
  EXPECT_DOUBLE_EQ(e->disaggregated.context.service_seconds, step(2, 1, 1, 1000).prompt.seconds);
  EXPECT_DOUBLE_EQ(e->input.generation.decode(8).seconds, step(4, 8, 1024, 1).decode.seconds);
  EXPECT_DOUBLE_EQ(e->input.both.decode(3).seconds, step(4, 3, 1024, 1).decode.seconds);
  EXPECT_EQ(e->input.context.ranks, 2);
  // 94 layers of 4 heads of keys and values of 128 bfloat16 numbers each: 192,512 bytes a token.
  EXPECT_EQ(e->disaggregated.transfer.bytes, 192512.0 * 1000);
  EXPECT_DOUBLE_EQ(e->disaggregated.transfer.seconds, 5e-6 + 192512.0 * 1000 / 25e9);
  // A quarter of the cache on each of four ranks, beside weights, in 500 GB.
  const HeldBytes& held = step(4, 1, 1, 1).held.front();
  EXPECT_NEAR(static_cast<double>(e->input.generation.sequences_in_memory),
              (500e9 - static_cast<double>(held.weight_bytes())) / (192512.0 / 4 * 1024), 2);
}

TEST_F(Deployments, TargetsAreMet) {
  const auto e = estimate(*recorded, with_targets({"--input-tokens", "1500,4000", "--output-tokens", "100,200",
                                                   "--tp-size", "2", "--cached-share", "0.4"}));
  ASSERT_TRUE(e.ok()) << e.error().message();
  EXPECT_EQ(e->input.classes.size(), 100u);
  EXPECT_LE(e->disaggregated.first_token.quantile_seconds, 9);
  EXPECT_LE(e->disaggregated.generation.tpot_seconds, 0.3);
  EXPECT_LT(e->disaggregated.context.utilisation, 1);
  ASSERT_TRUE(e->aggregated.has_value()) << e->aggregated_problem;
  EXPECT_LE(e->aggregated->first_token.quantile_seconds, 9);
  // One server less of either kind misses a target.
  const auto late = [&](int64_t context, int64_t generation) {
    if (context == 0 || generation == 0) return true;
    const DisaggregatedPlan less = disaggregated_with(e->input, context, generation);
    return less.first_token.quantile_seconds > 9 || less.generation.tpot_seconds > 0.3;
  };
  const DisaggregatedPlan& plan = e->disaggregated;
  EXPECT_TRUE(late(plan.context.servers - 1, plan.generation.servers));
  EXPECT_TRUE(late(plan.context.servers, plan.generation.servers - 1));
}

TEST_F(Deployments, ReportsSayTheSame) {
  const auto e =
      estimate(*recorded, with_targets({"--input-tokens", "1000", "--output-tokens", "50", "--tp-size", "2"}));
  ASSERT_TRUE(e.ok()) << e.error().message();
  const Json json = deployment_json(*e);
  const Json& context = *json.find("disaggregated")->find("context");
  EXPECT_EQ(context.find("servers")->as_integer(), e->disaggregated.context.servers);
  EXPECT_EQ(context.find("ranks_per_server")->as_integer(), 2);
  EXPECT_EQ(json.find("requests")->find("input_tokens")->as_number(), 1000);
  EXPECT_EQ(json.find("aggregated")->find("servers")->as_integer(), e->aggregated->servers);
  const std::string text = deployment_text(*e);
  for (const std::string& part : std::vector<std::string>{
           "context servers", "generation servers", "servers that do both:", "M/G/C, Allen-Cunneen", "(Little)",
           std::to_string(e->disaggregated.generation.servers) + " x 2 ranks"})
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
}

TEST_F(Deployments, MemoryLimitsTheBatch) {
  // 236 GB of weights a rank, and 49 MB of cache a sequence of 512 tokens.
  const auto e = estimate(*recorded, with_targets({"--input-tokens", "500", "--output-tokens", "24", "--tp-size", "2",
                                                   "--tpot-target-ms", "1e6", "--memory", "237"}));
  ASSERT_TRUE(e.ok()) << e.error().message();
  EXPECT_EQ(e->disaggregated.generation.batch_limited_by.find("--memory 237 GB a rank, "), 0u)
      << e->disaggregated.generation.batch_limited_by;
  const auto budget = estimate(*recorded, with_targets({"--input-tokens", "500", "--output-tokens", "24", "--tp-size",
                                                        "2", "--tpot-target-ms", "1e6", "--kv-cache-memory", "1G"}));
  ASSERT_TRUE(budget.ok());
  // 2^30 / (192,512 x 512) = 10.9.
  EXPECT_EQ(budget->disaggregated.generation.batch_limit, 10);
  EXPECT_EQ(budget->disaggregated.generation.batch_limited_by.find("--kv-cache-memory 1.074 GB"), 0u);
}

TEST_F(Deployments, OptionsThatAreMissingOrDoNotFit) {
  const auto message = [](const Arguments& arguments) {
    const auto e = estimate(*recorded, arguments);
    return e.ok() ? "" : e.error().message();
  };
  const auto holds = [&](const Arguments& arguments, const std::string& part) {
    EXPECT_NE(message(arguments).find(part), std::string::npos) << message(arguments);
  };
  holds(parsed({}), "--disaggregated needs --request-rate");
  holds(parsed({"--request-rate", "1"}), "--disaggregated needs --ttft-target-ms");
  holds(parsed({"--request-rate", "1", "--ttft-target-ms", "9"}), "--disaggregated needs --tpot-target-ms");
  holds(with_targets({"--input-tokens", "9"}), "--disaggregated needs --input-tokens and --output-tokens, or");
  const auto lengths = [](std::vector<const char*> more) {
    more.insert(more.end(), {"--input-tokens", "9", "--output-tokens", "9"});
    return with_targets(more);
  };
  holds(lengths({"--pp-size", "2"}), "--pp-size");
  holds(lengths({"--enable-attention-dp", "on", "--tp-size", "2"}), "--enable-attention-dp");
  holds(lengths({"--speculative-config", "ngram"}), "leave out --speculative-config");
  holds(lengths({"--memory", "10"}), "a context server of 1 rank does not hold one sequence (--memory 10 GB a rank, ");
  holds(lengths({"--context-tp", "3"}), "3");
  holds(with_targets({"--arrival-mix", "/nonexistent.csv"}), "/nonexistent.csv");
  holds(lengths({"--tp-size", "2", "--tpot-target-ms", "1"}), "no number of servers meets --tpot-target-ms 1 ms");
  holds(lengths({"--tp-size", "2", "--ttft-target-ms", "1"}), "no number of servers meets --ttft-target-ms 1 ms");
}

TEST(DeploymentOptions, ContradictionsAreUsageErrors) {
  const auto error = [](std::vector<const char*> words) {
    words.insert(words.begin(), {"weft", "plan", "M"});
    const auto result = parse_arguments(static_cast<int>(words.size()), words.data());
    return std::holds_alternative<Leave>(result) ? std::get<Leave>(result).error : "";
  };
  EXPECT_NE(error({"--request-rate", "1"}).find("--request-rate requires --disaggregated"), std::string::npos);
  for (const char* option : {"--nodes", "--batch-size", "--context-tokens", "--prompt-tokens"})
    EXPECT_NE(error({"--disaggregated", option, "2"}).find(option), std::string::npos) << option;
  EXPECT_NE(error({"--disaggregated", "--summary"}).find("--summary"), std::string::npos);
  EXPECT_NE(error({"--disaggregated", "--arrival-mix", "f.csv", "--input-tokens", "3"}).find("--arrival-mix"),
            std::string::npos);
  EXPECT_NE(error({"--disaggregated", "--input-tokens", "3,2"}).find("at most 3.8 times"), std::string::npos);
  for (const char* share : {"1", "-0.1", "x"})
    EXPECT_NE(error({"--disaggregated", "--cached-share", share}).find("--cached-share"), std::string::npos) << share;
  for (const char* percent : {"0", "100"})
    EXPECT_NE(error({"--disaggregated", "--ttft-percentile", percent}).find("--ttft-percentile"), std::string::npos);
  EXPECT_NE(error({"--disaggregated", "--request-rate", "0"}).find("--request-rate"), std::string::npos);
}

}  // namespace
}  // namespace weft
