// What a rank must have so that it can do its part: the first pass of split_plan(), from a plan's last op to its first.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "base/result.h"
#include "core/ranks.h"
#include "plan/columns.h"
#include "plan/plan.h"

namespace weft {

// How one matrix product is shared out.
enum class Cut : uint8_t {
  outputs,   // only the outputs that are read
  k,         // the rank's part of k; an all_reduce follows
  gathered,  // an all_gather of its input, the rank's outputs, and an all_gather of these
};

// How the experts of a layer are shared by the ranks of a stage: `sets` sets of `places` successive ranks. Each set has
// experts of its own, and the ranks of a set have a part each of the outputs of their matrices.
struct ExpertCut {
  int sets = 1, places = 1;
  Columns::Range experts;  // of the rank's set
  int place = 0;           // of the rank in its set
  // The rank's part of `cols` columns; `places` divides them.
  Columns::Range columns(int cols) const { return {cols / places * place, cols / places * (place + 1)}; }
};

// Which columns of each storage the rank has, and how each op is shared.
class Demand {
 public:
  using Range = Columns::Range;
  // Query heads that the rank has of each group of the cache, by kind and number.
  using HeadsOfGroups = std::map<std::pair<CacheRef::Kind, int>, Range>;

  // For rank `rank` of a stage. `plan` must outlive it.
  Demand(const Plan& plan, const RankLayout& layout, int rank);
  // Of a stage's plan: what was found for the plan of all stages, whose groups of the cache have the same heads in all.
  void assume(const Demand& whole) { known_heads_ = whole.heads; }
  // Fills what follows. Errors: as split_plan().
  Status find();

  std::vector<Columns> needs;           // per storage
  std::vector<Cut> cuts;                // per op, of matrix products
  std::vector<Columns> matrix_outputs;  // per matrix: the rank's outputs; empty: not used so
  std::map<int, Columns> slot_columns;  // by storage, where the ranks of a set share experts: the rank's, of a slot
  HeadsOfGroups heads;

  Range share(int64_t size) const;
  // Equal shares of whole panels, the last one shorter; all of it where a rank would get none.
  Range vocabulary(int size) const;
  int vocabulary_share(int size) const;
  ExpertCut expert_cut(int experts) const;
  Range kv_heads(CacheRef ref) const;
  // Attention data parallelism: the rows that ranks have are different ones, but experts are shared.
  bool gathers_rows() const { return ranks_ < stage_ranks_; }
  Columns wanted(const Value& v) const { return needs[v.storage].within(v.first_col, v.cols); }

 private:
  void seed();
  void want(const Value& v, Range columns);
  void want_all(const Value& v) { want(v, {0, v.cols}); }
  bool is_read(const Op& op) const { return !op.out || !wanted(*op.out).empty(); }
  void whole(const Op& op);
  void same_columns(const Op& op);
  template <class... Facts>
  void refuse(const char* option, const Facts&... facts);
  Range slot_share(int cols, const ExpertCut& cut, const Op& op);
  void cut_experts(const ExpertsOp& o, const Op& op, const ExpertCut& cut);

  template <class Kind>
  void visit(const Kind&, const Op& op, size_t) {
    whole(op);
  }
  template <kernels::IsElementwise F>
  void visit(const F&, const Op& op, size_t) {
    same_columns(op);
  }
  void visit(const GateOp&, const Op& op, size_t) { same_columns(op); }
  void visit(const SelectOp&, const Op& op, size_t) { same_columns(op); }
  void visit(const EmbedOp& o, const Op& op, size_t);
  void visit(const LinearOp& o, const Op& op, size_t i);
  void visit(const HeadsOp& o, const Op& op, size_t);
  void visit(const PerHeadOp& o, const Op& op, size_t);
  void visit(const AttendOp& o, const Op& op, size_t);
  void visit(const AppendOp& o, const Op& op, size_t);
  void visit(const ActivateOp& o, const Op& op, size_t);
  void visit(const ExpertsOp& o, const Op& op, size_t);
  void visit(const CombineOp& o, const Op& op, size_t);
  void visit(const ArrangeOp& o, const Op& op, size_t);

  const Plan& plan_;
  const int stage_ranks_, ranks_, expert_sets_, rank_;  // ranks_: that share what is not experts
  HeadsOfGroups known_heads_;
  std::set<std::pair<CacheRef::Kind, int>> whole_groups_;
  bool again_ = false;
  std::optional<Error> error_;
};

// The heads, `stride` columns apart and `dim` wide, that have some of the columns.
Columns::Range heads_of(const Columns& columns, int stride, int dim, int heads);

}  // namespace weft
