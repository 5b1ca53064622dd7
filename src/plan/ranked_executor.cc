#include "plan/ranked_executor.h"

#include <algorithm>

#include "base/check.h"
#include "comm/process_ranks.h"

namespace weft {

using kernels::Part;

RankedExecutor::RankedExecutor(const PlanShares& shares, const kernels::CpuTable& table, const RankTeam& ranks,
                               RankSpan these, std::vector<CacheMemory> caches, ExecutorLimits limits, int lanes)
    : ranks_team_(ranks), team_(ranks.threads()), layout_(ranks.layout()), homes_(layout_.homes()),
      first_rank_(ranks.first_rank() + these.first), inputs_(homes_), received_(lanes) {
  for (int r = 0; r < these.count; ++r) {
    const PlanShare& share = shares.ranks[these.first + r];
    const int home = homes_ == 1 ? 0 : (first_rank_ + r) % homes_;
    ranks_.push_back(std::make_unique<CpuExecutor>(share.plan, share.weights, table, ranks.seat(these.first + r),
                                                   caches[r], limits, inputs_[home]));
    inputs_[home] = ranks_.back()->shared_inputs();
  }
  for (int home = 0; shares.alone && home < homes_; ++home)
    alone_.push_back(std::make_unique<CpuExecutor>(shares.alone->plan, shares.alone->weights, table,
                                                   RankSeat{team_, team_.size()}, caches[home], limits, inputs_[home],
                                                   true));
  for (std::shared_ptr<StepInputs>& inputs : inputs_)  // of homes in other processes
    if (!inputs) inputs = std::make_shared<StepInputs>(size_inputs(shares.first().plan, limits));
  if (ranks.processes() && (homes_ > 1 || layout_.pipeline > 1)) {
    delivery_ = ranks.processes()->delivery(lanes);
    walked_ = std::make_unique<ThreadBarrier>(ranks.threads_per_rank() * these.count);
  }
  for (std::vector<Memory>& lane : received_) {
    lane.resize(static_cast<size_t>(homes_));
    for (int home = 0; delivery_ && first_rank_ == 0 && home < homes_; ++home)
      if (!last(home))
        lane[home] = reserve_or_die(static_cast<size_t>(limits.max_outputs) * output_ld() * sizeof(float));
  }
  walk_ = [this](int thread) {
    const Part part{thread, team_.size()};
    walk_inside(part);
    if (delivery_ && first_rank_ == 0) {
      if (thread == 0) take_outputs();
      team_.barrier();
    }
    if (!*tail_) return;
    team_.barrier();
    run_behind(*tail_, part);
  };
}

void RankedExecutor::run(const std::function<void(Part)>& tail, bool replay) {
  begin();
  if (layout_.size() == 1) return ranks_.front()->run(tail, replay);
  if (running_alone_) return running_alone_->run(tail, replay);
  prepare(replay);
  tail_ = &tail;
  team_.run(walk_);
}

bool RankedExecutor::has_rows() const {
  for (int home = 0; home < homes_; ++home)
    if (inputs(home).tokens > 0) return true;
  return false;
}

// Where the rows of each home begin among those of all, and whether one home has them all.
void RankedExecutor::begin() {
  for (int reader = 0; reader < homes_; ++reader) {
    std::vector<int32_t>& first = inputs(reader).home_rows;
    first.assign(1, 0);
    for (int home = 0; home < homes_; ++home) first.push_back(first.back() + inputs(home).tokens);
  }
  running_alone_ = nullptr;
  for (size_t home = 0; home < alone_.size(); ++home) {
    const int own = inputs_[home]->tokens;
    if (own > 0 && own == inputs_[home]->home_rows.back()) running_alone_ = alone_[home].get();
  }
}

void RankedExecutor::prepare(bool replay, int lane) {
  begin();
  if (running_alone_) return running_alone_->prepare(replay);
  for (const auto& rank : ranks_) rank->prepare(replay);
  for (int home = 0; delivery_ && first_rank_ == 0 && home < homes_; ++home)
    if (!last(home))
      delivery_->expect(lane, ranks_team_.process_of(last_rank(home)), received_[lane][home].data(),
                        output_bytes(home));
}

void RankedExecutor::walk_inside(Part part) {
  if (running_alone_) return running_alone_->walk(part);
  const int threads = part.count / ranks();
  ranks_[part.index / threads]->walk({part.index % threads, threads});
  if (!delivery_ || first_rank_ == 0) return;
  walked_->wait();
  if (part.index == 0) deliver_outputs();
}

const CpuExecutor* RankedExecutor::last(int home) const {
  if (running_alone_ && running_alone_ == alone_[static_cast<size_t>(home)].get()) return running_alone_;
  const int rank = last_rank(home) - first_rank_;
  return rank >= 0 && rank < ranks() ? ranks_[rank].get() : nullptr;
}

size_t RankedExecutor::output_bytes(int home) const {
  return static_cast<size_t>(inputs(home).outputs) * output_ld() * sizeof(float);
}

void RankedExecutor::deliver_outputs() {
  for (int home = 0; home < homes_; ++home)
    if (last(home)) delivery_->deliver(last(home)->output(), output_bytes(home));
}

void RankedExecutor::take_outputs(int lane) {
  if (delivery_) delivery_->wait(lane);
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
