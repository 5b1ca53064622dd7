// The i8 cache of every table by numbers written down here: codes and scales at their addresses, values too small for
// any scale, and attention over them.
#include <cmath>

#include "kernels/conformance.h"

namespace weft::kernels {
namespace {

// A cache of one block of 16 tokens and one kv head, and the rows that are put into it at position 0, 1, ...
struct SmallCache {
  CacheView view;
  std::vector<std::byte> memory;
  int32_t block = 0;

  SmallCache(int k_dim, int v_dim, bool latent) {
    const CacheSpec spec{.kind = latent ? CacheSpec::Kind::latent : CacheSpec::Kind::full,
                         .kv_heads = 1,
                         .k_dim = k_dim,
                         .v_dim = v_dim,
                         .dtype = DType::i8};
    memory.resize(cache_layer_bytes(spec, 16), std::byte{0xff});
    view = {memory.data(), memory.size(), 16, DType::i8, 1, k_dim, v_dim, latent};
  }
  void append(const CpuTable& table, const std::vector<float>& k, const std::vector<float>& v) {
    const SequenceView sequence{.rows = static_cast<int>(k.size()) / view.k_dim};
    table.run<AppendArgs>(
        {k.data(), v.empty() ? nullptr : v.data(), view.k_dim, view.v_dim, view, &block, &sequence, 1}, sequence.rows,
        {});
  }
  // Attention of one head, one query for each of the first positions.
  std::vector<float> attend(const CpuTable& table, const std::vector<float>& q, float scale) {
    const SequenceView sequence{.rows = static_cast<int>(q.size()) / view.k_dim};
    AttendPlan plan;
    plan_attention({&sequence, 1}, view, 1, Mask::causal, 0, 0, 1, plan);
    std::vector<float> out(static_cast<size_t>(sequence.rows * view.v_dim), -1.0f), partials(64);
    std::vector<std::byte> scratch(table.attend_scratch_bytes(1, view) + 64);
    AttendArgs a;
    a.q = q.data(), a.ld_q = view.k_dim, a.cache = view, a.block_table = &block, a.sequences = &sequence,
    a.plan = &plan;
    a.heads = 1, a.scale = scale, a.out = out.data(), a.ld_out = view.v_dim;
    a.partials = partials.data(), a.scratch_bytes = scratch.size() - 64;
    a.scratch = scratch.data() + (64 - reinterpret_cast<uintptr_t>(scratch.data()) % 64) % 64;
    table.run(a, sequence.rows, {});
    return out;
  }
  int code(size_t at) const { return static_cast<int8_t>(memory[at]); }
  float scale(size_t at) const {
    float value;
    std::memcpy(&value, memory.data() + at, 4);
    return value;
  }
};

class AttendInt8 : public TableTest {};

// Keys [k_dim][16 tokens], 16 scales; values [16 tokens][v_dim], 16 scales.
TEST_P(AttendInt8, CodesAndScalesLieWhereTheLayoutSays) {
  SmallCache cache(4, 3, false);
  EXPECT_EQ(cache.memory.size(), 4u * 16 + 64 + 3 * 16 + 64 + 16);  // a multiple of 64
  cache.append(table(), {127, -127, 0.5f, 1.5f, 0, 0, 0, 0, -254, 5, 129, 1},
               {2.54f, 0, -1.28f, -0.0f, 0, 1e-35f, 63.5f, -0.25f, 0.75f});
  const int keys[3][4] = {{127, -127, 0, 2}, {0, 0, 0, 0}, {-127, 2, 64, 0}},
            values[3][3] = {{127, 0, -64}, {0, 0, 0}, {127, 0, 2}};
  const float key_scales[] = {1, 0, 2}, value_scales[] = {2.54f / 127, 0, 0.5f};
  for (size_t token = 0; token < 3; ++token) {
    for (size_t d = 0; d < 4; ++d) EXPECT_EQ(cache.code(d * 16 + token), keys[token][d]) << token << " " << d;
    for (size_t d = 0; d < 3; ++d) EXPECT_EQ(cache.code(128 + token * 3 + d), values[token][d]) << token << " " << d;
    EXPECT_EQ(cache.scale(64 + token * 4), key_scales[token]);
    EXPECT_EQ(cache.scale(128 + 48 + token * 4), value_scales[token]);
  }
}

// The part that is the value as well has a scale, and the rotated part its own: [k_dim][16 tokens], 2 rows of 16
// scales.
TEST_P(AttendInt8, LatentKeysHaveTwoScales) {
  SmallCache cache(5, 3, true);
  cache.append(table(), {1.27f, -0.64f, 0.01f, 1270, 630}, {});
  const int codes[] = {127, -64, 1, 127, 63};
  for (size_t d = 0; d < 5; ++d) EXPECT_EQ(cache.code(d * 16), codes[d]) << d;
  EXPECT_EQ(cache.scale(5 * 16), 1.27f / 127);
  EXPECT_EQ(cache.scale(5 * 16 + 64), 10);
  // q picks the small part, of which a shared scale would have left nothing; a single key, so its value is the answer.
  EXPECT_EQ(cache.attend(table(), {1, 1, 1, 0, 0}, 1.0f),
            (std::vector<float>{127 * (1.27f / 127), -64 * (1.27f / 127), 1.27f / 127}));
}

TEST_P(AttendInt8, AttentionOfKnownNumbers) {
  SmallCache cache(2, 2, false);
  // Scores 0.5 * (3 * 127) and 0.5 * (2 * 190.5): equal. The second query sees both, each with weight 1/2.
  cache.append(table(), {127, 0, 0, 190.5f}, {12.7f, -6.4f, 254, 2});
  const std::vector<float> out = cache.attend(table(), {1, 1, 3, 2}, 0.5f);
  const double part = table().attend_rounds ? 0x1p-8 : 1e-6;  // of a value
  EXPECT_NEAR(out[0], 12.7, 12.7 * part);
  EXPECT_NEAR(out[1], -6.4, 6.4 * part);
  EXPECT_NEAR(out[2], (12.7 + 254) / 2, (12.7 + 254) * part);
  EXPECT_NEAR(out[3], (-6.4 + 2) / 2, (6.4 + 2) * part);
}

TEST_P(AttendInt8, WhatIsNotFiniteStaysSo) {
  SmallCache cache(2, 2, false);
  cache.append(table(), {1, 2, 3, 4, 5, INFINITY}, {1, 1, NAN, 1, 1, 1});
  const std::vector<float> out = cache.attend(table(), {1, 1, 1, 1, 1, 1}, 1.0f);
  EXPECT_NEAR(out[0], 1, table().attend_rounds ? 0x1p-8 : 1e-6) << "a query that does not see it";
  for (size_t i = 2; i < 6; ++i) EXPECT_TRUE(std::isnan(out[i])) << i;
}

WEFT_TEST_TABLES(AttendInt8);

}  // namespace
}  // namespace weft::kernels
