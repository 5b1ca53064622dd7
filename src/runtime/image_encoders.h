// Images and videos on their way through the vision towers of a job. Each process has a tower: the first one hands
// images out, and each encodes one by itself at a time. The pixels travel to that process alone, and the features back.
// The ranks of a process encode an image together.
//
// Between steps a process that follows goes on with its image piece by piece, as long as no message waits, and reports
// every piece, so that the first one hears of it. So a step waits for at most a piece.
#pragma once

#include <memory>
#include <vector>

#include "base/bytes.h"
#include "comm/process_ranks.h"
#include "plan/rank_team.h"
#include "runtime/vision_encoder.h"

namespace weft {

// What a process that follows sends to the first one; the features follow if it has any.
struct ImageReport {
  bool ended = false;
  int rows = 0, cols = 0;  // of the features; 0: it was told to drop the image
};

// The side of the first process, or of the only one. The step thread's.
class ImageEncoders {
 public:
  // `model` must have a vision tower; see VisionEncoder. Made behind everything else that the processes make together,
  // as an ImageFollower is.
  ImageEncoders(const Model& model, const RankTeam& ranks, TracedPlan* trace);
  // Images that are not done are dropped in all processes.
  ~ImageEncoders();

  int processes() const { return 1 + static_cast<int>(peers_.size()); }
  bool is_free(int process) const { return !(process == 0 ? own_ : peer(process).media); }
  // The process, which is free, gets an image.
  void begin(int process, std::shared_ptr<const PreparedMedia> media);
  struct Encoded {
    int process = 0;
    std::shared_ptr<const MediaFeatures> features;
  };
  // Gives up the image of this process.
  void drop_own() noexcept { own_.reset(), own_begun_ = false; }
  // Goes on a little: runs a piece of the own image, and looks what has come from the others. Returns what is done now;
  // its processes are free again.
  std::vector<Encoded> work();

 private:
  struct Peer {
    std::unique_ptr<PeerLine> line;
    std::shared_ptr<const PreparedMedia> media;  // null: free
    ImageReport report;                          // the next one
    std::shared_ptr<MediaFeatures> features;     // on their way; null: they are not done
  };
  Peer& peer(int process) { return peers_[static_cast<size_t>(process) - 1]; }
  const Peer& peer(int process) const { return peers_[static_cast<size_t>(process) - 1]; }
  bool look(Peer& peer);
  void collect(std::vector<Encoded>& done);
  bool anything_travels();
  bool all_free() const;
  std::shared_ptr<const MediaFeatures> run_own_piece();

  ProcessRanks* const ranks_;  // null: this is the only process
  VisionEncoder vision_;
  std::shared_ptr<const PreparedMedia> own_;  // null: none
  bool own_begun_ = false;
  std::vector<Peer> peers_;  // process 1, 2, ...
  Patience patience_;        // with these, while there is nothing else to do
};

// The side of a process that follows.
class ImageFollower {
 public:
  ImageFollower(const Model& model, ThreadTeam& team, ProcessRanks& ranks);
  ~ImageFollower();

  // The rest of a message (MessageKind::image), which may be for another process.
  void begin(ByteReader& from);
  // MessageKind::drop_images.
  void drop();
  // Goes on a little, with a piece where there is one to run. False: there is no image.
  bool work();

 private:
  void report(const ImageReport& report);
  void wait_until_sent();

  const int process_;
  VisionEncoder vision_;
  std::unique_ptr<PeerLine> line_;
  enum class State { free, pixels_come, runs } state_ = State::free;
  PreparedMedia media_;
  ImageReport report_;      // the last one
  MediaFeatures features_;  // of the image before
  Patience patience_;       // with the pixels
};

}  // namespace weft
