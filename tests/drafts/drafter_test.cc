// What holds for drafts of every kind: reading the target's states changes no bit of it, a draft depends on its own
// sequence alone, and a steady step allocates nothing.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "base/count_allocations.h"
#include "checkpoint/safetensors.h"
#include "drafts/draft_pair.h"
#include "sampling/philox.h"
#include "support/reference_case.h"

namespace weft::testing {
namespace {

SpeculationOptions eagle3() { return {.method = DraftMethod::eagle3, .model = test_data("drafts/eagle3-llama-3.1")}; }
SpeculationOptions draft_model(const std::string& name) {
  return {.method = DraftMethod::draft_model, .model = test_data("golden/" + name)};
}

std::unique_ptr<DraftPair> load(const std::string& target, const SpeculationOptions& options, int threads = 2,
                                ModelOptions model_options = {}) {
  auto pair = DraftPair::load(test_data(target), options, threads, false, std::move(model_options));
  EXPECT_TRUE(pair.ok()) << pair.error().to_string();
  return pair.ok() ? std::move(pair).value() : nullptr;
}

ReferencePrompt prompt_of(const std::string& name, const std::string& prompt) {
  auto read = read_reference_case(name);
  EXPECT_TRUE(read.ok());
  const auto found = std::ranges::find(read->prompts, prompt, &ReferencePrompt::name);
  EXPECT_NE(found, read->prompts.end());
  return *found;
}

std::vector<int32_t> part(const std::vector<int32_t>& all, int first, int end) {
  return {all.begin() + first, all.begin() + end};
}

// Rows first ... end - 1 of a text, of which token `end` is the last one known.
Sequence rows(const std::vector<int32_t>& text, int first, int end, int drafts, Slot slot = 0, float temperature = 0) {
  Sequence s{.slot = slot,
             .tokens = part(text, first, end),
             .next = part(text, first + 1, end + 1),
             .first = first,
             .drafts = drafts};
  s.noise = {temperature, 7};
  return s;
}

// ---- Taps -----------------------------------------------------------------------------------------------------------

class Taps : public ::testing::TestWithParam<std::string> {};

std::vector<float> logits_of(const Model& model, const RankTeam& ranks, const std::vector<int32_t>& tokens) {
  CacheMemory cache;
  cache.tokens_per_block = 64, cache.dtype = model.kv_dtype, cache.local_dtype = model.local_kv_dtype();
  std::vector<Memory> memory;
  const auto count = static_cast<int>(tokens.size());
  for (const LayerGroup& group : model.plan().groups) {
    CacheSpec spec = group.spec;
    spec.dtype = model.kv_dtype;
    cache.block_stride_bytes.push_back(kernels::cache_layer_bytes(spec, 64) * group.layers);
    memory.push_back(std::move(Memory::reserve(cache.block_stride_bytes.back(), false)).value());
    cache.base.push_back(memory.back().data());
  }
  CpuExecutor executor(model.plan(), model.weights(), *model.table, ranks.threads(), cache, {count, count, 1, count});
  StepInputs& in = executor.inputs();
  in.tokens = in.outputs = count;
  for (int i = 0; i < count; ++i) {
    in.ids[i] = tokens[i], in.output_rows[i] = i;
    for (int axis = 0; axis < model.plan().position_axes; ++axis) in.positions[axis * count + i] = i;
  }
  for (GroupInputs& group : in.groups) group.block_table = {0}, group.sequences = {{0, count, 0}};
  if (model.plan().cross_group) in.cross.sequences = {{0, count, 0}};
  executor.run({});
  std::vector<float> logits;
  for (int i = 0; i < count; ++i)
    logits.insert(logits.end(), executor.output() + i * executor.output_ld(),
                  executor.output() + i * executor.output_ld() + executor.output_cols());
  return logits;
}

TEST_P(Taps, ChangeNoBit) {
  const RankTeam ranks(2);
  std::vector<int32_t> tokens;
  for (int i = 0; i < 40; ++i) tokens.push_back(3 + 7 * i % 200);
  for (const ComputeType dtype : {ComputeType::float32, ComputeType::bfloat16}) {
    const std::string folder = test_data("golden/" + GetParam());
    auto plain = load_model(folder, ranks, {.dtype = dtype});
    ASSERT_TRUE(plain.ok());
    if (plain->plan().head != HeadKind::lm) GTEST_SKIP() << "does not generate";
    int layers = 0;
    while (load_model(folder, ranks, {.dtype = dtype, .taps = {layers + 1}}).ok()) ++layers;
    ASSERT_GT(layers, 0);
    std::vector<int> all;
    for (int i = 0; i <= layers; ++i) all.push_back(i);
    auto tapped = load_model(folder, ranks, {.dtype = dtype, .taps = all});
    ASSERT_TRUE(tapped.ok());
    const std::vector<float> want = logits_of(*plain, ranks, tokens), got = logits_of(*tapped, ranks, tokens);
    ASSERT_EQ(want.size(), got.size());
    EXPECT_EQ(std::memcmp(want.data(), got.data(), want.size() * sizeof(float)), 0);
  }
}

INSTANTIATE_TEST_SUITE_P(, Taps, ::testing::ValuesIn(reference_case_names()), test_name);

// ---- A draft that is the target itself ------------------------------------------------------------------------------

class PerfectDraft : public ::testing::TestWithParam<std::string> {};

// It proposes the target's own continuation, behind a prompt in chunks and behind each accepted run.
TEST_P(PerfectDraft, ProposesTheTargetsTokens) {
  auto pair = load("golden/" + GetParam(), draft_model(GetParam()));
  ASSERT_TRUE(pair);
  const ReferencePrompt prompt = prompt_of(GetParam(), "medium");
  std::vector<int32_t> text = prompt.input_ids;
  const auto length = static_cast<int>(text.size());
  text.insert(text.end(), prompt.greedy.begin(), prompt.greedy.end());
  pair->step({rows(text, 0, 17, 0)});
  int done = 17;
  for (int end = length, drafts = 4; end + drafts < static_cast<int>(text.size()); done = end, end += 3) {
    EXPECT_EQ(pair->step({rows(text, done, end, drafts)})[0], part(text, end + 1, end + 1 + drafts))
        << "behind " << end;
  }
}

INSTANTIATE_TEST_SUITE_P(, PerfectDraft,
                         ::testing::Values("llama-3.1", "mistral-swa", "gemma3-1b", "qwen3-moe", "deepseek-v3"),
                         test_name);

TEST(Drafter, DrawsWithTheTargetsNoise) {
  auto pair = load("golden/llama-3.1", draft_model("llama-3.1"));
  ASSERT_TRUE(pair);
  const std::vector<int32_t> text = prompt_of("llama-3.1", "medium").input_ids;
  const auto last = static_cast<int>(text.size()) - 1;
  const int32_t draft = pair->step({rows(text, 0, last, 1, 0, 1.5f)})[0][0];
  pair->step({rows({text.back(), 0}, 0, 1, 0, 1)});  // elsewhere
  // The target's logits behind the known tokens.
  std::vector<int32_t> more = text;
  more.push_back(0);
  pair->step({rows(more, last, last + 1, 0)});
  const float* logits = pair->executor().output();
  int32_t want = -1;
  double best = -1e30;
  for (int32_t id = 0; id < pair->target().vocab; ++id)
    if (const double value = logits[id] / 1.5 + gumbel_noise(7, last + 1, id); value > best) best = value, want = id;
  EXPECT_EQ(draft, want);
}

// ---- Of its own sequence alone --------------------------------------------------------------------------------------

struct Kind {
  const char* name;
  const char* target;
  SpeculationOptions (*options)();
};

class EveryKind : public ::testing::TestWithParam<Kind> {
 protected:
  std::unique_ptr<DraftPair> load_pair(int threads) { return load(GetParam().target, GetParam().options(), threads); }
};

std::vector<int32_t> some_text(int seed) {
  std::vector<int32_t> text;
  for (int i = 0; i < 60; ++i) text.push_back(3 + (seed * 31 + i * i * 7 + i * 11) % 400);
  return text;
}

// Mates, other slots, chunks, threads, drafts that were wrong: the same proposals. `load`: a pair of so many threads.
template <class Load>
void check_that_only_the_text_counts(const Load& load) {
  const std::vector<int32_t> text = some_text(1), other = some_text(2);
  std::vector<std::vector<int32_t>> want;
  for (const float temperature : {0.0f, 5.0f}) {
    auto alone = load(1);
    ASSERT_TRUE(alone);
    const std::vector<int32_t> plain = alone->step({rows(text, 0, 40, 5, 0, temperature)})[0];
    EXPECT_EQ(plain.size(), 5u);
    want.push_back(plain);
    auto mixed = load(3);
    ASSERT_TRUE(mixed);
    mixed->step({rows(other, 0, 20, 3, 2), rows(text, 0, 13, 0, 1, temperature)});
    mixed->step({rows(text, 13, 35, 8, 1, temperature), rows(other, 20, 21, 8, 2)});
    mixed->step({rows(other, 21, 24, 1, 2), rows(text, 35, 37, 2, 1, temperature)});
    mixed->step({rows(text, 37, 38, 0, 1, temperature)});
    EXPECT_EQ(mixed->step({rows(other, 24, 25, 2, 2), rows(text, 38, 40, 5, 1, temperature)})[1], plain);
    EXPECT_EQ(mixed->step({rows(text, 0, 40, 3, 1, temperature)})[0], part(plain, 0, 3));
  }
  EXPECT_NE(want[0], want[1]);
}

TEST_P(EveryKind, DependsOnTheTextAlone) {
  check_that_only_the_text_counts([&](int threads) { return load_pair(threads); });
}

// Whatever form weights and cache have, those that the draft borrows included.
TEST_P(EveryKind, RunsInEveryForm) {
  for (const Quantize quantize : {Quantize::none, Quantize::int8, Quantize::int4})
    for (const KvCacheType cache : {KvCacheType::automatic, KvCacheType::int8})
      check_that_only_the_text_counts([&](int threads) {
        return load(GetParam().target, GetParam().options(), threads,
                    {.dtype = ComputeType::bfloat16, .kv_dtype = cache, .quantize = quantize});
      });
}

// Positions at the end of the table are left out.
TEST_P(EveryKind, EndsWithItsBlocks) {
  auto pair = load_pair(2);
  ASSERT_TRUE(pair);
  Sequence s = rows(some_text(1), 0, 40, 5);
  const std::vector<int32_t> all = pair->step({s})[0];
  for (int end = 40; end < 46; ++end) {
    s.end = end;
    EXPECT_EQ(pair->step({s})[0], part(all, 0, std::min(5, end - 40))) << end;
  }
}

TEST_P(EveryKind, ASteadyStepAllocatesNothing) {
  auto pair = load_pair(2);
  ASSERT_TRUE(pair);
  const std::vector<int32_t> text = some_text(1);
  pair->step({rows(text, 0, 20, 4, 0, 1), rows(text, 0, 20, 4, 1)});
  for (int i = 20; i < 40; ++i) {
    const std::vector<Sequence> step{rows(text, i, i + 1, 4, 0, 1), rows(text, i, i + 1, 4, 1)};
    pair->step(step);
    if (i > 22) {
      EXPECT_EQ(pair->drafting_allocations(), 0u) << i;
    }
  }
}

// A head beside targets of other families: windows, chunks, tied and scaled embeddings, layers without attention.
class EveryTarget : public ::testing::TestWithParam<std::string> {};

TEST_P(EveryTarget, HasItsStatesRead) {
  SpeculationOptions options = eagle3();
  options.layers = {0, 2, 3};
  check_that_only_the_text_counts([&](int threads) { return load("golden/" + GetParam(), options, threads); });
}

INSTANTIATE_TEST_SUITE_P(, EveryTarget,
                         ::testing::Values("decilm-51b", "deepseek-v3", "gemma2", "gemma3-1b", "llama4", "mistral-swa",
                                           "mixtral", "nemotron", "qwen2-swa", "qwen2-vl", "qwen3", "qwen3-moe"),
                         test_name);

INSTANTIATE_TEST_SUITE_P(
    , EveryKind,
    ::testing::Values(Kind{"eagle3", "golden/llama-3.1", eagle3},
                      Kind{"eagle3_of_its_own", "golden/llama-3.1",
                           [] {
                             SpeculationOptions own = eagle3();
                             own.one_model = false, own.dtype = ComputeType::bfloat16;
                             return own;
                           }},
                      Kind{"mtp", "golden/deepseek-v3", [] { return SpeculationOptions{.method = DraftMethod::mtp}; }},
                      Kind{"mtp2", "drafts/mtp2-deepseek-v3-fp8",
                           [] { return SpeculationOptions{.method = DraftMethod::mtp}; }},
                      Kind{"draft_model", "golden/llama-3.1", [] { return draft_model("llama-sharded-bf16"); }},
                      Kind{"draft_window", "golden/llama-3.1", [] { return draft_model("mistral-swa"); }}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace weft::testing
