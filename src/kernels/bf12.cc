#include "core/dtype.h"
#include "kernels/bf12_layout.h"
#include "kernels/pack.h"

namespace weft::kernels {

void bf12_row(const PackedMatrix& w, int column, float* out) {
  const Bf12Layout layout = bf12_layout(w.panel, w.k);
  const std::byte* panel = w.data + static_cast<size_t>(column / w.panel) * w.panel_bytes;
  const auto* table = reinterpret_cast<const uint16_t*>(panel);
  const auto* starts = reinterpret_cast<const uint32_t*>(panel + layout.starts);
  const auto* exceptions = reinterpret_cast<const Bf12Exception*>(panel + layout.exceptions);
  const auto place_of = [&](int k) { return packed_index(WeightForm::bf16, w.panel, column % w.panel, k); };
  for (int k = 0; k < w.k; ++k) {
    const size_t place = place_of(k), r = place % 128 / 32, j = place % 32;
    const auto* unit = reinterpret_cast<const uint16_t*>(panel + layout.bodies + place / 128 * 192);
    const int sign_and_mantissa = unit[32 + r / 2 * 32 + j] >> (8 * (r % 2)) & 0xff;
    const int bits = (sign_and_mantissa & 0x80) << 8 | table[unit[j] >> (4 * r) & 15] | (sign_and_mantissa & 0x7f);
    out[k] = bf16_to_float(static_cast<uint16_t>(bits));
  }
  for (int c = 0; c < layout.chunks; ++c)
    for (uint32_t i = starts[c]; i < starts[c + 1]; ++i)
      for (int k = c * kBf12Chunk; k < w.k && k < (c + 1) * kBf12Chunk; ++k)
        if (place_of(k) == exceptions[i].place + static_cast<size_t>(c) * layout.chunk_weights) out[k] = bf16_to_float(exceptions[i].bits);
}

}  // namespace weft::kernels
