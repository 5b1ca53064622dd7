// Runs a plan on some ranks, for the tests of split.cc: what comes out for each of a few sequences, over several steps.
#pragma once

#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "checkpoint/adapter.h"
#include "plan/ranked_executor.h"
#include "plan/weight_formats.h"

namespace weft {

// A sequence's next tokens in a step.
struct StepRows {
  int sequence = 0, tokens = 0;
};
using Steps = std::vector<std::vector<StepRows>>;

// Weights and a cache that a plan is tested with.
struct Format {
  const char* name;
  FormatOptions options;
  DType cache = DType::f32;
  bool pack = false;
};
inline void PrintTo(const Format& format, std::ostream* out) { *out << format.name; }

struct RunOptions {
  const kernels::CpuTable* table = &kernels::ref_table();
  FormatOptions formats;
  bool pack = false;
  DType cache = DType::f32;
  int threads_per_rank = 1;
  bool replay = true;
  int piece_rows = 0;                    // ExecutorLimits
  std::vector<int> home_of = {0, 0, 0};  // of each sequence
  std::vector<int> images = {0, 0, 0};   // keys of each sequence's images, for plans with cross attention
  // Which of the adapters each sequence has (-1: none); no adapters: the plans do without.
  std::vector<std::shared_ptr<const Adapter>> adapters;
  std::vector<int> adapter_of = {-1, -1, -1};
  // Prompts of several sequences, then a token each, then one sequence alone.
  Steps steps = {{{0, 5}, {1, 3}}, {{0, 1}, {1, 1}, {2, 20}}, {{2, 1}}, {{1, 1}, {0, 2}}};
};

struct RankedRun {
  std::string error;
  PlanShares shares;
  // The bits of the output at every token of each sequence, and those of the taps.
  std::vector<std::vector<uint32_t>> outputs, taps;
};

RankedRun run_on_ranks(const Plan& recorded, const std::shared_ptr<const Checkpoint>& checkpoint,
                       const RankLayout& layout, const RunOptions& options);

// Factors of random numbers for the modules of a plan whose names have `part` in them.
std::shared_ptr<const Adapter> random_adapter(const Plan& plan, int rank, uint32_t seed, const std::string& part = "");

// A checkpoint of random numbers for whatever a plan reads.
std::shared_ptr<const Checkpoint> dummy_weights();
// The same numbers each time, on disk; with an adapter's factors multiplied and added to the weights.
std::shared_ptr<const Checkpoint> merged_weights(const Plan& plan, const Adapter* adapter);
// A checkpoint on disk with the tensors that a plan names, the matrices in fp8 with a scale for each square of
// `scale_block` or, if that is 0, for each row. It is gone with the last pointer.
std::shared_ptr<const Checkpoint> fp8_weights(const Plan& plan, int64_t scale_block);

}  // namespace weft
