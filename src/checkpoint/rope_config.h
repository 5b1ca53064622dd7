// Rotary position settings as a config.json states them, parsed and checked. Computing frequencies from them is the
// rope block's work.
#pragma once

#include <optional>
#include <vector>

namespace weft {

struct RopeConfig {
  // none:    plain frequencies theta^(-2i/d).
  // linear:  all frequencies divided by `factor`.
  // llama3:  by wavelength, see low/high_freq_factor and original_max_positions.
  // yarn:    ramp between beta_fast and beta_slow; cos and sin are multiplied by an attention factor.
  // longrope: frequency i is divided by factors[i]; cos and sin are multiplied by attention_factor.
  // factors: GGUF's form of llama3: frequency i is divided by Checkpoint::rope_factors()[i].
  enum class Scaling : unsigned char { none, linear, llama3, yarn, longrope, factors };

  Scaling scaling = Scaling::none;
  double theta = 10000.0;
  double partial_rotary_factor = 1.0;                    // share of the head that turns, in (0, 1]
  double factor = 1.0;                                   // finite and >= 1
  int original_max_positions = 0;                        // llama3 and yarn; yarn falls back to max_position_embeddings
  double low_freq_factor = 1.0, high_freq_factor = 4.0;  // llama3; low <= high
  double beta_fast = 32.0, beta_slow = 1.0;              // yarn; fast > slow > 0
  std::optional<double> mscale, mscale_all_dim, attention_factor;
  bool truncate = true;         // yarn: round the ramp's bounds to whole dimensions
  std::vector<double> factors;  // longrope, as HfConfig::rope() chose them
  std::vector<int> sections;    // multi-axis rope (Qwen2-VL): pairs per axis; empty otherwise

  bool operator==(const RopeConfig&) const = default;
};

}  // namespace weft
