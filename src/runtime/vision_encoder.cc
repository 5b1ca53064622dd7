#include "runtime/vision_encoder.h"

#include <algorithm>

#include "base/check.h"

namespace weft {

namespace {

constexpr int kOpsPerPiece = 8;  // about a layer

}  // namespace

VisionEncoder::VisionEncoder(const Model& model, ThreadTeam& team, TracedPlan* trace)
    : model_(model), team_(team), trace_(trace) {}

// An executor binds the plan to fixed addresses, so an image larger than limits_ needs a new executor. Its memory
// becomes resident only where it is used.
void VisionEncoder::make_room(const models::VisionInputs& in) {
  int sequences = 1;
  for (const std::vector<int>& segments : in.segments)
    sequences = std::max(sequences, static_cast<int>(segments.size()));
  const bool fits = executor_ && in.rows <= limits_.max_tokens && in.outputs <= limits_.max_outputs &&
                    in.mixed <= limits_.max_mixed && sequences <= limits_.max_sequences;
  if (fits) return;
  limits_.max_tokens = std::max(limits_.max_tokens, in.rows),
  limits_.max_outputs = std::max(limits_.max_outputs, in.outputs);
  limits_.max_mixed = std::max({limits_.max_mixed, in.mixed, 1}),
  limits_.max_sequences = std::max(limits_.max_sequences, sequences);
  limits_.max_seq_len = limits_.max_tokens;
  executor_.reset();
  CacheMemory cache;
  cache.local_dtype = model_.form == kernels::WeightForm::f32 ? DType::f32 : DType::bf16;
  executor_ = std::make_unique<CpuExecutor>(model_.vision->plan, model_.vision_weights, *model_.table, team_,
                                            std::move(cache), limits_);
  if (trace_) executor_->trace(*trace_);
}

void VisionEncoder::begin(const PreparedMedia& media) {
  inputs_ = model_.vision->arrange(media);
  make_room(inputs_);
  StepInputs& in = executor_->inputs();
  in.tokens = inputs_.rows, in.outputs = inputs_.outputs, in.mixed = inputs_.mixed;
  in.pixels = inputs_.pixels.data();
  in.indices = inputs_.indices;
  in.ends = inputs_.ends;
  for (int i = 0; i < 2; ++i) {
    in.mixes[i] = inputs_.mixes[i];
    const std::vector<int32_t>& positions = inputs_.positions[i];
    if (!positions.empty())
      std::copy(positions.begin(), positions.end(),
                in.positions.begin() + static_cast<ptrdiff_t>(i) * limits_.max_tokens);
  }
  for (size_t g = 0; g < in.local_groups.size(); ++g) {
    const std::vector<int>& segments = inputs_.segments[model_.vision->plan.local_groups[g].segments];
    in.local_groups[g].sequences.clear();
    int first = 0;
    for (int rows : segments) {
      in.local_groups[g].sequences.push_back({first, rows, 0, 0, in.ends.empty() ? nullptr : in.ends.data() + first});
      first += rows;
    }
    WEFT_CHECK(first == inputs_.rows || first == inputs_.mixed)
        << "segments have " << first << " rows of " << inputs_.rows;
  }
  executor_->begin_pieces();
}

bool VisionEncoder::run_piece() { return executor_->run_piece(kOpsPerPiece); }

MediaFeatures VisionEncoder::take() {
  MediaFeatures features;
  features.cols = executor_->output_cols();
  const std::vector<int32_t>& order = inputs_.features;
  features.rows = order.empty() ? inputs_.outputs : static_cast<int>(order.size());
  features.values.reserve(static_cast<size_t>(features.rows) * features.cols);
  for (int i = 0; i < features.rows; ++i) {
    const int32_t row = order.empty() ? i : order[i];
    const float* from = row < 0 ? model_.vision_weights.vectors[model_.vision->newline].data()
                                : executor_->output() + row * executor_->output_ld();
    features.values.insert(features.values.end(), from, from + features.cols);
  }
  return features;
}

}  // namespace weft
