// The random numbers of sampling: a pure function of (seed, position, token id), the same on every machine and in both
// samplers.
//
// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) maps a 128-bit counter and a
// 64-bit key to 128 bits. The key is the sequence's seed; the counter holds the absolute position of the sampled token
// and the token id. A token's uniform number v has 48 bits: 16 from block kHigh and 32 from block kLow. The 16 high
// bits alone rule out nearly every token of a vocabulary (v is compared with its probability), so that the fused
// sampler computes 16 bits for each token and the other 32 for a handful. The layout of the high bits puts neighbouring
// tokens in neighbouring lanes, so that vector code needs no transposition.
#pragma once

#include <array>
#include <cstdint>

#include "sampling/exact_math.h"

namespace weft {

using PhiloxBlock = std::array<uint32_t, 4>;

inline PhiloxBlock philox4x32_10(PhiloxBlock counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0], b = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key1, static_cast<uint32_t>(a)};
    key0 += 0x9E3779B9, key1 += 0xBB67AE85;
  }
  return counter;
}

// The last counter word separates the uses of one seed.
enum class PhiloxUse : uint32_t { kHigh = 0, kLow = 1, kDerive = 2 };

inline PhiloxBlock philox_block(uint64_t seed, int64_t position, uint32_t block, PhiloxUse use) {
  return philox4x32_10({block, static_cast<uint32_t>(position),
                        static_cast<uint32_t>(static_cast<uint64_t>(position) >> 32), static_cast<uint32_t>(use)},
                       static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
}

// Tokens come in groups of 128: 16 blocks of 8 halves. Token t is lane t % 16; its half is (t / 16) % 8, low half of a
// word first.
constexpr int kNoiseGroup = 128, kNoiseLanes = 16;

inline uint32_t noise_high16(uint64_t seed, int64_t position, int32_t token) {
  const uint32_t id = static_cast<uint32_t>(token), half = id / kNoiseLanes % 8;
  const PhiloxBlock block =
      philox_block(seed, position, id / kNoiseGroup * kNoiseLanes + id % kNoiseLanes, PhiloxUse::kHigh);
  return block[half / 2] >> (half % 2 * 16) & 0xFFFF;
}

// v in (0, 1): an odd multiple of 2^-49.
inline double noise_uniform(uint64_t seed, int64_t position, int32_t token) {
  const uint32_t id = static_cast<uint32_t>(token);
  const uint64_t high = noise_high16(seed, position, token);
  const uint64_t low = philox_block(seed, position, id / 4, PhiloxUse::kLow)[id % 4];
  return (static_cast<double>(high << 32 | low) + 0.5) * 0x1p-48;
}

// Gumbel noise -log(-log(1 - v)), between -3.53 and 33.97. 1 - v is exact, so that the upper tail has 48 bits of
// resolution.
inline double gumbel_noise(uint64_t seed, int64_t position, int32_t token) {
  return -exact_log(-exact_log(1.0 - noise_uniform(seed, position, token)));
}

// The seed of sample i of n. Sample 0 has the request's own, so that n = 1 and the first of n agree.
inline uint64_t derive_seed(uint64_t seed, uint32_t i) {
  if (i == 0) return seed;
  const PhiloxBlock block = philox_block(seed, 0, i, PhiloxUse::kDerive);
  return static_cast<uint64_t>(block[1]) << 32 | block[0];
}

}  // namespace weft
