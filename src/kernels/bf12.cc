#include <algorithm>
#include <array>
#include <cstring>

#include "kernels/bf12_layout.h"
#include "kernels/pack.h"

namespace weft::kernels {
namespace {

constexpr int kExponents = 15;  // in the table, besides 0

int exponent_of(uint16_t bits) { return bits >> 7 & 0xff; }

// The lowest of the kExponents exponents in a row that most weights have.
int best_window(const uint16_t* weights, size_t count) {
  std::array<size_t, 257> below{};  // below[e]: weights with an exponent under e
  for (size_t i = 0; i < count; ++i) ++below[static_cast<size_t>(exponent_of(weights[i])) + 1];
  for (size_t e = 1; e < below.size(); ++e) below[e] += below[e - 1];
  int best = 1;
  for (int low = 1; low + kExponents <= 256; ++low) {
    const auto held = [&](int first) { return below[static_cast<size_t>(first + kExponents)] - below[static_cast<size_t>(first)]; };
    if (held(low) > held(best)) best = low;
  }
  return best;
}

}  // namespace

bool compress_bf12(int columns, int k, const std::byte* plain, std::byte* panel) {
  const Bf12Layout layout = bf12_layout(columns, k);
  const auto* weights = reinterpret_cast<const uint16_t*>(plain);
  const size_t count = static_cast<size_t>(columns) * ((static_cast<size_t>(k) + 1) / 2 * 2);
  const int low = best_window(weights, count);
  std::memset(panel, 0, layout.exceptions);
  auto* table = reinterpret_cast<uint16_t*>(panel);
  for (int i = 0; i < 32; ++i) table[i] = static_cast<uint16_t>(i % 16 == 0 ? 0 : (low + i % 16 - 1) << 7);
  auto* starts = reinterpret_cast<uint32_t*>(panel + layout.starts);
  auto* exceptions = reinterpret_cast<Bf12Exception*>(panel + layout.exceptions);
  uint32_t exception_count = 0;
  for (int c = 0; c < layout.chunks; ++c) {
    const size_t begin = layout.chunk_weights * static_cast<size_t>(c), end = std::min(count, begin + layout.chunk_weights);
    for (size_t at = begin; at < end; ++at) {
      const uint16_t bits = weights[at];
      const int exponent = exponent_of(bits);
      const int index = exponent == 0 ? 0 : exponent >= low && exponent < low + kExponents ? exponent - low + 1 : -1;
      if (index < 0) {
        if (exception_count == static_cast<uint32_t>(layout.capacity)) return false;
        exceptions[exception_count++] = {static_cast<uint16_t>(at - begin), bits};
      }
      auto* unit = reinterpret_cast<uint16_t*>(panel + layout.bodies + at / 128 * 192);
      const size_t r = at % 128 / 32, j = at % 32;
      unit[j] = static_cast<uint16_t>(unit[j] | (index < 0 ? 0 : index) << (4 * r));
      uint16_t& pair = unit[32 + r / 2 * 32 + j];
      pair = static_cast<uint16_t>(pair | ((bits >> 8 & 0x80) | (bits & 0x7f)) << (8 * (r % 2)));
    }
    starts[c + 1] = exception_count;
  }
  return true;
}

uint16_t bf12_value(const std::byte* panel, int columns, int k, size_t place) {
  const Bf12Layout layout = bf12_layout(columns, k);
  const size_t chunk = place / layout.chunk_weights, in_chunk = place % layout.chunk_weights;
  const auto* starts = reinterpret_cast<const uint32_t*>(panel + layout.starts);
  const auto* exceptions = reinterpret_cast<const Bf12Exception*>(panel + layout.exceptions);
  for (uint32_t i = starts[chunk]; i < starts[chunk + 1]; ++i)
    if (exceptions[i].place == in_chunk) return exceptions[i].bits;
  const auto* unit = reinterpret_cast<const uint16_t*>(panel + layout.bodies + place / 128 * 192);
  const size_t r = place % 128 / 32, j = place % 32;
  const int sign_and_mantissa = unit[32 + r / 2 * 32 + j] >> (8 * (r % 2)) & 0xff;
  const uint16_t exponent = reinterpret_cast<const uint16_t*>(panel)[unit[j] >> (4 * r) & 15];
  return static_cast<uint16_t>((sign_and_mantissa & 0x80) << 8 | exponent | (sign_and_mantissa & 0x7f));
}

}  // namespace weft::kernels
