#include "peak.h"

#include <immintrin.h>

#include <chrono>

namespace weft::bench {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

constexpr long kLoops = 2'000'000;
thread_local volatile float sink;  // keeps the loops alive

[[gnu::target("avx2,fma")]] void fma_avx2() {
  __m256 a[12];
  for (int j = 0; j < 12; ++j) a[j] = _mm256_set1_ps(1e-9f * static_cast<float>(j + 1));
  const __m256 one = _mm256_set1_ps(1.0f);
  for (long i = 0; i < kLoops; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) a[j] = _mm256_fmadd_ps(a[j], one, one);
  }
  __m256 all = a[0];
  for (int j = 1; j < 12; ++j) all = _mm256_add_ps(all, a[j]);
  sink = _mm256_cvtss_f32(all);
}

[[gnu::target("avx512f")]] void fma_avx512() {
  __m512 a[12];
  for (int j = 0; j < 12; ++j) a[j] = _mm512_set1_ps(1e-9f * static_cast<float>(j + 1));
  const __m512 one = _mm512_set1_ps(1.0f);
  for (long i = 0; i < kLoops; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) a[j] = _mm512_fmadd_ps(a[j], one, one);
  }
  __m512 all = a[0];
  for (int j = 1; j < 12; ++j) all = _mm512_add_ps(all, a[j]);
  sink = _mm512_cvtss_f32(all);
}

[[gnu::target("avx512f,avx512bf16")]] void dot_avx512() {
  __m512 a[12];
  for (int j = 0; j < 12; ++j) a[j] = _mm512_set1_ps(1e-9f * static_cast<float>(j + 1));
  const __m512i ones = _mm512_set1_epi32(0x3f803f80);
  for (long i = 0; i < kLoops; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) a[j] = _mm512_dpbf16_ps(a[j], reinterpret_cast<__m512bh>(ones), reinterpret_cast<__m512bh>(ones));
  }
  __m512 all = a[0];
  for (int j = 1; j < 12; ++j) all = _mm512_add_ps(all, a[j]);
  sink = _mm512_cvtss_f32(all);
}

double rate(void (*loop)(), double flops_per_call, double seconds) {
  double best = 0;
  for (const double begin = now(); now() - begin < seconds;) {
    const double start = now();
    loop();
    const double flops = flops_per_call / (now() - start);
    if (flops > best) best = flops;
  }
  return best;
}

}  // namespace

double peak_flops_f32(double seconds) {
  if (__builtin_cpu_supports("avx512f")) return rate(fma_avx512, kLoops * 12.0 * 32, seconds);
  return __builtin_cpu_supports("avx2") ? rate(fma_avx2, kLoops * 12.0 * 16, seconds) : 0;
}

double peak_flops_bf16(double seconds) {
  return __builtin_cpu_supports("avx512bf16") ? rate(dot_avx512, kLoops * 12.0 * 64, seconds) : 0;
}

unsigned long read_memory(const void* data, size_t bytes) {
  __m128i sums[4] = {};
  const char* p = static_cast<const char*>(data);
  const size_t quarter = bytes / 4 / 64 * 64;
  for (size_t i = 0; i < quarter; i += 64) {
#pragma GCC unroll 4
    for (int s = 0; s < 4; ++s) {
      _mm_prefetch(p + s * quarter + i + 3072, _MM_HINT_T0);
#pragma GCC unroll 4
      for (int j = 0; j < 64; j += 16) {
        sums[s] = _mm_xor_si128(sums[s], _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + s * quarter + i + j)));
      }
    }
  }
  const __m128i all = _mm_xor_si128(_mm_xor_si128(sums[0], sums[1]), _mm_xor_si128(sums[2], sums[3]));
  return static_cast<unsigned long>(_mm_cvtsi128_si64(all));
}

}  // namespace weft::bench
