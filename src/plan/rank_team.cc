#include "plan/rank_team.h"

#include "base/check.h"
#include "comm/thread_ranks.h"

namespace weft {

RankTeam::RankTeam(std::unique_ptr<ThreadTeam> team, const RankLayout& layout)
    : team_(std::move(team)), layout_(layout) {
  const int ranks = layout.size();
  WEFT_CHECK(team_->size() % ranks == 0) << team_->size() << " threads for " << ranks << " ranks";
  for (int rank = 0; rank < ranks; ++rank) barriers_.push_back(std::make_unique<ThreadBarrier>(team_->size() / ranks));
  if (ranks > 1) communicators_ = make_thread_ranks(ranks, threads_per_rank());
}

RankSeat RankTeam::seat(int rank) const {
  return {*team_, threads_per_rank(), ranks() > 1 ? barriers_[rank].get() : nullptr,
          communicators_.empty() ? nullptr : communicators_[rank].get()};
}

}  // namespace weft
