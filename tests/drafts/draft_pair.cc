#include "drafts/draft_pair.h"

#include <gtest/gtest.h>

#include <numeric>

#include "base/count_allocations.h"

namespace weft::testing {

CacheMemory DraftPair::reserve(const std::vector<LayerGroup>& groups, DType dtype) {
  CacheMemory cache;
  cache.tokens_per_block = kBlock, cache.dtype = dtype;
  for (const LayerGroup& group : groups) {
    CacheSpec spec = group.spec;
    spec.dtype = dtype;
    const size_t bytes = kernels::cache_layer_bytes(spec, kBlock) * group.layers;
    auto memory = Memory::reserve(bytes * kSlots * (kMaxLength / kBlock), false);
    EXPECT_TRUE(memory.ok());
    cache.base.push_back(memory->data()), cache.block_stride_bytes.push_back(bytes);
    memory_.push_back(std::move(memory).value());
  }
  return cache;
}

void DraftPair::fill_table(std::vector<int32_t>& table) {
  table.resize(static_cast<size_t>(kSlots) * (kMaxLength / kBlock));
  std::iota(table.rbegin(), table.rend(), 0);
}

Result<std::unique_ptr<DraftPair>> DraftPair::load(const std::string& target, const SpeculationOptions& options,
                                                   int threads, bool all_logits, ModelOptions model_options) {
  std::unique_ptr<DraftPair> pair(new DraftPair(threads));
  if (model_options.dtype == ComputeType::automatic) model_options.dtype = ComputeType::float32;
  WEFT_TRY(const DraftInfo info, inspect_draft(options, target, model_options));
  model_options.taps = info.taps;
  WEFT_TRY(Model model, load_model(target, pair->ranks_, model_options));
  pair->target_ = std::make_unique<Model>(std::move(model));
  const Model& t = *pair->target_;
  pair->executor_ = std::make_unique<CpuExecutor>(t.plan(), t.weights(), *t.table, pair->ranks_.threads(),
                                                  pair->reserve(t.plan().groups, t.kv_dtype),
                                                  ExecutorLimits{kMaxTokens, kMaxTokens, kSlots, kMaxLength});
  for (GroupInputs& group : pair->executor_->inputs().groups) fill_table(group.block_table);
  WEFT_TRY(DraftModel draft, load_draft(options, t, model_options, pair->ranks_));
  CacheMemory cache = pair->reserve(ModelDrafter::groups_of(draft).front(), draft.kv_dtype);
  WEFT_TRY(pair->drafter_, ModelDrafter::create(std::move(draft), t, pair->ranks_, {std::move(cache)},
                                                {kMaxTokens, kSlots, kMaxLength, 8, all_logits}));
  for (size_t g = 0; g < pair->drafter_->groups().size(); ++g)
    fill_table(pair->drafter_->block_table(static_cast<int>(g)));
  return pair;
}

Taps DraftPair::taps_of(const std::vector<float>& features) const {
  if (!features.empty()) return {{features.data()}, taps()};
  if (drafter_->model().reads_states()) return {{executor_->taps()}, executor_->taps_ld()};
  return {{nullptr}, 0};
}

std::vector<std::vector<int32_t>> DraftPair::step(const std::vector<Sequence>& sequences,
                                                  const std::vector<float>& features) {
  StepInputs& in = executor_->inputs();
  in.tokens = in.outputs = 0;
  for (GroupInputs& group : in.groups) group.sequences.clear();
  std::vector<std::vector<int32_t>> drafts(sequences.size());
  for (std::vector<int32_t>& list : drafts) list.reserve(kMostDrafts);
  std::vector<DraftRow> rows;
  for (const Sequence& s : sequences) {
    const int first_row = in.tokens, count = static_cast<int>(s.tokens.size());
    if (s.first == 0) drafter_->open(s.slot);
    for (GroupInputs& group : in.groups)
      group.sequences.push_back({first_row, count, s.first, static_cast<int64_t>(s.slot) * (kMaxLength / kBlock)});
    for (int i = 0; i < count; ++i) {
      in.ids[in.tokens] = s.tokens[i], in.positions[in.tokens] = s.first + i;
      in.output_rows[in.outputs++] = in.tokens++;
    }
    rows.push_back({.slot = s.slot,
                    .first_row = first_row,
                    .rows = count,
                    .first_position = s.first,
                    .token = s.tokens[0],
                    .next = s.next,
                    .drafts = s.drafts,
                    .first_key = s.first_key,
                    .end = s.end,
                    .noise = s.noise,
                    .out = &drafts[rows.size()]});
  }
  const Taps taps = taps_of(features);
  executor_->run([&](kernels::Part part) {
    if (part.index == 0) {
      drafting_allocations_ = allocations();
      drafter_->begin(rows, taps);
    }
    ranks_.threads().barrier();
    drafter_->walk(part);
    if (part.index == 0) drafting_allocations_ = allocations() - drafting_allocations_;
  });
  return drafts;
}

}  // namespace weft::testing
