// Passes and executor: a plan gives the same bits before and after the passes, for any number of threads, with and
// without replay.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>

#include "base/files.h"
#include "plan/cpu_executor.h"
#include "plan/plan_builder.h"

namespace weft {
namespace {

constexpr int kVocab = 40, kHidden = 32, kHeads = 2, kHeadDim = 16, kTokens = 5;

// A layer of attention and a gated MLP with residual additions, and a head on some rows.
Plan record() {
  PlanBuilder b("test");
  const Scope root;
  Value x = b.embed(root / "embed", kVocab, kHidden, 1.0f);
  const Value h = b.norm(x, root / "norm_1", false, false, false, 1e-6f);
  const int q_cols = kHeads * kHeadDim;
  const Value qkv = b.linear(
      h, {.sources = {whole(root / "q", q_cols), whole(root / "k", q_cols), whole(root / "v", q_cols)}, .k = kHidden});
  const RopeAngles rope{.inv_freq = {1.0f, 0.5f, 0.25f, 0.1f, 0.05f, 0.02f, 0.01f, 0.005f}};
  const HeadsOptions heads{.heads = kHeads, .dim = kHeadDim};
  const Value q = b.heads(b.slice(qkv, 0, q_cols), root, rope, heads),
              k = b.heads(b.slice(qkv, q_cols, q_cols), root, rope, heads);
  const CacheRef cache = b.cache({.kv_heads = kHeads, .k_dim = kHeadDim, .v_dim = kHeadDim}, kHeads);
  b.append(k, b.slice(qkv, 2 * q_cols, q_cols), cache);
  x = b.add(x, b.linear(b.attend(q, cache, kHeads, 0.25f),
                        {.sources = {whole(root / "o", kHidden)}, .k = q_cols, .shard = Shard::rows}));
  (void)b.norm(x, root / "unused", false, false, false, 1e-6f);  // dead
  const Value gate = b.linear(b.norm(x, root / "norm_2", false, false, false, 1e-6f),
                              {.sources = {whole(root / "gate", 48), whole(root / "up", 48)}, .k = kHidden});
  x = b.add(x, b.linear(b.activate(gate, kernels::Activation::silu, true),
                        {.sources = {whole(root / "down", kHidden)}, .k = 48, .shard = Shard::rows}));
  b.set_output(b.linear(b.select(x), {.sources = {whole(root / "head", kVocab)}, .k = kHidden}), HeadKind::lm);
  return b.take();
}

// Its folder stays until the test has ended: a checkpoint whose files are gone is an error.
std::shared_ptr<const Checkpoint> dummy_checkpoint() {
  struct Folder {
    std::string path = (std::filesystem::temp_directory_path() / "weft_plan_XXXXXX").string();
    Folder() {
      EXPECT_NE(::mkdtemp(path.data()), nullptr);
      EXPECT_TRUE(write_file(path + "/config.json", R"({"architectures": ["X"]})").ok());
    }
    ~Folder() { std::filesystem::remove_all(path); }
  };
  static const Folder folder;
  auto checkpoint = Checkpoint::open_dummy(folder.path);
  return checkpoint.ok() ? *checkpoint : nullptr;
}

// An executor of record()'s plans with a cache of two blocks.
struct SmallExecutor {
  size_t stride =
      kernels::cache_layer_bytes({.kv_heads = kHeads, .k_dim = kHeadDim, .v_dim = kHeadDim, .dtype = DType::f32}, 16);
  Result<Memory> memory = Memory::reserve(stride * 2, false);
  CpuExecutor executor;
  SmallExecutor(const Plan& plan, const Weights& weights, const kernels::CpuTable& table, ThreadTeam& team)
      : executor(plan, weights, table, team, {{memory->data()}, {stride}, 16, DType::f32}, {8, 8, 2, 64}) {}
};

// Two steps of one sequence: kTokens - 1 tokens, then one; the outputs of all rows that were asked for.
std::vector<float> run(const Plan& plan, const kernels::CpuTable& table, kernels::WeightForm form, int threads,
                       bool replay) {
  ThreadTeam team(threads);
  auto weights = load_weights(plan, dummy_checkpoint(), table, team, {form, {}});
  EXPECT_TRUE(weights.ok());
  SmallExecutor small(plan, *weights, table, team);
  CpuExecutor& executor = small.executor;
  std::vector<float> outputs;
  int position = 0;
  for (int tokens : {kTokens - 1, 1}) {
    StepInputs& in = executor.inputs();
    in.tokens = tokens, in.outputs = tokens;
    for (int i = 0; i < tokens; ++i)
      in.ids[i] = 7 * (position + i) % kVocab, in.positions[i] = position + i, in.output_rows[i] = i;
    in.groups[0].block_table = {1};
    in.groups[0].sequences = {{0, tokens, position}};
    executor.run({}, replay);
    for (int r = 0; r < tokens; ++r)
      outputs.insert(outputs.end(), executor.output() + r * executor.output_ld(),
                     executor.output() + r * executor.output_ld() + kVocab);
    position += tokens;
  }
  return outputs;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * 4) == 0;
}

TEST(LoadWeights, AreTheSameWhoeverPacksThem) {
  const Plan plan = record();
  for (const kernels::CpuTable* table : kernels::available_tables())
    for (const kernels::WeightForm form : {kernels::WeightForm::f32, kernels::WeightForm::bf16}) {
      std::vector<std::vector<std::byte>> first;
      const auto check = [&](ThreadTeam& team) {
        const auto weights = load_weights(plan, dummy_checkpoint(), *table, team, {form, {}});
        ASSERT_TRUE(weights.ok()) << (weights.ok() ? "" : weights.error().to_string());
        std::vector<std::vector<std::byte>> packed;
        for (const kernels::PackedMatrix& m : weights->matrices) {
          EXPECT_EQ(reinterpret_cast<uintptr_t>(m.data) % 64, 0u);
          packed.emplace_back(m.data, m.data + (static_cast<size_t>(m.out) + m.panel - 1) / m.panel * m.panel_bytes);
        }
        if (first.empty()) first = packed;
        EXPECT_EQ(packed, first) << table->isa << ", " << team.size() << " threads";
      };
      for (const int threads : {1, 2, 5}) {
        ThreadTeam team(threads);
        check(team);
      }
      ThreadTeam apart({{}, {}, {}}, true);  // nobody helps another
      check(apart);
    }
}

TEST(Passes, ChangeNoBitOfTheResult) {
  for (const kernels::CpuTable* table : kernels::available_tables())
    for (const kernels::WeightForm form : {kernels::WeightForm::f32, kernels::WeightForm::bf16}) {
      const auto run_placed = [&](Plan plan) {
        return run(place_operands(std::move(plan), [&](const Matrix& m) { return table->operand(form_of(m, form)); }),
                   *table, form, 1, true);
      };
      const std::vector<float> plain = run_placed(record());
      EXPECT_TRUE(same_bits(run_placed(fuse_residual_adds(record())), plain)) << table->isa << ": residual adds";
      EXPECT_TRUE(same_bits(run_placed(fuse_gates(record())), plain)) << table->isa << ": gates";
      EXPECT_TRUE(same_bits(run(prepare_plan(record(), *table, form), *table, form, 1, true), plain))
          << table->isa << ": all passes";
    }
}

TEST(Passes, DoWhatTheySay) {
  const Plan plan = prepare_plan(record(), kernels::ref_table(), kernels::WeightForm::f32);
  int adds = 0, fused = 0, norms = 0, gates = 0, activations = 0;
  for (const Op& op : plan.ops) {
    adds += std::holds_alternative<kernels::Add>(op.kind), norms += std::holds_alternative<NormOp>(op.kind);
    activations += std::holds_alternative<ActivateOp>(op.kind);
    if (const auto* linear = std::get_if<LinearOp>(&op.kind))
      fused += linear->add, gates += linear->gate && plan.matrices[linear->matrix].gated;
  }
  EXPECT_EQ(gates, 1);
  EXPECT_EQ(activations, 0);
  EXPECT_EQ(adds, 0);
  EXPECT_EQ(fused, 2);
  EXPECT_EQ(norms, 2) << "the dead norm is gone";
}

// A gated activation stays where its input is read by somebody else too, or where its columns do not come in whole
// groups.
TEST(Passes, LeaveOtherActivations) {
  for (const bool read_twice : {true, false}) {
    PlanBuilder b("test");
    const Scope root;
    const int cols = read_twice ? 32 : 24;
    const Value x = b.embed(root / "embed", kVocab, kHidden, 1.0f);
    const Value both = b.linear(x, {.sources = {whole(root / "gate", cols), whole(root / "up", cols)}, .k = kHidden});
    Value y = b.linear(b.activate(both, kernels::Activation::silu, true),
                       {.sources = {whole(root / "down", 2 * cols)}, .k = cols});
    if (read_twice) y = b.add(y, both);
    b.set_output(y, HeadKind::reward_steps);
    const Plan plan = fuse_gates(b.take());
    for (const Matrix& m : plan.matrices) EXPECT_FALSE(m.gated) << read_twice;
    EXPECT_EQ(std::count_if(plan.ops.begin(), plan.ops.end(),
                            [](const Op& op) { return std::holds_alternative<ActivateOp>(op.kind); }),
              1);
  }
}

// Shares of decode steps and of others, by what the op is in every layer.
TEST(Executor, TakesTheTimesOfItsOps) {
  const kernels::CpuTable& table = kernels::ref_table();
  const Plan plan = prepare_plan(record(), table, kernels::WeightForm::f32);
  ThreadTeam team(2);
  const auto weights = load_weights(plan, dummy_checkpoint(), table, team, {kernels::WeightForm::f32, {}});
  ASSERT_TRUE(weights.ok());
  SmallExecutor small(plan, *weights, table, team);
  CpuExecutor& executor = small.executor;
  EXPECT_EQ(executor.op_times(), nullptr);
  executor.measure_ops();
  StepInputs& in = executor.inputs();
  for (const int outputs : {1, 2, 2}) {
    in.tokens = 2, in.outputs = outputs;
    for (int i = 0; i < 2; ++i) in.ids[i] = i, in.positions[i] = i, in.output_rows[i] = i;
    in.groups[0].block_table = {1}, in.groups[0].sequences = {{0, 2}};
    executor.run({}, true);
  }
  const auto runs = [&](bool decode, const char* op) -> int64_t {
    for (const OpTime& time : executor.op_times()->read(decode))
      if (time.op == op) {
        EXPECT_GT(time.seconds, 0);
        return time.runs;
      }
    return 0;
  };
  EXPECT_EQ(runs(false, "norm"), 2);
  EXPECT_EQ(runs(true, "norm"), 4);
  EXPECT_EQ(runs(true, "linear 96 x 32 gate.weight"), 2);
  EXPECT_EQ(runs(true, "activate"), 0);
}

TEST(Executor, ThreadsAndReplayChangeNoBit) {
  for (const kernels::CpuTable* table : kernels::available_tables()) {
    const Plan plan = prepare_plan(record(), *table, kernels::WeightForm::bf16);
    const std::vector<float> plain = run(plan, *table, kernels::WeightForm::bf16, 1, true);
    for (int threads : {2, 3})
      EXPECT_TRUE(same_bits(run(plan, *table, kernels::WeightForm::bf16, threads, true), plain)) << table->isa;
    EXPECT_TRUE(same_bits(run(plan, *table, kernels::WeightForm::bf16, 2, false), plain)) << table->isa;
  }
}

TEST(ExecutorDeathTest, RefusesStepsBeyondItsLimits) {
  const kernels::CpuTable& table = kernels::ref_table();
  const Plan plan = prepare_plan(record(), table, kernels::WeightForm::f32);
  ThreadTeam team(1);
  const auto weights = load_weights(plan, dummy_checkpoint(), table, team, {kernels::WeightForm::f32, {}});
  ASSERT_TRUE(weights.ok());
  SmallExecutor small(plan, *weights, table, team);  // of 8 tokens, 8 outputs and no mixed rows
  StepInputs& in = small.executor.inputs();
  const std::tuple<int, int, int> too_large[] = {{9, 1, 0}, {8, 9, 0}, {8, 8, 1}};
  for (const auto& [tokens, outputs, mixed] : too_large) {
    in.tokens = tokens, in.outputs = outputs, in.mixed = mixed;
    EXPECT_DEATH(small.executor.begin_pieces(), "larger than the executor");
    EXPECT_DEATH(small.executor.run({}), "larger than the executor");
  }
}

// Products of many rows are cut into pieces that threads take as they get done.
TEST(Executor, PiecesOfLargeProductsChangeNoBit) {
  constexpr int kRows = 500, kWide = 1024;
  PlanBuilder b("test");
  const Scope root;
  const Value both =
      b.linear(b.embed(root / "embed", kVocab, kHidden, 1.0f),
               {.sources = {whole(root / "gate", kWide / 2), whole(root / "up", kWide / 2)}, .k = kHidden});
  const Value wide = b.linear(b.activate(both, kernels::Activation::silu, true),
                              {.sources = {whole(root / "wide", kWide)}, .k = kWide / 2, .shard = Shard::rows});
  b.set_output(wide, HeadKind::reward_steps);
  const Plan recorded = b.take();
  for (const kernels::CpuTable* table : kernels::available_tables()) {
    const Plan plan = prepare_plan(recorded, *table, kernels::WeightForm::bf16);
    std::vector<float> plain;
    for (const int threads : {1, 2, 3}) {
      ThreadTeam team(threads);
      const auto weights = load_weights(plan, dummy_checkpoint(), *table, team, {kernels::WeightForm::bf16, {}});
      ASSERT_TRUE(weights.ok());
      CpuExecutor executor(plan, *weights, *table, team, {{}, {}, 16, DType::f32}, {kRows, kRows, 1, 512});
      StepInputs& in = executor.inputs();
      in.tokens = in.outputs = kRows;
      for (int i = 0; i < kRows; ++i) in.ids[static_cast<size_t>(i)] = i % kVocab;
      for (const int step : {0, 1}) {
        executor.run({}, true);
        std::vector<float> outputs;
        for (int r = 0; r < kRows; ++r)
          outputs.insert(outputs.end(), executor.output() + r * executor.output_ld(),
                         executor.output() + r * executor.output_ld() + kWide);
        if (plain.empty()) plain = outputs;
        EXPECT_TRUE(same_bits(outputs, plain)) << table->isa << ", " << threads << " threads, step " << step;
      }
    }
  }
}

// The values of one step of record()'s plan by name, and the step's outputs.
struct Traced {
  std::vector<TracedValue> values;
  std::vector<float> outputs;
  Json ops;
  const TracedValue& operator[](const std::string& name) const {
    for (const TracedValue& value : values)
      if (value.name == name) return value;
    ADD_FAILURE() << "no value " << name;
    return values.front();
  }
};

Traced trace(const kernels::CpuTable& table, kernels::WeightForm form, std::vector<std::string> prefixes = {}) {
  const Plan plan = prepare_plan(record(), table, form);
  ThreadTeam team(2);
  const auto weights = load_weights(plan, dummy_checkpoint(), table, team, {form, {}});
  EXPECT_TRUE(weights.ok());
  SmallExecutor small(plan, *weights, table, team);
  PlanTrace trace(std::move(prefixes));
  small.executor.trace(trace.add_plan(plan, ""));
  StepInputs& in = small.executor.inputs();
  in.tokens = 2, in.outputs = 1, in.output_rows[0] = 1;
  for (int i = 0; i < 2; ++i) in.ids[i] = 3 + i, in.positions[i] = i;
  in.groups[0].block_table = {1}, in.groups[0].sequences = {{0, 2, 0, 0, 0}};
  small.executor.run({}, true);
  const float* output = small.executor.output();
  return {trace.take(), {output, output + kVocab}, trace.describe()};
}

TEST(Trace, NamesEveryValue) {
  const Traced traced = trace(kernels::ref_table(), kernels::WeightForm::f32);
  std::vector<std::string> names;
  for (const TracedValue& value : traced.values) names.push_back(value.name);
  EXPECT_EQ(names, (std::vector<std::string>{"embed", "norm_1", "q", "k", "v", "rope_angles", "q:rotated", "k:rotated",
                                             "attend", "o:residual", "norm_2", "gate:gated", "down:residual", "select",
                                             "head"}));
  EXPECT_EQ(traced["v"].rows, 2);
  EXPECT_EQ(traced["v"].cols, kHeads * kHeadDim);
  EXPECT_EQ(traced["gate:gated"].cols, 48);
  EXPECT_EQ(traced["head"].rows, 1) << "only the rows whose output is wanted";
  EXPECT_TRUE(same_bits(traced["head"].values, traced.outputs));
  std::map<std::string, std::string> inputs;
  for (const Json& op : traced.ops.items()) inputs[op.find("name")->as_string()] = op.find("input")->dump();
  EXPECT_EQ(inputs["norm_2"], R"(["o:residual"])");
  EXPECT_EQ(inputs["attend"], R"(["q:rotated"])");
  EXPECT_EQ(inputs["down:residual"], R"(["gate:gated"])");
}

// A value is read before another takes its memory, and the step's outputs are those of a step that is not traced.
TEST(Trace, ChangesNoBit) {
  for (const kernels::CpuTable* table : kernels::available_tables()) {
    const Traced all = trace(*table, kernels::WeightForm::bf16);
    const Traced one = trace(*table, kernels::WeightForm::bf16, {"norm_2", "select"});
    ASSERT_EQ(one.values.size(), 2u) << table->isa;
    for (const TracedValue& value : one.values) EXPECT_TRUE(same_bits(value.values, all[value.name].values));
    EXPECT_TRUE(same_bits(one.outputs, all.outputs)) << table->isa;
    const Plan plan = prepare_plan(record(), *table, kernels::WeightForm::bf16);
    ThreadTeam team(2);
    const auto weights = load_weights(plan, dummy_checkpoint(), *table, team, {kernels::WeightForm::bf16, {}});
    ASSERT_TRUE(weights.ok());
    SmallExecutor plain(plan, *weights, *table, team);
    StepInputs& in = plain.executor.inputs();
    in.tokens = 2, in.outputs = 1, in.output_rows[0] = 1;
    for (int i = 0; i < 2; ++i) in.ids[i] = 3 + i, in.positions[i] = i;
    in.groups[0].block_table = {1}, in.groups[0].sequences = {{0, 2, 0, 0, 0}};
    plain.executor.run({}, true);
    EXPECT_TRUE(same_bits({plain.executor.output(), plain.executor.output() + kVocab}, all.outputs)) << table->isa;
  }
}

// The kernel of the angles leaves no gaps between rows, wherever the layout's would be.
TEST(Trace, ReadsAnglesWithoutGaps) {
  PlanBuilder b("test");
  const Value angles = b.rope_angles({.inv_freq = {1.0f, 0.5f, 0.25f}});
  b.set_output(angles, HeadKind::reward_steps);
  const Plan plan = b.take();
  ThreadTeam team(1);
  const auto weights =
      load_weights(plan, dummy_checkpoint(), kernels::ref_table(), team, {kernels::WeightForm::f32, {}});
  ASSERT_TRUE(weights.ok());
  CpuExecutor executor(plan, *weights, kernels::ref_table(), team, {{}, {}, 16, DType::f32}, {2, 2, 1, 2});
  PlanTrace trace({});
  executor.trace(trace.add_plan(plan, ""));
  executor.inputs().tokens = executor.inputs().outputs = 2;
  executor.inputs().positions = {0, 2};
  executor.run({}, true);
  const std::vector<TracedValue> values = trace.take();
  ASSERT_EQ(values.size(), 1u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(values[0].values[i], 1.0f);
    EXPECT_NEAR(values[0].values[6 + i], std::cos(std::ldexp(2.0, -i)), 1e-6);
    EXPECT_NEAR(values[0].values[9 + i], std::sin(std::ldexp(2.0, -i)), 1e-6);
  }
}

// Values in the forms that products read are given as numbers: each within the form's rounding of the float32 value.
TEST(Trace, ConvertsOperands) {
  constexpr int kCols = 70, kRows = 2;
  for (const kernels::Operand operand :
       {kernels::Operand::f32, kernels::Operand::bf16, kernels::Operand::f32_as_bf16, kernels::Operand::int8}) {
    Plan plan;
    plan.storages = {{kCols, Rows::tokens}, {kCols, Rows::tokens, operand}};
    plan.ops.push_back({ToOperandOp{}, {{0, 0, kCols}}, Value{1, 0, kCols}, "w.weight"});
    std::vector<float> x(kRows * kCols);
    for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i)) * (i < kCols ? 1.0f : 30.0f);
    const int64_t ld = kernels::operand_row_elements(operand, kCols);
    std::vector<float> memory(static_cast<size_t>(kRows * ld));  // as many bytes as any form needs
    kernels::ref_table().run(kernels::ToOperandArgs{x.data(), kCols, kCols, operand, memory.data(), ld}, kRows, {0, 1});
    PlanTrace trace({});
    trace.add_plan(plan, "").ran(0, kRows, memory.data(), ld);
    const std::vector<TracedValue> values = trace.take();
    ASSERT_EQ(values.size(), 1u);
    EXPECT_EQ(values[0].name, "w:to_operand");
    for (size_t i = 0; i < x.size(); ++i) {
      const float largest = i < kCols ? 1.0f : 30.0f;
      const float rounding = operand == kernels::Operand::f32    ? 0
                             : operand == kernels::Operand::int8 ? 0.51f * largest / 127
                                                                 : std::abs(x[i]) / 256;
      EXPECT_NEAR(values[0].values[i], x[i], rounding) << "operand " << static_cast<int>(operand) << ", " << i;
    }
  }
}

TEST(Arena, LivingValuesDoNotOverlap) {
  const Plan plan = prepare_plan(record(), kernels::ref_table(), kernels::WeightForm::f32);
  const Arena arena = lay_out(plan, {8, 8});
  size_t sum = 0;
  for (size_t s = 0; s < plan.storages.size(); ++s) sum += 8 * static_cast<size_t>(arena.ld[s]) * 4;
  EXPECT_LT(arena.bytes, sum) << "values share memory";
  EXPECT_TRUE(find_barriers(plan, arena, {8, 8}).back()) << "the head reads what other threads wrote";
}

}  // namespace
}  // namespace weft
