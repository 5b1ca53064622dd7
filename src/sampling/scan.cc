#include "sampling/scan.h"

#include <algorithm>
#include <limits>

#include "sampling/philox.h"
#include "sampling/scratch.h"

// GCC says that it builds for a sanitizer in macros, clang in features.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define WEFT_SANITIZED
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define WEFT_SANITIZED
#endif
#endif

// One source, several instruction sets, chosen when the program is loaded: before the sanitizers are ready for code of
// theirs, so they get one.
#if defined(__x86_64__) && !defined(WEFT_SANITIZED)
#define WEFT_CLONES __attribute__((target_clones("avx512f", "avx2", "default"), optimize("O3")))
#else
#define WEFT_CLONES
#endif

namespace weft {

WEFT_CLONES static bool scan_group(const float* logits, int count, float* max) {
  float largest[8];
  int32_t bad = 0;
  for (float& lane : largest) lane = -std::numeric_limits<float>::infinity();
  int i = 0;
  for (; i + 8 <= count; i += 8)
    for (int lane = 0; lane < 8; ++lane) {
      const float value = logits[i + lane];
      largest[lane] = value > largest[lane] ? value : largest[lane];
      bad |= !(value <= std::numeric_limits<float>::max());
    }
  for (; i < count; ++i) {
    largest[0] = logits[i] > largest[0] ? logits[i] : largest[0];
    bad |= !(logits[i] <= std::numeric_limits<float>::max());
  }
  *max = *std::max_element(largest, largest + 8);
  return bad == 0;
}

LogitScan scan_logits(std::span<const float> logits, std::span<float> group_max) {
  LogitScan scan{-std::numeric_limits<float>::infinity(), true};
  for (size_t g = 0; g < group_max.size(); ++g) {
    const size_t first = g * Scratch::kGroup, count = std::min<size_t>(Scratch::kGroup, logits.size() - first);
    scan.finite = scan_group(logits.data() + first, static_cast<int>(count), &group_max[g]) && scan.finite;
    scan.max = std::max(scan.max, group_max[g]);
  }
  return scan;
}

WEFT_CLONES Mass total_mass(std::span<const float> logits, float max, float inverse_temperature) {
  const float* l = logits.data();
  const size_t count = logits.size();
  Mass sum = 0;
  for (size_t i = 0; i < count; ++i) sum += mass_of(exact_exp(scaled(l[i], max, inverse_temperature)));
  return sum;
}

WEFT_CLONES void noise_candidates(const float* logits, int count, int32_t first, float max, float inverse_temperature,
                                  float scale, uint64_t seed, int64_t position, uint32_t hits[4]) {
  // The group's 16 Philox blocks: lane t % 16 of the group's tokens, see philox.h.
  uint32_t c0[kNoiseLanes], c1[kNoiseLanes], c2[kNoiseLanes], c3[kNoiseLanes];
  const uint32_t block = static_cast<uint32_t>(first) / kNoiseGroup * kNoiseLanes;
  for (int lane = 0; lane < kNoiseLanes; ++lane) {
    c0[lane] = block + static_cast<uint32_t>(lane);
    c1[lane] = static_cast<uint32_t>(position);
    c2[lane] = static_cast<uint32_t>(static_cast<uint64_t>(position) >> 32);
    c3[lane] = static_cast<uint32_t>(PhiloxUse::kHigh);
  }
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int lane = 0; lane < kNoiseLanes; ++lane) {
      const uint64_t a = uint64_t{0xD2511F53} * c0[lane], b = uint64_t{0xCD9E8D57} * c2[lane];
      const uint32_t n0 = static_cast<uint32_t>(b >> 32) ^ c1[lane] ^ key0,
                     n2 = static_cast<uint32_t>(a >> 32) ^ c3[lane] ^ key1;
      c0[lane] = n0, c1[lane] = static_cast<uint32_t>(b), c2[lane] = n2, c3[lane] = static_cast<uint32_t>(a);
    }
    key0 += 0x9E3779B9, key1 += 0xBB67AE85;
  }
  const uint32_t* const words[4] = {c0, c1, c2, c3};
  for (int w = 0; w < 4; ++w) hits[w] = 0;
  for (int half = 0; half < 8; ++half) {
    const uint32_t* word = words[half / 2];
    const int shift = half % 2 * 16, base = half * kNoiseLanes;
    uint8_t hit[kNoiseLanes];
    for (int lane = 0; lane < kNoiseLanes; ++lane) {
      const int i = base + lane;
      const float logit = i < count ? logits[i] : -std::numeric_limits<float>::infinity();
      const float limit = exact_exp(scaled(logit, max, inverse_temperature)) * scale;
      hit[lane] = static_cast<float>(word[lane] >> shift & 0xFFFF) * 0x1p-16f <= limit;
    }
    for (int lane = 0; lane < kNoiseLanes; ++lane)
      hits[half / 2] |= static_cast<uint32_t>(hit[lane]) << (half % 2 * 16 + lane);
  }
}

}  // namespace weft
