#include "runtime/follower.h"

#include "runtime/step_message.h"

namespace weft {

namespace {

class Follower {
 public:
  Follower(ModelRunner& runner, ProcessRanks& processes, const RankTeam* draft_ranks)
      : runner_(runner), processes_(processes), draft_ranks_(draft_ranks) {
    tail_ = [this](kernels::Part part) { draft_in_walk(part); };
  }

  // False once rank 0 has closed.
  bool step() {
    const auto message = processes_.receive();
    if (!message) return false;
    ByteReader from(*message);
    read_changes(from, batch_);
    runner_.enter(batch_);
    const auto replay = from.take<bool>();
    read_inputs(from, runner_.model().whole, runner_.first().executor());
    WEFT_CHECK(from.done()) << "a step's message is longer than what was read";
    if (!runner_.first().executor().has_rows()) return true;
    const bool in_walk = runner_.drafter() && !draft_ranks_;
    runner_.run({.entered = &batch_, .replay = replay, .tail = in_walk ? &tail_ : nullptr});
    if (runner_.drafter() && draft_ranks_ && begin_drafts()) {
      ThreadTeam& team = draft_ranks_->threads();
      team.run([&](int thread) { runner_.drafter()->walk({thread, team.size()}); });
    }
    return true;
  }

 private:
  void draft_in_walk(kernels::Part part) {
    if (part.index == 0) drafts_ = begin_drafts();
    runner_.threads().barrier();
    if (drafts_) runner_.drafter()->walk(part);
  }

  // Whether there is anything to draft.
  bool begin_drafts() {
    ByteReader from(*processes_.receive());
    read_draft_rows(from, rows_);
    if (!rows_.rows.empty()) runner_.drafter()->begin(rows_.rows, runner_.taps());
    return !rows_.rows.empty();
  }

  ModelRunner& runner_;
  ProcessRanks& processes_;
  const RankTeam* const draft_ranks_;
  StepBatch batch_;  // the changes alone
  ReadDraftRows rows_;
  bool drafts_ = false;
  std::function<void(kernels::Part)> tail_;
};

}  // namespace

void follow(ModelRunner& runner, ProcessRanks& processes, const RankTeam* draft_ranks) {
  const ThreadTeam::Seat seat(runner.threads());
  Follower follower(runner, processes, draft_ranks);
  while (follower.step()) {
  }
}

}  // namespace weft
