#include "base/peak.h"

#include <sys/mman.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <numeric>
#include <vector>

#include "base/available_memory.h"

namespace weft::bench {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

constexpr long kLoops = 2'000'000, kTileLoops = 200'000;
thread_local volatile float sink;  // keeps the loops alive

#if defined(__x86_64__)

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
    for (int j = 0; j < 12; ++j)
      a[j] = _mm512_dpbf16_ps(a[j], reinterpret_cast<__m512bh>(ones), reinterpret_cast<__m512bh>(ones));
  }
  __m512 all = a[0];
  for (int j = 1; j < 12; ++j) all = _mm512_add_ps(all, a[j]);
  sink = _mm512_cvtss_f32(all);
}

// The empty asm hides that the products are the same each time.
[[gnu::target("avx2")]] void int8_avx2() {
  __m256i a[8];
  for (int j = 0; j < 8; ++j) a[j] = _mm256_setzero_si256();
  __m256i x = _mm256_set1_epi8(3);
  const __m256i w = _mm256_set1_epi8(5), ones = _mm256_set1_epi16(1);
  for (long i = 0; i < kLoops; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      asm("" : "+x"(x));
      a[j] = _mm256_add_epi32(a[j], _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), ones));
    }
  }
  __m256i all = a[0];
  for (int j = 1; j < 8; ++j) all = _mm256_xor_si256(all, a[j]);
  sink = static_cast<float>(_mm256_extract_epi32(all, 0));
}

[[gnu::target("avx512f,avx512vnni")]] void int8_vnni() {
  __m512i a[12];
  for (int j = 0; j < 12; ++j) a[j] = _mm512_setzero_si512();
  const __m512i w = _mm512_set1_epi8(5);
  for (long i = 0; i < kLoops; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) a[j] = _mm512_dpbusd_epi32(a[j], w, w);
  }
  __m512i all = a[0];
  for (int j = 1; j < 12; ++j) all = _mm512_xor_si512(all, a[j]);
  int lanes[16];
  _mm512_storeu_si512(lanes, all);
  sink = static_cast<float>(lanes[0]);
}

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
// not a local variable: compilers assume that the intrinsic reads its first bytes only, and drop stores to the others
const TileConfig tile_config;

// The two-by-two scheme of the tile kernels: four products from two tiles of rows and two of weights, all zeros here.
[[gnu::target("amx-tile,amx-bf16")]] void tiles_bf16() {
  _tile_loadconfig(&tile_config);
  for (long i = 0; i < kTileLoops; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
}

[[gnu::target("amx-tile,amx-int8")]] void tiles_int8() {
  _tile_loadconfig(&tile_config);
  for (long i = 0; i < kTileLoops; ++i) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  _tile_release();
}

// The processor has tiles, and the system saves them for this process.
bool tiles_usable() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kTiles = 1u << 25 | 1u << 24 | 1u << 22;  // AMX-INT8, AMX-TILE, AMX-BF16
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return false;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kTiles) != kTiles) return false;
  // ARCH_REQ_XCOMP_PERM and the state's number, from <asm/prctl.h>
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

#else

// What the compiler makes of it.
void fma_plain() {
  float a[32];
  for (int j = 0; j < 32; ++j) a[j] = 1e-9f * static_cast<float>(j + 1);
  for (long i = 0; i < kLoops; ++i) {
    for (int j = 0; j < 32; ++j) a[j] = __builtin_fmaf(a[j], 1.0f, 1.0f);
  }
  sink = std::accumulate(a, a + 32, 0.0f);
}

#endif

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

#if defined(__x86_64__)

double peak_flops_f32(double seconds) {
  if (__builtin_cpu_supports("avx512f")) return rate(fma_avx512, kLoops * 12.0 * 32, seconds);
  return __builtin_cpu_supports("avx2") ? rate(fma_avx2, kLoops * 12.0 * 16, seconds) : 0;
}

double peak_flops_bf16(double seconds) {
  return __builtin_cpu_supports("avx512bf16") ? rate(dot_avx512, kLoops * 12.0 * 64, seconds) : 0;
}

double peak_flops_bf16_tiles(double seconds) {
  return tiles_usable() ? rate(tiles_bf16, kTileLoops * 4.0 * (16 * 16 * 64), seconds) : 0;
}
double peak_ops_int8_tiles(double seconds) {
  return tiles_usable() ? rate(tiles_int8, kTileLoops * 4.0 * (16 * 16 * 128), seconds) : 0;
}

double peak_ops_int8(double seconds) {
  if (__builtin_cpu_supports("avx512vnni")) return rate(int8_vnni, kLoops * 12.0 * 128, seconds);
  return __builtin_cpu_supports("avx2") ? rate(int8_avx2, kLoops * 8.0 * 64, seconds) : 0;
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

#else

double peak_flops_f32(double seconds) { return rate(fma_plain, kLoops * 64.0, seconds); }
double peak_flops_bf16(double) { return 0; }
double peak_flops_bf16_tiles(double) { return 0; }
double peak_ops_int8_tiles(double) { return 0; }
double peak_ops_int8(double) { return 0; }

unsigned long read_memory(const void* data, size_t bytes) {
  unsigned long sums[8] = {};
  const char* p = static_cast<const char*>(data);
  for (size_t i = 0; i + sizeof sums <= bytes; i += sizeof sums) {
    unsigned long line[8];
    std::memcpy(line, p + i, sizeof line);
    for (int j = 0; j < 8; ++j) sums[j] ^= line[j];
  }
  return std::accumulate(sums, sums + 8, 0ul);
}

#endif

ReadBuffer::ReadBuffer(size_t bytes) {
  constexpr size_t kLeast = size_t{64} << 20;
  for (const size_t quarter = available_memory() / 4; bytes > quarter;) bytes /= 2;
  for (; bytes >= kLeast; bytes /= 2) {
    void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) continue;
    ::madvise(memory, bytes, MADV_HUGEPAGE);
    data_ = static_cast<std::byte*>(std::memset(memory, 1, bytes)), bytes_ = bytes;
    return;
  }
}

ReadBuffer::~ReadBuffer() {
  if (data_) ::munmap(data_, bytes_);
}

double ReadBuffer::measure(ThreadTeam& team, double seconds) const {
  if (bytes_ == 0) return 0;
  const size_t share = bytes_ / static_cast<size_t>(team.size());
  const std::function<void(int)> read = [&](int thread) {
    static std::atomic<unsigned long> found;
    found = read_memory(data_ + share * static_cast<size_t>(thread), share);
  };
  double best = 0;
  for (const double begin = now(); best == 0 || now() - begin < seconds;) {
    const double start = now();
    team.run(read);
    best = std::max(best, static_cast<double>(share) * team.size() / (now() - start));
  }
  return best;
}

MachineLimits measure_limits(ThreadTeam& team, const ReadBuffer& buffer, double seconds) {
  const auto together = [&](double (*peak)(double)) {
    std::vector<double> rates(static_cast<size_t>(team.size()));
    team.run([&](int thread) { rates[static_cast<size_t>(thread)] = peak(seconds / 10); });
    return std::accumulate(rates.begin(), rates.end(), 0.0);
  };
  MachineLimits limits;
  limits.read_bytes_per_s = buffer.measure(team, seconds / 2);
  limits.f32_flops = together(peak_flops_f32), limits.bf16_flops = together(peak_flops_bf16),
  limits.int8_ops = together(peak_ops_int8);
  limits.bf16_tile_flops = together(peak_flops_bf16_tiles), limits.int8_tile_ops = together(peak_ops_int8_tiles);
  return limits;
}

}  // namespace weft::bench
