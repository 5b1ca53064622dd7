#include "runtime/follower.h"

#include "base/check.h"
#include "runtime/image_encoders.h"
#include "runtime/step_message.h"

namespace weft {

namespace {

class Follower {
 public:
  Follower(ModelRunner& runner, ProcessRanks& processes, const RankTeam* draft_ranks)
      : runner_(runner), processes_(processes), draft_ranks_(draft_ranks) {
    tail_ = [this](kernels::Part part) { draft_in_walk(part); };
    if (runner.model().vision) images_ = std::make_unique<ImageFollower>(runner.model(), runner.threads(), processes);
  }

  // The next message, and until it is there images. At least a piece of them between two steps, or they might stand
  // still where a pipeline's steps are announced early. False once rank 0 has closed.
  bool follow() {
    while (images_ && images_->work() && !processes_.has_message()) {
    }
    const auto message = processes_.receive();
    if (!message) return false;
    ByteReader from(*message);
    const auto kind = from.take<MessageKind>();
    if (kind == MessageKind::step) step(from);
    else if (kind == MessageKind::image) images_->begin(from);
    else if (kind == MessageKind::adapter) adapter(from);
    else images_->drop();
    return true;
  }

 private:
  // Rank 0 has checked it.
  void adapter(ByteReader& from) {
    const Model& model = runner_.model();
    int number = 0;
    const auto files = read_adapter(from, number);
    if (!files) return model.adapter_table->put(number, nullptr, nullptr);
    const auto parsed = parse_adapter(*files, model.checkpoint->config());
    WEFT_CHECK(parsed.ok()) << parsed.error().message();
    auto loaded = load_adapter(model, **parsed);
    WEFT_CHECK(loaded.ok()) << loaded.error().message();
    model.adapter_table->put(number, std::move(loaded).value(), nullptr);
  }

  void step(ByteReader& from) {
    read_changes(from, batch_);
    runner_.enter(batch_);
    const auto replay = from.take<bool>();
    read_inputs(from, runner_.model().whole, runner_.first().executor());
    WEFT_CHECK(from.done()) << "a step's message is longer than what was read";
    if (!runner_.first().executor().has_rows()) return;
    const bool in_walk = runner_.drafter() && !draft_ranks_;
    runner_.run({.entered = &batch_, .replay = replay, .tail = in_walk ? &tail_ : nullptr});
    if (runner_.drafter() && draft_ranks_ && begin_drafts()) {
      ThreadTeam& team = draft_ranks_->threads();
      team.run([&](int thread) { runner_.drafter()->walk({thread, team.size()}); });
    }
  }

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
  std::unique_ptr<ImageFollower> images_;  // null: the model takes none
  std::function<void(kernels::Part)> tail_;
};

}  // namespace

void follow(ModelRunner& runner, ProcessRanks& processes, const RankTeam* draft_ranks) {
  const ThreadTeam::Seat seat(runner.threads());
  Follower follower(runner, processes, draft_ranks);
  while (follower.follow()) {
  }
}

}  // namespace weft
