#include "blocks/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "checkpoint/rope_scaling.h"

namespace weft::blocks {
namespace {

constexpr double kTwoPi = 2 * std::numbers::pi;

// The dimension whose wavelength turns `rotations` times over the original context.
double yarn_dimension(double rotations, int dims, const RopeConfig& c) {
  return dims * std::log(c.original_max_positions / (rotations * kTwoPi)) / (2 * std::log(c.theta));
}

double yarn_magnitude(double factor, double scale) { return factor <= 1 ? 1.0 : 0.1 * scale * std::log(factor) + 1.0; }

void apply_yarn(RopeAngles& angles, int dims, const RopeConfig& c) {
  double low = yarn_dimension(c.beta_fast, dims, c), high = yarn_dimension(c.beta_slow, dims, c);
  if (c.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0), high = std::min(high, dims - 1.0);
  if (low == high) high += 0.001;  // as the reference: no division by zero
  for (int i = 0; i < dims / 2; ++i) {
    const double frequency = std::pow(c.theta, -2.0 * i / dims);
    const double ramp = std::clamp((i - low) / (high - low), 0.0, 1.0);
    angles.inv_freq[i] = static_cast<float>(frequency / c.factor * ramp + frequency * (1 - ramp));
  }
  if (c.attention_factor) angles.factor = static_cast<float>(*c.attention_factor);
  else if (c.mscale && c.mscale_all_dim && *c.mscale != 0 && *c.mscale_all_dim != 0)  // 0 counts as absent
    angles.factor =
        static_cast<float>(yarn_magnitude(c.factor, *c.mscale) / yarn_magnitude(c.factor, *c.mscale_all_dim));
  else angles.factor = static_cast<float>(yarn_magnitude(c.factor, 1.0));
}

}  // namespace

RopeAngles rope_angles(const RopeConfig& c, int dims) {
  RopeAngles angles;
  angles.inv_freq.resize(dims / 2);
  for (int i = 0; i < dims / 2; ++i) {
    double frequency = std::pow(c.theta, -2.0 * i / dims);
    if (c.scaling == RopeConfig::Scaling::linear) frequency /= c.factor;
    if (c.scaling == RopeConfig::Scaling::llama3) frequency = llama3_frequency(frequency, c);
    if (c.scaling == RopeConfig::Scaling::longrope) frequency /= c.factors[i];
    angles.inv_freq[i] = static_cast<float>(frequency);
  }
  if (c.scaling == RopeConfig::Scaling::longrope) angles.factor = static_cast<float>(*c.attention_factor);
  if (c.scaling == RopeConfig::Scaling::yarn) apply_yarn(angles, dims, c);
  angles.checkpoint_factors = c.scaling == RopeConfig::Scaling::factors;
  for (size_t axis = 0; axis < c.sections.size(); ++axis)
    angles.axis_of.insert(angles.axis_of.end(), c.sections[axis], static_cast<uint8_t>(axis));
  return angles;
}

}  // namespace weft::blocks
