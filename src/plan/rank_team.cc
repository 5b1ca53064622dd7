#include "plan/rank_team.h"

#include "base/check.h"
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
  for (int rank = 0; rank + layout.tensor < ranks; ++rank) {
    std::vector<std::unique_ptr<Communicator>> pair = make_thread_ranks(2, threads_per_rank());
    to_next_[rank] = std::move(pair[0]), to_before_[rank + layout.tensor] = std::move(pair[1]);
  }
}

RankSeat RankTeam::seat(int rank) const {
  return {*team_,
          threads_per_rank(),
          ranks() > 1 ? barriers_[rank].get() : nullptr,
          stages_[rank].get(),
          to_next_[rank].get(),
          to_before_[rank].get()};
}

}  // namespace weft
