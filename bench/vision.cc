// What an image costs: preparing it, and the vision tower's time beside the machine's peak. The image is a gradient;
// weights may be random (dummy), since the time does not depend on them.
//
//   bench_vision MODEL [width=1000] [height=700] [dtype=bfloat16] [dummy]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "base/peak.h"
#include "media/processor.h"
#include "runtime/vision_encoder.h"

namespace weft::bench {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

Image gradient(int height, int width) {
  Image image(height, width);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) {
      uint8_t* pixel = image.row(y) + 3 * x;
      pixel[0] = static_cast<uint8_t>(x * 255 / width), pixel[1] = static_cast<uint8_t>(y * 255 / height),
      pixel[2] = static_cast<uint8_t>((x ^ y) & 255);
    }
  return image;
}

// Multiplications and additions of the products and of the attention for one image.
double flops_of(const Plan& plan, const models::VisionInputs& in) {
  const auto rows = [&](Rows kind) {
    return kind == Rows::tokens ? in.rows : kind == Rows::mixed ? in.mixed : in.outputs;
  };
  double flops = 0;
  for (const Op& op : plan.ops) {
    if (const auto* linear = std::get_if<LinearOp>(&op.kind)) {
      const Matrix& m = plan.matrices[linear->matrix];
      flops += 2.0 * static_cast<double>(m.out()) * m.k * rows(op.out->rows);
    } else if (const auto* attend = std::get_if<AttendOp>(&op.kind)) {
      const LayerGroup& group = plan.group(attend->cache);
      for (int length : in.segments[group.segments])
        flops += 2.0 * attend->heads * (group.spec.k_dim + group.spec.v_dim) * length * static_cast<double>(length);
    }
  }
  return flops;
}

// Of all threads together; the bfloat16 dot instruction's where there is one and the tower uses it.
double peak_flops(ThreadTeam& team, bool bf16) {
  std::vector<double> peaks(team.size());
  team.run([&](int thread) {
    const double dot = bf16 ? peak_flops_bf16(0.3) : 0;
    peaks[thread] = dot > 0 ? dot : peak_flops_f32(0.3);
  });
  return std::accumulate(peaks.begin(), peaks.end(), 0.0);
}

Status run(const std::string& path, int width, int height, ComputeType dtype, bool dummy) {
  const RankTeam ranks(ThreadTeam::default_size());
  ThreadTeam& team = ranks.threads();
  ModelOptions options;
  options.dtype = dtype, options.dummy = dummy;
  WEFT_TRY(const Model model, load_model(path, ranks, options));
  if (!model.vision) return fail(Code::unsupported, model.architecture, " takes no images");
  WEFT_TRY(const std::unique_ptr<const MediaProcessor> processor, MediaProcessor::from_folder(path));
  const double begin = now();
  WEFT_TRY(const std::vector<PreparedMedia> media,
           processor->prepare(std::vector<MediaInput>{{MediaKind::image, {gradient(height, width)}}}));
  const double prepared = now() - begin;
  VisionEncoder encoder(model, team, nullptr);
  double best = 1e30, longest = 0;
  int pieces = 0, features = 0;
  for (int i = 0; i < 3; ++i) {
    const double start = now();
    encoder.begin(media[0]);
    pieces = 0;
    for (bool more = true; more; ++pieces) {
      const double piece = now();
      more = encoder.run_piece();
      if (i > 0) longest = std::max(longest, now() - piece);
    }
    features = encoder.take().rows;
    best = std::min(best, now() - start);
  }
  const models::VisionInputs inputs = model.vision->arrange(media[0]);
  const double flops = flops_of(model.vision->plan, inputs),
               peak = peak_flops(team, model.form == kernels::WeightForm::bf16);
  std::printf(
      "{\"model\": \"%s\", \"image\": [%d, %d], \"dtype\": \"%s\", \"threads\": %d, \"prepare_ms\": %.1f, \"patches\": "
      "%d, \"features\": %d, "
      "\"encode_ms\": %.1f, \"longest_piece_ms\": %.1f, \"pieces\": %d, \"gflops\": %.1f, \"percent_of_peak\": %.1f}\n",
      model.architecture.c_str(), width, height, name_of(dtype), team.size(), prepared * 1e3, inputs.rows, features,
      best * 1e3, longest * 1e3, pieces, flops / best / 1e9, 100 * flops / best / peak);
  return {};
}

}  // namespace
}  // namespace weft::bench

int main(int count, char** words) {
  if (count < 2) return std::fputs("bench_vision MODEL [width] [height] [dtype] [dummy]\n", stderr), 2;
  const auto number = [&](int i, int absent) { return count > i ? std::max(1, std::atoi(words[i])) : absent; };
  const auto dtype = weft::value_named<weft::ComputeType>(count > 4 ? words[4] : "bfloat16");
  if (!dtype) return std::fputs("bench_vision: dtype must be auto, float32 or bfloat16\n", stderr), 2;
  const weft::Status status = weft::bench::run(words[1], number(2, 1000), number(3, 700), *dtype,
                                               count > 5 && std::strcmp(words[5], "dummy") == 0);
  if (!status.ok()) std::fprintf(stderr, "bench_vision: %s\n", status.error().message().c_str());
  return status.ok() ? 0 : 1;
}
