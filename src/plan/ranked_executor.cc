#include "plan/ranked_executor.h"

#include "base/check.h"

namespace weft {

using kernels::Part;

RankedExecutor::RankedExecutor(const std::vector<PlanShare>& shares, const kernels::CpuTable& table,
                               const RankTeam& ranks, std::vector<CacheMemory> caches, ExecutorLimits limits)
    : team_(ranks.threads()) {
  for (size_t r = 0; r < shares.size(); ++r)
    ranks_.push_back(std::make_unique<CpuExecutor>(shares[r].plan, shares[r].weights, table,
                                                   ranks.seat(static_cast<int>(r)), std::move(caches[r]), limits,
                                                   r > 0 ? ranks_.front()->shared_inputs() : nullptr));
  walk_ = [this](int thread) {
    const Part part{thread, team_.size()};
    walk_inside(part);
    if (!*tail_) return;
    team_.barrier();
    ranks_.front()->run_behind(*tail_, part);
  };
}

void RankedExecutor::run(const std::function<void(Part)>& tail, bool replay) {
  if (first().traced()) return ranks_.front()->run_traced(tail);
  prepare(replay);
  tail_ = &tail;
  team_.run(walk_);
}

void RankedExecutor::prepare(bool replay) {
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
