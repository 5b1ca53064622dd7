// A plan's weights in memory: matrices in the kernels' packed form, vectors in float32, embedding tables as rows.
//
// Loading goes from the checkpoint's files straight into the packed layout, all threads at once, panel by panel; pages
// of the files are let go as soon as they are packed, so that no two full copies are held. Nothing of the files is used
// afterwards, so that they may change or go; if they change while they are read, loading fails. What was packed before
// is mapped where a PackedCache has it.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "base/result.h"
#include "base/thread_team.h"
#include "checkpoint/checkpoint.h"
#include "plan/memory.h"
#include "plan/packed_cache.h"
#include "plan/plan.h"
#include "plan/weight_formats.h"

namespace weft {

struct EmbeddingTable {
  const void* rows = nullptr;  // [vocab, cols] of `type`
  DType type = DType::f32;
};

struct Weights {
  std::vector<kernels::PackedMatrix> matrices;  // as Plan::matrices
  std::vector<const float*> biases;             // per matrix, null without
  std::vector<std::vector<float>> vectors;      // as Plan::vectors
  std::vector<EmbeddingTable> tables;           // as Plan::tables
  int64_t bytes = 0;                            // held in memory by this object

  // Weights that another plan reads too (Borrowed). Its embedding is a table, or (tied) a matrix.
  struct Lent {
    EmbeddingTable table;
    kernels::PackedMatrix embedding, head;
  };

  // data_corrupt if a file that the weights lie in was damaged while it was in use, with its name. Quick; any thread.
  Status check() const { return file.file ? file.file->check_pages() : Status(); }

  // What the pointers point into.
  std::vector<Memory> memory;
  PackedFile file;  // of packed weights that were found; null: there was none
  std::vector<std::vector<float>> bias_values;
  std::shared_ptr<PackedCache::Writer> writer;  // reads from `memory`, so it goes first
};

struct LoadOptions {
  // of matrices without a format of their own, and of widened tables
  kernels::WeightForm form = kernels::WeightForm::f32;
  std::function<void(int64_t done_bytes, int64_t total_bytes)> progress;  // any thread
  // Quantised matrices: none takes the codes as stored; else they are made from the tensors' float values.
  Quantize quantize = Quantize::none;
  bool pack = false;        // bfloat16 matrices go into 12 bits a weight, but for those whose weights do not fit
  Weights::Lent lent = {};  // where the plan borrows; must outlive the result
  // Other ranks' shares of the same plan on the same memory: what is equal there is not held twice. Must outlive the
  // result.
  struct Other {
    const Plan* plan;
    const Weights* weights;
  };
  std::vector<Other> others = {};
  std::shared_ptr<const PackedCache> packed_cache = nullptr;  // where the packed form is looked for and kept
  // The threads of the team that will read the weights; 0: all of them.
  int first_thread = 0, threads = 0;
};

// Every tensor that the plan names must be in the checkpoint with the plan's shape; all that are not are reported
// together.
Result<Weights> load_weights(const Plan& plan, std::shared_ptr<const Checkpoint> checkpoint,
                             const kernels::CpuTable& table, ThreadTeam& team, const LoadOptions& options);

}  // namespace weft
