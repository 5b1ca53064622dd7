#include "plan/rank_team.h"

#include <numeric>
#include <tuple>

#include "base/check.h"
#include "comm/process_ranks.h"
#include "comm/thread_ranks.h"

namespace weft {

RankTeam::RankTeam(std::unique_ptr<ThreadTeam> team, const RankLayout& layout)
    : team_(std::move(team)), layout_(layout) {
  const int ranks = layout.size();
  WEFT_CHECK(team_->size() % ranks == 0) << team_->size() << " threads for " << ranks << " ranks";
  for (int rank = 0; rank < ranks; ++rank) barriers_.push_back(std::make_unique<ThreadBarrier>(team_->size() / ranks));
  stages_.resize(ranks), to_next_.resize(ranks), to_before_.resize(ranks);
  for (int first = 0; layout.tensor > 1 && first < ranks; first += layout.tensor) {
    std::vector<std::unique_ptr<Communicator>> stage = make_thread_ranks(layout.tensor, threads_per_rank());
    for (int r = 0; r < layout.tensor; ++r) stages_[first + r] = std::move(stage[r]);
  }
  for (int rank = 0; rank + layout.tensor < ranks; ++rank)
    std::tie(to_next_[rank], to_before_[rank + layout.tensor]) = make_thread_line(threads_per_rank());
}

RankTeam::RankTeam(std::unique_ptr<ThreadTeam> team, const RankLayout& layout, std::shared_ptr<ProcessRanks> processes)
    : processes_(std::move(processes)), team_(std::move(team)), layout_(layout) {
  WEFT_CHECK(processes_fit(layout, processes_->size())) << processes_->size() << " processes";
  const int here = layout.size() / processes_->size();
  WEFT_CHECK(team_->size() % here == 0) << team_->size() << " threads for " << here << " ranks";
  for (int rank = 0; rank < here; ++rank) barriers_.push_back(std::make_unique<ThreadBarrier>(team_->size() / here));
  stages_.resize(here), to_next_.resize(here), to_before_.resize(here);
  if (here > 1) stages_ = make_thread_ranks(here, threads_per_rank());
  for (int first = 0; here < layout.tensor && first < layout.size(); first += layout.tensor) {
    std::vector<int> members(static_cast<size_t>(layout.tensor));
    std::iota(members.begin(), members.end(), first);
    if (auto stage = processes_->communicator(std::move(members), threads_per_rank())) stages_[0] = std::move(stage);
  }
  for (int rank = 0; rank + layout.tensor < layout.size(); ++rank) {
    const int from = process_of(rank), to = process_of(rank + layout.tensor);
    auto pair = processes_->communicator({from, to}, threads_per_rank());
    if (!pair) continue;
    (from == processes_->rank() ? to_next_ : to_before_)[rank % here] = make_process_line(std::move(pair));
  }
}

int RankTeam::first_rank() const { return processes_ ? processes_->rank() * ranks() : 0; }

RankSeat RankTeam::seat(int rank) const {
  return {*team_,
          threads_per_rank(),
          ranks() > 1 ? barriers_[rank].get() : nullptr,
          stages_[rank].get(),
          to_next_[rank].get(),
          to_before_[rank].get()};
}

}  // namespace weft
