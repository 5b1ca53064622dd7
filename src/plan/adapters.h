// Low-rank adapters over a plan: for the rows of a step that have one, what its factors make of a product's input is
// added to the product, y += B (A x). Neither blocks nor models know of it.
//
// A plan with adapters is a rewrite of a rank's share. It computes what the share computes, bit for bit, in rows
// without an adapter, over the same weights; steps in which no row has one run the share itself (RankedExecutor). A and
// B multiply with the kernels of all matrix products, adapter by adapter over the rows that have it (a row map, as for
// experts), so no row's bits depend on others. B has the scale in it.
//
// Ranks: A has what the rank has of the matrix's k, and B what it has of its outputs. Where ranks share k, the parts of
// A x are added up in the tree of the matrix's shards, before B. Experts that ranks share are whole on each.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "checkpoint/adapter.h"
#include "kernels/kernels.h"
#include "plan/memory.h"
#include "plan/plan.h"

namespace weft {

struct AdapterForm {
  kernels::WeightForm form = kernels::WeightForm::f32;  // of the factors: float32 or bfloat16, as the model's
  int max_rank = 0;                                     // of each module
};

// `fused`: a rank's share after fuse_gates(), before place_operands(). The result's matrices are the same.
Plan add_adapters(Plan fused, const kernels::CpuTable& table, const AdapterForm& form);

// What a rank has of an adapter: per site of its plan, packed.
struct AdapterWeights {
  struct Product {
    kernels::PackedMatrix b;
    int from = 0;  // the column of what A has made that k begins with
    int to = 0;    // the column of the product's output that is the first
  };
  struct Site {
    kernels::PackedMatrix a;  // of all modules of the matrix together; no data: none of them has factors
    std::vector<Product> products;
  };
  std::vector<Site> sites;
  std::vector<Memory> memory;
  int64_t bytes = 0;
};

// The factors of `adapter` for `plan`, a result of add_adapters(). Errors: resource_exhausted.
Result<AdapterWeights> pack_adapter(const Plan& plan, const Adapter& adapter, const kernels::CpuTable& table,
                                    const AdapterForm& form);

// A module of a model that adapters may change.
struct AdapterModule {
  int64_t in = 0, out = 0;
};
// By the name that Adapter has. `whole`: the plan as it was recorded.
std::map<std::string, AdapterModule> adapter_modules(const Plan& whole);
// Whether the adapter is for the model. Errors name the tensor and the file: a module that the model does not have or
// that takes no adapter (the head, embeddings, the absorbed kv_b_proj of latent attention, vision towers), a shape that
// is another than the module's, a rank above `max_rank` (of --max-lora-rank).
Status check_adapter(const std::map<std::string, AdapterModule>& modules, const Adapter& adapter, int max_rank);

}  // namespace weft
