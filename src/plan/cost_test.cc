// Expected values are worked out by hand in the comments, for plans and machines of small round numbers.
#include "plan/cost.h"

#include <gtest/gtest.h>

#include "plan/split.h"

namespace weft {
namespace {

using kernels::WeightForm;

// Ops of `layers` layers, of each a product [4, 8] -> attention of 2 heads over one head of keys and values of 4
// numbers -> the sum over ranks, all of 4 columns.
class SmallPlan {
 public:
  explicit SmallPlan(int layers, CacheSpec::Kind kind = CacheSpec::Kind::full, int span = 0) {
    plan.groups.push_back(
        {.spec = {.kind = kind, .kv_heads = 1, .k_dim = 4, .v_dim = 4, .span = span}, .layers = layers, .heads = 2});
    x_ = value(8);
    plan.tables.push_back({.tensor = "embed.weight", .rows = 10});
    plan.table_cols.push_back(8);
    add(EmbedOp{.table = 0}, {}, x_, "embed");
    for (int i = 0; i < layers; ++i) add_layer(i);
  }
  Plan plan;

 private:
  Value value(int cols) {
    plan.storages.push_back({cols});
    return {static_cast<int>(plan.storages.size()) - 1, 0, cols};
  }
  void add(OpKind kind, std::vector<Value> in, std::optional<Value> out, const std::string& path) {
    plan.ops.push_back({std::move(kind), std::move(in), out, path});
  }
  void add_layer(int i) {
    const std::string path = "model.layers." + std::to_string(i);
    plan.layer_starts.push_back(plan.ops.size());
    const Value q = value(4), part = value(4), sum = value(8);
    plan.matrices.push_back({.sources = {{.tensor = path + ".q.weight", .rows = 4}}, .k = 8});
    plan.vectors.push_back({.tensor = path + ".norm.weight", .size = 8});
    add(NormOp{.weight = i}, {x_}, x_, path + ".norm");
    add(LinearOp{.matrix = i}, {x_}, q, path + ".q.weight");
    add(AppendOp{{.index = i}}, {q, q}, std::nullopt, path);
    add(AttendOp{.cache = {.index = i}, .heads = 2}, {q}, part, path);
    add(AllReduceOp{}, {part}, sum, path);
    x_ = sum;
  }
  Value x_;
};

// A second for 1000 bytes of memory, 100 FLOPs, 10 bytes of network; half a second from node to node.
constexpr MachineModel kMachine{.memory_bytes = 1000, .flops = 100, .network_bytes = 10, .network_latency = 0.5};
constexpr RankPlaces kOneRank{};

TEST(Cost, LayersAreNumbersInPaths) {
  EXPECT_EQ(layers_of(SmallPlan(2).plan), LayerRange(0, 2));
  Plan plan;
  EXPECT_EQ(layers_of(plan), LayerRange(0, 0));
  for (const char* path : {"", "model.norm2.weight", "model.layers.12.mlp.experts.3.up_proj.weight",
                           "model.layers.13.mlp", "score.0.weight"})
    plan.ops.push_back({NormOp{}, {}, std::nullopt, path});
  EXPECT_EQ(layers_of(plan), LayerRange(12, 14));
  plan.ops.push_back({SendOp{}, {}, std::nullopt, "model.layers.14.q.weight"});  // of the layer that reads it
  EXPECT_EQ(layers_of(plan), LayerRange(12, 14));
}

TEST(Cost, SmallSumsGoToOnePartnerARound) {
  // 4 ranks on 2 nodes: all 64 bytes to the neighbour on the node, then to one on the other node.
  const RankPlaces places{{.tensor = 4, .experts = 4}, 2};
  for (int rank = 0; rank < 4; ++rank)
    EXPECT_EQ(reduce_traffic(places, rank, 64),
              (Traffic{.messages = 2, .bytes = 128, .network_messages = 1, .network_bytes = 64, .network_rounds = 1}));
}

TEST(Cost, PartsOfASetStayInIt) {
  // 8 ranks on 2 nodes in sets of 2 and of 8: one neighbour on the node; three there and four on the other one.
  const RankPlaces places{{.tensor = 8}, 2};
  EXPECT_EQ(gather_traffic(places, 5, 100, 2), (Traffic{.messages = 1, .bytes = 100}));
  EXPECT_EQ(gather_traffic(places, 5, 100, 8),
            (Traffic{.messages = 7, .bytes = 700, .network_messages = 4, .network_bytes = 400, .network_rounds = 1}));
}

TEST(Cost, LargeSumsAreSharedOut) {
  // 8192 floats are 32768 bytes. A half to the neighbour and a quarter to the other node, then a quarter to each of
  // three ranks, two of which are on the other node.
  const RankPlaces places{{.tensor = 4, .experts = 4}, 2};
  EXPECT_EQ(reduce_traffic(places, 1, 32768), (Traffic{.messages = 2 + 3,
                                                       .bytes = 16384 + 8192 + 3 * 8192,
                                                       .network_messages = 1 + 2,
                                                       .network_bytes = 8192 + 2 * 8192,
                                                       .network_rounds = 2}));
}

TEST(Cost, PartsAreGatheredFromTheStageAlone) {
  // Ranks 4 to 7 are the second stage, on nodes 1; every node has four ranks.
  const RankPlaces one_node{{.tensor = 4, .experts = 4, .pipeline = 2}, 2};
  EXPECT_EQ(gather_traffic(one_node, 5, 100), (Traffic{.messages = 3, .bytes = 300}));
  const RankPlaces two_nodes{{.tensor = 4, .experts = 4, .pipeline = 2}, 4};
  EXPECT_EQ(gather_traffic(two_nodes, 5, 100),
            (Traffic{.messages = 3, .bytes = 300, .network_messages = 2, .network_bytes = 200, .network_rounds = 1}));
}

TEST(Cost, ExpertsOfOneRank) {
  // 8 (1 - (1 - 2/8)^1) = 2 and 8 (1 - (3/4)^2) = 3.5.
  const kernels::RouteRule rule{.experts = 8, .chosen = 2};
  EXPECT_DOUBLE_EQ(expert_load(rule, 1, 1).hit, 2);
  EXPECT_DOUBLE_EQ(expert_load(rule, 1, 2).slowest_hit, 3.5);
  EXPECT_DOUBLE_EQ(expert_load(rule, 1, 2).pairs, 4);
}

TEST(Cost, TheSlowestRankHasMoreExpertsThanTheMean) {
  // One row, one expert: one of two ranks has it.
  const ExpertLoad one = expert_load({.experts = 8, .chosen = 1}, 2, 1);
  EXPECT_DOUBLE_EQ(one.hit, 0.5);
  EXPECT_DOUBLE_EQ(one.slowest_hit, 1);
  EXPECT_DOUBLE_EQ(one.slowest_pairs, 1);
  // All experts chosen: nobody is slower.
  const ExpertLoad all = expert_load({.experts = 2, .chosen = 2}, 2, 3);
  EXPECT_DOUBLE_EQ(all.hit, 1);
  EXPECT_DOUBLE_EQ(all.slowest_hit, 1);
  EXPECT_DOUBLE_EQ(all.slowest_pairs, 3);
  // Two experts from one of two groups: both on one rank, which has 2 (1 - 1/2) = 1 on average.
  const ExpertLoad grouped = expert_load({.experts = 4, .chosen = 2, .groups = 2, .kept_groups = 1}, 2, 1);
  EXPECT_DOUBLE_EQ(grouped.hit, 1);
  EXPECT_DOUBLE_EQ(grouped.slowest_hit, 2);
  // Two rows, one expert of two each, a rank has one: on the same rank or not, so 1.5 pairs on average.
  EXPECT_NEAR(expert_load({.experts = 2, .chosen = 1}, 2, 2).slowest_pairs, 1.5, 0.2);
}

// Stage `stage` of two of a plan of three layers, with a rank in each.
Plan share_of_two(int stage) {
  Plan plan = SmallPlan(3).plan;
  plan.matrices[2].sources.front().rows = 8;  // as much as the other two
  return split_plan(plan, {.pipeline = 2}, stage).value();
}

TEST(Cost, StagesHoldWhatTheyRead) {
  const Plan first = share_of_two(0), last = share_of_two(1);
  EXPECT_EQ(layers_of(first), LayerRange(0, 2));
  EXPECT_EQ(layers_of(last), LayerRange(2, 3));
  // Two matrices of 4 x 8 and a table of 10 x 8 in 16 bits, two norms of 8 floats; a token is 8 numbers a layer.
  const HeldBytes held = held_bytes(first, WeightForm::bf16, DType::bf16);
  EXPECT_EQ(held.weights, (std::map<std::string, int64_t>{{"bfloat16", 2 * 64 + 160}, {"float32", 2 * 32}}));
  EXPECT_EQ(held.cache_per_token, 2 * 16);
  EXPECT_EQ(held_bytes(last, WeightForm::f32, DType::f32).weight_bytes(), 8 * 8 * 4 + 32);
  EXPECT_EQ(held_bytes(last, WeightForm::f32, DType::i8).cache_per_token, 8 + 2 * 4);
}

TEST(Cost, AStepOfOneRank) {
  // Two sequences of 3 rows that see 3, 4 and 5 tokens.
  //   embed:   6 rows of 8 floats, 192 bytes                                 0.192 s
  //   product: 128 bytes, 6 x 2 x 4 x 8 = 384 FLOPs                          3.84 s
  //   attend:  2 x 12 pairs x 2 x 2 heads x (4 + 4) = 768 FLOPs              7.68 s; 2 x 5 tokens x 8 floats = 320
  //   bytes
  Plan plan = SmallPlan(1).plan;
  plan.ops.pop_back();
  const StepCost cost = step_cost(plan, kOneRank, 0, {2, 3, 5}, kMachine, WeightForm::f32, DType::f32);
  EXPECT_DOUBLE_EQ(cost.weight_bytes, 192 + 128);
  EXPECT_DOUBLE_EQ(cost.cache_bytes, 320);
  EXPECT_DOUBLE_EQ(cost.flops, 384 + 768);
  EXPECT_DOUBLE_EQ(cost.compute_seconds, 0.192 + 3.84 + 7.68);
  EXPECT_DOUBLE_EQ(cost.message_seconds, 0);
  EXPECT_TRUE(cost.traffic.empty());
}

TEST(Cost, WindowsSeeTheirSpan) {
  // 3 rows see 4 tokens each, and together 6 different ones.
  const Plan plan = SmallPlan(1, CacheSpec::Kind::window, 4).plan;
  const StepCost cost = step_cost(plan, kOneRank, 0, {1, 3, 10}, kMachine, WeightForm::f32, DType::f32);
  EXPECT_DOUBLE_EQ(cost.cache_bytes, 6 * 32);
  EXPECT_DOUBLE_EQ(cost.flops, 3 * 64 + 12 * 32);
}

TEST(Cost, MessagesTakeTheNetworkOrTheMemory) {
  // The part of 6 rows of 4 floats, 96 bytes, goes to the other rank.
  const Plan plan = SmallPlan(1).plan;
  const RankLayout layout{.tensor = 2, .experts = 2};
  const StepCost far = step_cost(plan, {layout, 2}, 0, {2, 3, 5}, kMachine, WeightForm::f32, DType::f32);
  EXPECT_DOUBLE_EQ(far.message_seconds, 9.6 + 0.5);
  EXPECT_EQ(far.traffic.at("all_reduce"),
            (Traffic{.messages = 1, .bytes = 96, .network_messages = 1, .network_bytes = 96, .network_rounds = 1}));
  const StepCost near = step_cost(plan, {layout, 1}, 0, {2, 3, 5}, kMachine, WeightForm::f32, DType::f32);
  EXPECT_DOUBLE_EQ(near.message_seconds, 0.096);
  EXPECT_DOUBLE_EQ(near.seconds(), near.compute_seconds + 0.096);
  // Four ranks on two nodes: 96 bytes on the node, then both ranks of a node send theirs through its network.
  const StepCost both =
      step_cost(plan, {{.tensor = 4, .experts = 4}, 2}, 0, {2, 3, 5}, kMachine, WeightForm::f32, DType::f32);
  EXPECT_DOUBLE_EQ(both.message_seconds, 0.096 + 2 * 9.6 + 0.5);
}

TEST(Cost, MessagesTravelBesideTheProduct) {
  // A sequence of 512 rows, 2 ranks on 2 nodes, and a product of 16 outputs and 8 k in front of the sum.
  //   product:  512 x 2 x 16 x 8 FLOPs                                                  1310.72 s
  //   messages: of 32768 bytes a half out and a half back, in 2 pieces of 2 rounds      3276.8 + 4 x 0.5 s
  // A half of the shorter one is hidden. With a row less nothing is.
  Plan plan = SmallPlan(1).plan;
  plan.ops.erase(plan.ops.begin() + 3, plan.ops.begin() + 5);  // append, attend
  plan.ops.back().in = {*plan.ops[2].out};
  plan.storages[plan.ops.back().in[0].storage].cols = 16;  // 8192 floats
  plan.matrices[0].sources[0].rows = 16;
  const RankPlaces places{{.tensor = 2, .experts = 2}, 2};
  const auto cost_of = [&](int64_t rows) {
    return step_cost(plan, places, 0, {1, rows, rows}, kMachine, WeightForm::f32, DType::f32);
  };
  const StepCost cost = cost_of(512);
  const double product = 512 * 2 * 16 * 8 / 100.0, messages = 2 * (512 * 16 * 4 / 2) / 10.0 + 4 * 0.5;
  EXPECT_DOUBLE_EQ(cost.message_seconds, messages);
  EXPECT_DOUBLE_EQ(cost.hidden_seconds, product / 2);
  EXPECT_DOUBLE_EQ(cost.seconds(), cost.compute_seconds + messages - product / 2);
  EXPECT_EQ(cost.traffic.at("all_reduce").messages, 4);
  EXPECT_EQ(cost_of(511).hidden_seconds, 0);
}

TEST(Cost, AStageHandsItsRowsOn) {
  // 2 rows of the 8 floats behind layer 1, to the rank of the same number in the next stage, and at its own expense.
  const RankPlaces places{{.pipeline = 2}, 2};
  const StepCost first = step_cost(share_of_two(0), places, 0, {2, 1, 5}, kMachine, WeightForm::f32, DType::f32);
  const Traffic sent{.messages = 1, .bytes = 64, .network_messages = 1, .network_bytes = 64, .network_rounds = 1};
  EXPECT_EQ(first.traffic.at("send"), sent);
  EXPECT_DOUBLE_EQ(first.message_seconds, 6.4 + 0.5);
  const StepCost last = step_cost(share_of_two(1), places, 1, {2, 1, 5}, kMachine, WeightForm::f32, DType::f32);
  EXPECT_FALSE(last.traffic.contains("send"));
  EXPECT_DOUBLE_EQ(last.message_seconds, 0);
  // On one node, 64 bytes at 1000 a second.
  const StepCost near =
      step_cost(share_of_two(0), {{.pipeline = 2}}, 0, {2, 1, 5}, kMachine, WeightForm::f32, DType::f32);
  EXPECT_DOUBLE_EQ(near.message_seconds, 0.064);
}

TEST(Cost, OutputsGoToRank0AsCandidates) {
  // 3 rows, 8 bytes each, from rank 1 alone, which is on another node; a share of the plan without outputs has none.
  Plan plan = SmallPlan(1).plan;
  const RankPlaces places{{.tensor = 2, .experts = 2}, 2};
  const auto traffic = [&](int rank) {
    return step_cost(plan, places, rank, {3, 1, 5}, kMachine, WeightForm::f32, DType::f32).traffic;
  };
  EXPECT_FALSE(traffic(1).contains("outputs"));
  plan.output = *plan.ops.back().out;
  EXPECT_FALSE(traffic(1).contains("outputs")) << "both ranks have all columns";
  plan.output_part = {0, 8, 16};
  EXPECT_FALSE(traffic(0).contains("outputs"));
  EXPECT_EQ(traffic(1).at("outputs"),
            (Traffic{.messages = 1, .bytes = 24, .network_messages = 1, .network_bytes = 24, .network_rounds = 1}));
}

TEST(Cost, HomesHaveTheirShareOfTheSequences) {
  // Attention data parallelism of 2 ranks: 3 sequences are 2 at the busiest home, all 3 where rows are gathered.
  Plan plan = SmallPlan(1).plan;
  const Value sum = *plan.ops.back().out;
  plan.ops.pop_back();
  const Value part = *plan.ops.back().out;
  plan.storages.push_back({4, Rows::gathered});
  const Value all{static_cast<int>(plan.storages.size()) - 1, 0, 4, Rows::gathered};
  plan.ops.push_back({GatherRowsOp{}, {part}, all, "model.layers.0"});
  plan.ops.push_back({ReduceScatterOp{}, {all}, sum, "model.layers.0"});
  const RankPlaces places{{.tensor = 2, .experts = 2, .attention_dp = true}, 1};
  const StepCost cost = step_cost(plan, places, 0, {3, 1, 5}, kMachine, WeightForm::f32, DType::f32);
  EXPECT_DOUBLE_EQ(cost.cache_bytes, 2 * 5 * 32);
  EXPECT_EQ(cost.traffic.at("gather_rows"), (Traffic{.messages = 1, .bytes = 2 * 16}));
  EXPECT_EQ(cost.traffic.at("reduce_scatter"), (Traffic{.messages = 1, .bytes = 2 * 16}));
  EXPECT_EQ(cost.sent(), (Traffic{.messages = 2, .bytes = 64}));
}

}  // namespace
}  // namespace weft
