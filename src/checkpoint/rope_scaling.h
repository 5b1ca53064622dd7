// Llama 3's scaling of rotary frequencies, by wavelength (transformers, modeling_rope_utils.py).
#pragma once

#include <numbers>

#include "checkpoint/rope_config.h"

namespace weft {

inline double llama3_frequency(double frequency, const RopeConfig& c) {
  const double wavelength = 2 * std::numbers::pi / frequency, original = c.original_max_positions;
  if (wavelength < original / c.high_freq_factor) return frequency;
  if (wavelength > original / c.low_freq_factor) return frequency / c.factor;
  if (c.low_freq_factor == c.high_freq_factor) return frequency;  // no band to blend in (Llama 4 Scout)
  const double smooth = (original / wavelength - c.low_freq_factor) / (c.high_freq_factor - c.low_freq_factor);
  return (1 - smooth) * frequency / c.factor + smooth * frequency;
}

}  // namespace weft
