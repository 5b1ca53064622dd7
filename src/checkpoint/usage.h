// Keeps track of the tensors that a model takes: which were taken, which were requested but are absent or have another
// shape or kind, and which nobody asked for. The errors are reported together at the end, so that one run shows all
// that is wrong with a folder.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "checkpoint/checkpoint.h"

namespace weft {

// Not thread-safe: used by the one thread that builds a model.
class TensorUsage {
 public:
  // `checkpoint` must outlive this object and the tensors it hands out (for a dummy checkpoint, this object owns them).
  explicit TensorUsage(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  // A float tensor of exactly this shape (-1 matches any extent, but not for dummy checkpoints). Null, and remembered
  // for finish(), if it is absent, has another shape or holds integers. A scale that belongs to it counts as taken too.
  const TensorInfo* take(std::string_view name, const std::vector<int64_t>& shape);
  // As take(), but absence is fine (null, nothing remembered). Dummy checkpoints have no optional tensors.
  const TensorInfo* take_optional(std::string_view name, const std::vector<int64_t>& shape);
  // Whether the checkpoint has it; takes nothing.
  bool has(std::string_view name) const { return checkpoint_.find(name) != nullptr; }
  // Marks a tensor, or everything below a name, as known and not needed.
  void ignore(std::string_view name_or_scope);

  // One error for everything absent, misshapen or of the wrong kind (the first ten of each and the counts). Tensors
  // that nobody took are one warning in the log; those that match `ignore_patterns` (`*` stands for any text) or that
  // every loader skips (rotary_emb.inv_freq, position_ids, masked_bias, num_batches_tracked, k_scale, ...) are not
  // mentioned.
  Status finish(const std::vector<std::string>& ignore_patterns = {}) const;
  // Names that nobody took, the ignored ones aside.
  std::vector<std::string> unused(const std::vector<std::string>& ignore_patterns = {}) const;

 private:
  const TensorInfo* check(const TensorInfo& tensor, const std::vector<int64_t>& shape);
  const TensorInfo* invent(std::string_view name, const std::vector<int64_t>& shape);

  const Checkpoint& checkpoint_;
  std::set<const TensorInfo*> used_;
  std::vector<std::string> absent_, misshapen_, wrong_kind_, ignored_;
  std::map<std::string, TensorInfo, std::less<>> invented_;
};

// Whether `name` matches `pattern`, in which `*` stands for any text (also none).
bool matches_pattern(std::string_view name, std::string_view pattern);

}  // namespace weft
