#include "plan/ranked_executor.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/check.h"

namespace weft {

using kernels::Part;

RankedExecutor::RankedExecutor(const std::vector<PlanShare>& shares, const kernels::CpuTable& table,
                               const RankTeam& ranks, std::vector<CacheMemory> caches, ExecutorLimits limits)
    : team_(ranks.threads()), layout_(ranks.layout()), homes_(layout_.homes()), first_rank_(ranks.first_rank()),
      all_(homes_ > 1 || layout_.pipeline > 1 ? ranks.all() : nullptr), inputs_(homes_), received_(homes_) {
  for (size_t r = 0; r < shares.size(); ++r) {
    const int home = homes_ == 1 ? 0 : (first_rank_ + static_cast<int>(r)) % homes_;
    ranks_.push_back(std::make_unique<CpuExecutor>(shares[r].plan, shares[r].weights, table,
                                                   ranks.seat(static_cast<int>(r)), std::move(caches[r]), limits,
                                                   inputs_[home]));
    inputs_[home] = ranks_.back()->shared_inputs();
  }
  for (std::shared_ptr<StepInputs>& inputs : inputs_)  // of homes in other processes
    if (!inputs) inputs = std::make_shared<StepInputs>(size_inputs(shares.front().plan, limits));
  for (int home = 0; all_ && first_rank_ == 0 && home < homes_; ++home)
    if (!last(home))
      received_[home] = reserve_or_die(static_cast<size_t>(limits.max_outputs) * output_ld() * sizeof(float));
  walk_ = [this](int thread) {
    const Part part{thread, team_.size()};
    walk_inside(part);
    if (!*tail_) return;
    team_.barrier();
    ranks_.front()->run_behind(*tail_, part);
  };
}

void RankedExecutor::run(const std::function<void(Part)>& tail, bool replay) {
  if (layout_.size() == 1) return count_rows(), ranks_.front()->run(tail, replay);
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
  if (all_) bring_outputs(part);
}

const CpuExecutor* RankedExecutor::last(int home) const {
  const int rank = (layout_.pipeline - 1) * layout_.tensor + home - first_rank_;
  return rank >= 0 && rank < ranks() ? ranks_[rank].get() : nullptr;
}

// Rank 0's process gets the outputs of all homes. Ranks that have none send nothing.
void RankedExecutor::bring_outputs(Part part) {
  const auto count = static_cast<size_t>(layout_.size());
  std::array<size_t, kernels::kMaxRanks + 1> offsets{};
  std::array<size_t, kernels::kMaxRanks> received{};
  const void* mine = nullptr;
  for (int home = 0; home < homes_; ++home) {
    const auto rank = static_cast<size_t>((layout_.pipeline - 1) * layout_.tensor + home);
    const size_t bytes = static_cast<size_t>(inputs(home).outputs) * output_ld() * sizeof(float);
    if (first_rank_ == 0) received[rank] = bytes;
    if (last(home)) mine = last(home)->output(), std::fill(offsets.begin() + 1, offsets.end(), bytes);
  }
  const Communicator::Parts parts = all_->exchange(mine, std::span(offsets).first(count + 1),
                                                   std::span(received).first(count), {part.index, part.count});
  for (int home = 0; first_rank_ == 0 && home < homes_; ++home) {
    const auto rank = static_cast<size_t>((layout_.pipeline - 1) * layout_.tensor + home);
    if (last(home)) continue;
    const size_t begin = received[rank] * part.index / part.count, end = received[rank] * (part.index + 1) / part.count;
    std::memcpy(received_[home].data() + begin, parts[rank] + begin, end - begin);
  }
  team_.barrier();
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
