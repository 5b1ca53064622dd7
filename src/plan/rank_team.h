// The ranks of this process: which threads each has, and how it reaches the others.
#pragma once

#include <memory>
#include <vector>

#include "base/thread_team.h"
#include "comm/communicator.h"
#include "core/ranks.h"
#include "plan/cpu_executor.h"

namespace weft {

class ProcessRanks;

class RankTeam {
 public:
  // All ranks of `layout` as threads of this process, stage after stage: those of rank 0 first, equally many each. The
  // team's size is a multiple of their number.
  RankTeam(std::unique_ptr<ThreadTeam> team, const RankLayout& layout);
  // This process's part of `layout`: one rank, or all ranks of one pipeline stage (processes_fit()). All processes make
  // their RankTeams in the same order.
  RankTeam(std::unique_ptr<ThreadTeam> team, const RankLayout& layout, std::shared_ptr<ProcessRanks> processes);
  // On threads that stay nowhere.
  explicit RankTeam(int threads, const RankLayout& layout = {})
      : RankTeam(std::make_unique<ThreadTeam>(threads), layout) {}

  ThreadTeam& threads() const { return *team_; }
  const RankLayout& layout() const { return layout_; }
  int ranks() const { return static_cast<int>(barriers_.size()); }  // of this process
  int first_rank() const;                                           // of this process
  // Where ranks are processes, else null.
  ProcessRanks* processes() const { return processes_.get(); }
  int threads_per_rank() const { return team_->size() / ranks(); }
  // Where a rank is: the process's number.
  int process_of(int rank) const { return rank / ranks(); }
  // Pipeline stages that have ranks in this process.
  int stages() const { return processes_ ? 1 : layout_.pipeline; }
  RankSeat seat(int rank) const;

 private:
  std::shared_ptr<ProcessRanks> processes_;  // outlives the communicators
  std::unique_ptr<ThreadTeam> team_;
  RankLayout layout_;
  std::vector<std::unique_ptr<ThreadBarrier>> barriers_;         // per rank
  std::vector<std::unique_ptr<Communicator>> stages_;            // per rank; null where a stage has one
  std::vector<std::unique_ptr<StageLine>> to_next_, to_before_;  // per rank; null at the ends
};

// Whether the ranks of a layout can be shared out over so many processes: each is one, or each has a stage.
inline bool processes_fit(const RankLayout& layout, int processes) {
  return processes == layout.size() || processes == layout.pipeline;
}

}  // namespace weft
