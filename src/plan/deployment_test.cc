// Numbers of servers against values worked out by hand in the comments, for steps of round numbers.
#include "plan/deployment.h"

#include <gtest/gtest.h>

#include <cmath>

namespace weft {
namespace {

// A step reads weights for 10 ms; a sequence takes 1 ms more, a row of a prompt 0.1 ms.
ServerModel server(const std::string& name) {
  return {.name = name,
          .decode = [](int64_t n) { return StepTime{0.010 + 0.001 * static_cast<double>(n), 0.010}; },
          .chunk = [](int64_t rows, int64_t) { return StepTime{0.010 + 0.0001 * static_cast<double>(rows), 0.010}; },
          .chunk_tokens = 500,
          .sequences_in_memory = 1000,
          .memory_limit = "memory: 1000 sequences"};
}

// 10 requests a second of 1000 tokens, a megabyte each, and 100 tokens of answer. Blocks of 31 tokens leave a rest of
// 16.
DeploymentInput input() {
  return {.request_rate = 10,
          .classes = {{1, 1000, 100}},
          .block_tokens = 31,
          .network_bytes = 10e9,
          .network_latency = 0,
          .kv_bytes = [](int64_t tokens) { return 1e6 * static_cast<double>(tokens); },
          .targets = {.ttft_seconds = 0.6, .tpot_seconds = 0.05},
          .context = server("a context server"),
          .generation = server("a generation server"),
          .both = server("a server")};
}

TEST(Deployment, TwoServersOfEachKind) {
  const DisaggregatedPlan plan = disaggregated_with(input(), 2, 2);
  // Two chunks of 10 + 50 ms. 10 x 0.12 / 2 = 0.6 busy; C = 2 x 0.36 / 1.6 = 0.45; all prompts alike, so half of
  // M/M/2's wait: 0.45 x 0.12 / (2 x 0.4) / 2.
  EXPECT_NEAR(plan.context.service_seconds, 0.12, 1e-12);
  EXPECT_NEAR(plan.context.utilisation, 0.6, 1e-12);
  EXPECT_NEAR(plan.context.wait_seconds, 0.03375, 1e-12);
  // 1 GB at 10 GB/s; each link has 5 a second: busy 0.5, and M/D/1 waits 0.5 x 0.1 / (2 x 0.5), at both ends.
  EXPECT_NEAR(plan.transfer.seconds, 0.1, 1e-12);
  EXPECT_NEAR(plan.transfer.out_utilisation, 0.5, 1e-12);
  EXPECT_NEAR(plan.transfer.in_utilisation, 0.5, 1e-12);
  EXPECT_NEAR(plan.transfer.wait_seconds, 0.1, 1e-12);
  // 5 requests a second with a rest of 1.6 ms leave 0.992 of the time; n = 500 (0.010 + 0.001 n) / 0.992 gives
  // 0.492 n = 5.
  const GenerationState& g = plan.generation;
  EXPECT_NEAR(g.sequences, 5 / 0.492, 1e-6);
  EXPECT_NEAR(g.step_seconds, 0.010 + 0.005 / 0.492, 1e-9);
  EXPECT_NEAR(g.tpot_seconds, g.step_seconds / 0.992, 1e-9);
  EXPECT_NEAR(g.longest_gap_seconds, g.step_seconds + 0.0016, 1e-9);
  // 0.010 + 0.001 B <= 0.05.
  EXPECT_EQ(g.batch_limit, 40);
  EXPECT_EQ(g.batch_limited_by, "--tpot-target-ms");
  EXPECT_NEAR(g.slot_utilisation, g.sequences / 40, 1e-6);
  EXPECT_NEAR(g.slot_wait_seconds, 0, 1e-6);  // 20 of 80 places are taken
  // One and a half steps, and the rest.
  EXPECT_NEAR(plan.rest_seconds, 1.5 * g.step_seconds + 0.0016, 1e-9);
  EXPECT_NEAR(plan.first_token.mean_seconds, 0.03375 + 0.12 + 0.1 + 0.1 + plan.rest_seconds, 1e-6);
  // P(wait > t) = 0.45 e^{-0.45 t / 0.03375} = 0.05 at t = 0.075 ln 9.
  EXPECT_NEAR(plan.first_token.quantile_seconds, plan.first_token.mean_seconds - 0.03375 + 0.075 * std::log(9.0), 1e-6);
}

TEST(Deployment, FourServersThatDoBoth) {
  const AggregatedPlan plan = aggregated_with(input(), 4);
  // 2.5 requests a second add 2 x 50 ms each: 0.75 of the time is left; n = 250 (0.010 + 0.001 n) / 0.75 gives 0.5 n =
  // 2.5.
  EXPECT_NEAR(plan.generation.sequences, 5, 1e-6);
  EXPECT_NEAR(plan.generation.step_seconds, 0.015, 1e-9);
  EXPECT_NEAR(plan.generation.tpot_seconds, 0.020, 1e-9);
  EXPECT_NEAR(plan.generation.longest_gap_seconds, 0.065, 1e-9);
  // Two mixed steps of 65 ms. a = 1.3; Erlang B: 1.3 / 2.3, 0.268680, 0.104286, 0.0327818; C = 0.0478110;
  // 0.0478110 x 0.13 / (4 x 0.675) / 2.
  EXPECT_NEAR(plan.prompts.service_seconds, 0.130, 1e-8);
  EXPECT_NEAR(plan.prompts.utilisation, 0.325, 1e-7);
  EXPECT_NEAR(plan.prompts.wait_seconds, 0.00115101, 1e-7);
  EXPECT_NEAR(plan.first_token.mean_seconds, 0.0075 + 0.13 + 0.00115101, 1e-6);
}

TEST(Deployment, TheFewestServersThatMeetTheTargets) {
  // One context server would be busy for 1.2 of the time; one generation server never catches up, since 1000 tokens a
  // second take 1 ms each and the rests 16 ms. Two of each meet 0.6 s (0.517, see above).
  const auto plan = plan_disaggregated(input());
  ASSERT_TRUE(plan.ok()) << plan.error().message();
  EXPECT_EQ(plan->context.servers, 2);
  EXPECT_EQ(plan->generation.servers, 2);
  EXPECT_EQ(plan->context_limited_by, "prompts: fewer servers cannot compute as many");
  EXPECT_EQ(plan->generation_limited_by, "its batch: 40 sequences (--tpot-target-ms)");
}

TEST(Deployment, TheCheaperKindIsAdded) {
  // 0.5 s take three context servers (links out wait 25 ms instead of 50, and prompts hardly), or three generation
  // servers (links in wait 25 ms, steps are 15 ms: 0.484 s).
  DeploymentInput wanted = input();
  wanted.targets.ttft_seconds = 0.5;
  wanted.context.ranks = 2;
  const auto dear = plan_disaggregated(wanted);
  ASSERT_TRUE(dear.ok()) << dear.error().message();
  EXPECT_EQ(dear->context.servers, 2);
  EXPECT_EQ(dear->generation.servers, 3);
  EXPECT_NEAR(dear->first_token.quantile_seconds, 0.484, 0.001);
  wanted.context.ranks = 1, wanted.generation.ranks = 2;
  const auto cheap = plan_disaggregated(wanted);
  ASSERT_TRUE(cheap.ok());
  EXPECT_EQ(cheap->context.servers, 3);
  EXPECT_EQ(cheap->generation.servers, 2);
  EXPECT_TRUE(cheap->context_limited_by.starts_with("--ttft-target-ms: with one less 516"))
      << cheap->context_limited_by;
}

TEST(Deployment, TheNetworkLimits) {
  // 1 GB at 0.6 GB/s for 10 a second is 16.7 links' work at each end.
  DeploymentInput wanted = input();
  wanted.network_bytes = 0.6e9, wanted.targets.ttft_seconds = 100;
  const auto plan = plan_disaggregated(wanted);
  ASSERT_TRUE(plan.ok()) << plan.error().message();
  EXPECT_EQ(plan->context.servers, 17);
  EXPECT_EQ(plan->generation.servers, 17);
  EXPECT_EQ(plan->context_limited_by, "the network out of the context servers");
  EXPECT_EQ(plan->generation_limited_by, "the network into the generation servers");
}

TEST(Deployment, CachedTokensAreNotComputed) {
  // 600 of 1000 tokens are there: one chunk of 400.
  DeploymentInput wanted = input();
  wanted.cached_share = 0.6;
  EXPECT_NEAR(disaggregated_with(wanted, 1, 2).context.service_seconds, 0.05, 1e-12);
  // All but one at most.
  wanted.classes = {{1, 1, 5}}, wanted.cached_share = 0.99;
  EXPECT_NEAR(disaggregated_with(wanted, 1, 2).context.service_seconds, 0.0101, 1e-12);
}

TEST(Deployment, MixturesOfRequests) {
  // Half of 500 and half of 1500 tokens: 60 and 180 ms, mean 0.12, deviation 0.06, so scv 0.25 and a wait 1.25 as long.
  DeploymentInput wanted = input();
  wanted.classes = {{0.5, 500, 50}, {0.5, 1500, 150}};
  const DisaggregatedPlan plan = disaggregated_with(wanted, 2, 2);
  EXPECT_NEAR(plan.context.service_seconds, 0.12, 1e-12);
  EXPECT_NEAR(plan.context.scv, 0.25, 1e-12);
  EXPECT_NEAR(plan.context.wait_seconds, 0.03375 * 1.25, 1e-12);
  // Mean output 100 as before, hence the same batch.
  EXPECT_NEAR(plan.generation.sequences, 5 / 0.492, 1e-6);
  // (50 x 525 + 150 x 1575) / 200.
  EXPECT_EQ(decode_context(wanted.classes), 1313);
  EXPECT_EQ(decode_context({{1, 1000, 100}}), 1050);
}

TEST(Deployment, BatchesAreLimited) {
  DeploymentInput wanted = input();
  wanted.max_batch_size = 12;
  EXPECT_EQ(disaggregated_with(wanted, 2, 2).generation.batch_limited_by, "--max-batch-size 12");
  wanted.generation.sequences_in_memory = 11;
  const GenerationState g = disaggregated_with(wanted, 2, 2).generation;
  EXPECT_EQ(g.batch_limit, 11);
  EXPECT_EQ(g.batch_limited_by, "memory: 1000 sequences");
  // 10.16 of 11 places on each of two servers are taken, so requests wait for one.
  EXPECT_GT(g.slot_wait_seconds, 0.01);
}

std::string error_of(const DeploymentInput& wanted) {
  const auto plan = plan_disaggregated(wanted);
  return plan.ok() ? "" : plan.error().message();
}

TEST(Deployment, WhatNoNumberOfServersChangesIsAnError) {
  DeploymentInput wanted = input();
  wanted.targets.tpot_seconds = 0.0105;
  EXPECT_EQ(error_of(wanted),
            "no number of servers meets --tpot-target-ms 10.5 ms: a step of one sequence takes 11 ms on a generation "
            "server, 10 ms of them to read weights");
  wanted = input();
  // 120 ms, 100 ms, and one and a half steps of 11 ms with 1.6 ms of rest.
  wanted.targets.ttft_seconds = 0.238;
  EXPECT_EQ(error_of(wanted),
            "no number of servers meets --ttft-target-ms 238 ms: without any wait 95 % of first tokens come within "
            "238.1 ms; on average the prompt takes 120 ms on a context server and its transfer 100 ms");
  wanted.targets.ttft_seconds = 0.239;  // many servers, but some
  EXPECT_EQ(error_of(wanted), "");
  wanted = input();
  wanted.generation.sequences_in_memory = 0;
  EXPECT_EQ(error_of(wanted),
            "no number of servers is enough: a generation server does not hold one sequence (memory: 1000 sequences)");
  wanted = input();
  wanted.request_rate = 1e9;
  EXPECT_EQ(error_of(wanted), "more than 100000 servers would be needed: see --request-rate");
}

TEST(Deployment, ServersThatDoBothHaveTargetsToo) {
  // TPOT(n) <= 50 ms and TTFT: three servers leave 1 - 0.333 of the time; n (0.667 - 0.333) = 3.33: n = 10, steps of
  // 20 ms, 30 ms a token. Two leave 0.5, and n (0.5 - 0.5) = 5 has no solution.
  const auto plan = plan_aggregated(input());
  ASSERT_TRUE(plan.ok()) << plan.error().message();
  EXPECT_EQ(plan->servers, 3);
  EXPECT_NEAR(plan->generation.tpot_seconds, 0.03, 1e-8);
  EXPECT_EQ(plan->limited_by, "its batch: 40 sequences (--tpot-target-ms), beside prompts");
  DeploymentInput wanted = input();
  wanted.targets.ttft_seconds = 0.1;  // two mixed steps of 61 ms and half a step
  const auto none = plan_aggregated(wanted);
  ASSERT_FALSE(none.ok());
  EXPECT_NE(none.error().message().find("within 127.5 ms"), std::string::npos) << none.error().message();
}

}  // namespace
}  // namespace weft
