// Runs a vision tower over one image or video at a time, in pieces, so that running streams are not held up.
#pragma once

#include <memory>

#include "base/thread_team.h"
#include "core/media_prompt.h"
#include "models/vision.h"
#include "plan/cpu_executor.h"
#include "runtime/model.h"

namespace weft {

class VisionEncoder {
 public:
  // `model` must have a vision tower and outlive the encoder; so must the team, and `trace` if there is one.
  VisionEncoder(const Model& model, ThreadTeam& team, TracedPlan* trace);

  // One thread at a time: begin(), run_piece() until it returns false, take().
  void begin(const PreparedMedia& media);
  // Runs about a layer. False: done.
  bool run_piece();
  MediaFeatures take();

 private:
  void make_room(const models::VisionInputs& inputs);

  const Model& model_;
  ThreadTeam& team_;
  TracedPlan* const trace_;
  models::VisionInputs inputs_;
  ExecutorLimits limits_;
  std::unique_ptr<CpuExecutor> executor_;  // for images up to limits_
};

}  // namespace weft
