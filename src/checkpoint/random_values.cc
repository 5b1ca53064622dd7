#include "checkpoint/random_values.h"

#include <algorithm>

namespace weft {
namespace {

uint64_t mix(uint64_t x) {  // SplitMix64
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// `counter` + i, all 32-bit, through an integer hash of two multiplications, which vectors of every width have. Whole
// numbers up to the last step, and there a product and a sum that are each rounded once: no width of vectors rounds
// differently.
[[gnu::always_inline]] inline void fill(uint32_t counter, uint32_t key, int64_t count, float center, float width,
                                        float* out) {
  for (int64_t i = 0; i < count; ++i) {
    uint32_t x = counter + static_cast<uint32_t>(i);
    x = (x ^ (x >> 16)) * 0x21f0aaadu;
    x = ((x ^ (x >> 15)) + key) * 0x735a2d97u;
    x ^= x >> 15;
    out[i] = center + width * (static_cast<float>(static_cast<int32_t>(x) >> 8) * 0x1p-23f);
  }
}

using Fill = void (*)(uint32_t counter, uint32_t key, int64_t count, float center, float width, float* out);

#if defined(__x86_64__)
[[gnu::target("avx512f,prefer-vector-width=512")]] void fill_avx512(uint32_t counter, uint32_t key, int64_t count,
                                                                    float center, float width, float* out) {
  fill(counter, key, count, center, width, out);
}
[[gnu::target("avx2")]] void fill_avx2(uint32_t counter, uint32_t key, int64_t count, float center, float width,
                                       float* out) {
  fill(counter, key, count, center, width, out);
}
#endif
void fill_plain(uint32_t counter, uint32_t key, int64_t count, float center, float width, float* out) {
  fill(counter, key, count, center, width, out);
}

Fill choose_fill() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return fill_avx512;
  if (__builtin_cpu_supports("avx2")) return fill_avx2;
#endif
  return fill_plain;
}

}  // namespace

uint64_t random_seed(std::string_view tensor_name) {
  uint64_t seed = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : tensor_name) seed = (seed ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return mix(seed);
}

void random_values(uint64_t seed, uint64_t first, int64_t count, float center, float width, float* out) {
  static const Fill fill_values = choose_fill();
  constexpr uint64_t kBlock = uint64_t{1} << 32;  // values of one pair of counter and key
  while (count > 0) {
    const int64_t step =
        static_cast<int64_t>(std::min<uint64_t>(static_cast<uint64_t>(count), kBlock - first % kBlock));
    const uint64_t start = mix(seed + first / kBlock);
    fill_values(static_cast<uint32_t>(start) + static_cast<uint32_t>(first), static_cast<uint32_t>(start >> 32), step,
                center, width, out);
    first += static_cast<uint64_t>(step), count -= step, out += step;
  }
}

}  // namespace weft
