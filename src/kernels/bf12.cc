#include "core/dtype.h"
#include "kernels/bf12_layout.h"
#include "kernels/pack.h"

namespace weft::kernels {
namespace {

// One output column of a matrix in form bf12.
class Bf12Column {
 public:
  Bf12Column(const PackedMatrix& w, int column)
      : layout_(bf12_layout(w.panel, w.k)), columns_(w.panel), column_(column % w.panel),
        panel_(w.data + static_cast<size_t>(column / w.panel) * w.panel_bytes) {}

  float value(int k) const {
    const size_t place = packed_index(WeightForm::bf16, columns_, column_, k), chunk = place / layout_.chunk_weights,
                 in_chunk = place % layout_.chunk_weights;
    const auto* starts = reinterpret_cast<const uint32_t*>(panel_ + layout_.starts);
    const auto* exceptions = reinterpret_cast<const Bf12Exception*>(panel_ + layout_.exceptions);
    for (uint32_t i = starts[chunk]; i < starts[chunk + 1]; ++i)
      if (exceptions[i].place == in_chunk) return bf16_to_float(exceptions[i].bits);
    const size_t r = place % 128 / 32, j = place % 32;
    const auto* unit = reinterpret_cast<const uint16_t*>(panel_ + layout_.bodies + place / 128 * 192);
    const int sign_and_mantissa = unit[32 + r / 2 * 32 + j] >> (8 * (r % 2)) & 0xff;
    const int exponent = reinterpret_cast<const uint16_t*>(panel_)[unit[j] >> (4 * r) & 15];
    return bf16_to_float(
        static_cast<uint16_t>((sign_and_mantissa & 0x80) << 8 | exponent | (sign_and_mantissa & 0x7f)));
  }

 private:
  Bf12Layout layout_;
  int columns_, column_;
  const std::byte* panel_;
};

}  // namespace

float bf12_value(const PackedMatrix& w, int column, int k) { return Bf12Column(w, column).value(k); }

void bf12_row(const PackedMatrix& w, int column, float* out) {
  const Bf12Column c(w, column);
  for (int k = 0; k < w.k; ++k) out[k] = c.value(k);
}

}  // namespace weft::kernels
