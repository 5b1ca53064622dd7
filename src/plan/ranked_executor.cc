#include "plan/ranked_executor.h"

#include "base/check.h"

namespace weft {

using kernels::Part;

RankedExecutor::RankedExecutor(const std::vector<PlanShare>& shares, const kernels::CpuTable& table,
                               const RankTeam& ranks, std::vector<CacheMemory> caches, ExecutorLimits limits)
    : team_(ranks.threads()), homes_(ranks.layout().homes()), stage_ranks_(ranks.layout().tensor) {
  for (size_t r = 0; r < shares.size(); ++r) {
    const size_t home = homes_ == 1 ? 0 : r % static_cast<size_t>(homes_);
    ranks_.push_back(std::make_unique<CpuExecutor>(shares[r].plan, shares[r].weights, table,
                                                   ranks.seat(static_cast<int>(r)), std::move(caches[r]), limits,
                                                   r > home ? ranks_[home]->shared_inputs() : nullptr));
  }
  walk_ = [this](int thread) {
    const Part part{thread, team_.size()};
    walk_inside(part);
    if (!*tail_) return;
    team_.barrier();
    ranks_.front()->run_behind(*tail_, part);
  };
}

void RankedExecutor::run(const std::function<void(Part)>& tail, bool replay) {
  if (ranks() == 1) return count_rows(), ranks_.front()->run(tail, replay);
  prepare(replay);
  tail_ = &tail;
  team_.run(walk_);
}

bool RankedExecutor::has_rows() const {
  for (int home = 0; home < homes_; ++home)
    if (inputs(home).tokens > 0) return true;
  return false;
}

// Where the rows of each home begin among those of all.
void RankedExecutor::count_rows() {
  for (int reader = 0; reader < homes_; ++reader) {
    std::vector<int32_t>& first = inputs(reader).home_rows;
    first.assign(1, 0);
    for (int home = 0; home < homes_; ++home) first.push_back(first.back() + inputs(home).tokens);
  }
}

void RankedExecutor::prepare(bool replay) {
  count_rows();
  for (const auto& rank : ranks_) rank->prepare(replay);
}

void RankedExecutor::walk_inside(Part part) {
  const int threads = part.count / ranks();
  ranks_[part.index / threads]->walk({part.index % threads, threads});
}

void RankedExecutor::trace(TracedPlan& trace) {
  WEFT_CHECK(ranks() == 1) << "ops of one rank can be traced";
  ranks_.front()->trace(trace);
}

size_t RankedExecutor::arena_bytes() const {
  size_t bytes = 0;
  for (const auto& rank : ranks_) bytes += rank->arena_bytes();
  return bytes;
}

}  // namespace weft
