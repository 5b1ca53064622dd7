// The cache and attention of every table: against a softmax in double precision, and the same bits for any block size,
// number of parts, cut of the prompt and spread of the keys. The i8 cache's bytes are in attend_int8_test.cc.
#include <algorithm>
#include <cmath>

#include "kernels/conformance.h"
#include "kernels/layout.h"

namespace weft::kernels {
namespace {

class Attend : public TableTest {};

struct Case {
  int heads = 4, kv_heads = 2, k_dim = 16, v_dim = 16, tokens = 70;
  int window = 0, chunk = 0;
  Mask mask = Mask::causal;
  DType dtype = DType::f32;
  bool latent = false;  // the values are the first v_dim elements of the keys
  float soft_cap = 0;
};

// One sequence of `tokens` positions; its queries are computed in steps of the given sizes, as chunked prefill and
// decode would.
struct Sequence {
  Case setup;
  std::vector<float> q, k, v;
  explicit Sequence(const Case& s) : setup(s) {
    q = random_floats(static_cast<size_t>(s.tokens) * s.heads * s.k_dim, 11);
    k = random_floats(static_cast<size_t>(s.tokens) * s.kv_heads * s.k_dim, 12);
    v = random_floats(static_cast<size_t>(s.tokens) * s.kv_heads * s.v_dim, 13);
    if (s.latent)
      for (int j = 0; j < s.tokens; ++j)
        std::copy_n(k.begin() + static_cast<ptrdiff_t>(j) * s.k_dim, s.v_dim,
                    v.begin() + static_cast<ptrdiff_t>(j) * s.v_dim);
  }

  std::vector<float> run(const CpuTable& table, const std::vector<int>& steps, int tokens_per_block, int parts,
                         int threads) const {
    const Case& s = setup;
    const CacheSpec spec{.kind = s.latent ? CacheSpec::Kind::latent : CacheSpec::Kind::full,
                         .kv_heads = s.kv_heads,
                         .k_dim = s.k_dim,
                         .v_dim = s.v_dim,
                         .dtype = s.dtype};
    const int blocks = (s.tokens + tokens_per_block - 1) / tokens_per_block;
    const size_t stride = cache_layer_bytes(spec, tokens_per_block);
    // Stale memory is NaN: nothing of it may show.
    std::vector<std::byte> memory(stride * static_cast<size_t>(blocks + 1) + 64, std::byte{0xff});
    std::byte* base = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
    const CacheView cache{base, stride, tokens_per_block, s.dtype, s.kv_heads, s.k_dim, s.v_dim, s.latent};
    std::vector<int32_t> table_of_blocks(static_cast<size_t>(blocks));
    for (int b = 0; b < blocks; ++b) table_of_blocks[static_cast<size_t>(b)] = blocks - b;  // not in order
    std::vector<float> out(static_cast<size_t>(s.tokens) * s.heads * s.v_dim, NAN);
    int done = 0;
    for (int rows : steps) {
      const SequenceView view{.first_row = 0, .rows = rows, .first_position = done};
      const AppendArgs append{k.data() + static_cast<size_t>(done) * s.kv_heads * s.k_dim,
                              s.latent ? nullptr : v.data() + static_cast<size_t>(done) * s.kv_heads * s.v_dim,
                              s.kv_heads * s.k_dim,
                              s.kv_heads * s.v_dim,
                              cache,
                              table_of_blocks.data(),
                              &view,
                              1};
      in_parts(parts, [&](Part part) { table.run(append, rows, part); });
      AttendPlan plan;
      plan_attention({&view, 1}, cache, s.heads, s.mask, s.window, s.chunk, threads, plan);
      AttendArgs a;
      a.q = q.data() + static_cast<size_t>(done) * s.heads * s.k_dim, a.ld_q = s.heads * s.k_dim;
      a.cache = cache, a.block_table = table_of_blocks.data(), a.sequences = &view, a.plan = &plan;
      a.heads = s.heads, a.scale = 0.3f, a.soft_cap = s.soft_cap, a.mask = s.mask, a.window = s.window,
      a.chunk = s.chunk;
      a.out = out.data() + static_cast<size_t>(done) * s.heads * s.v_dim, a.ld_out = s.heads * s.v_dim;
      std::vector<float> partials(static_cast<size_t>(plan.partial_count) * partial_floats(s.heads, cache) + 16);
      a.partials = partials.data();
      a.scratch_bytes = table.attend_scratch_bytes(s.heads, cache);
      std::vector<std::byte> scratch(a.scratch_bytes * static_cast<size_t>(threads) + 64);
      a.scratch = scratch.data() + (64 - reinterpret_cast<uintptr_t>(scratch.data()) % 64) % 64;
      in_parts(threads, [&](Part part) { table.run(a, rows, part); });
      in_parts(threads, [&](Part part) { table.run(AttendCombineArgs{a}, rows, part); });
      done += rows;
    }
    return out;
  }

  float query(int i, int h, int d, bool rounded) const {
    const float value = q[(static_cast<size_t>(i) * setup.heads + h) * setup.k_dim + d];
    return rounded ? rounded_bf16(value) : value;
  }

  // What the cache keeps of rows of `dim` values. The first `split` of a row and the others are quantised apart.
  std::vector<double> stored(const std::vector<float>& x, int dim, int split) const {
    std::vector<double> kept(x.begin(), x.end());
    if (setup.dtype == DType::bf16) std::transform(x.begin(), x.end(), kept.begin(), rounded_bf16);
    if (setup.dtype != DType::i8) return kept;
    for (size_t row = 0; row < x.size(); row += static_cast<size_t>(dim))
      for (const auto& [first, last] : {std::pair(0, split), std::pair(split, dim)}) {
        float largest = 0;
        for (int d = first; d < last; ++d) largest = std::max(largest, std::abs(x[row + static_cast<size_t>(d)]));
        for (int d = first; d < last; ++d)
          kept[row + static_cast<size_t>(d)] = std::nearbyint(x[row + static_cast<size_t>(d)] * (127.0f / largest)) *
                                               static_cast<double>(largest / 127.0f);
      }
    return kept;
  }

  // In double precision; `rounds`: of queries rounded to bfloat16.
  std::vector<double> expected(bool rounds) const {
    const Case& s = setup;
    const std::vector<double> keys = stored(k, s.k_dim, s.latent ? s.v_dim : s.k_dim),
                              values = stored(v, s.v_dim, s.v_dim);
    std::vector<double> out(static_cast<size_t>(s.tokens) * s.heads * s.v_dim);
    for (int i = 0; i < s.tokens; ++i)
      for (int h = 0; h < s.heads; ++h) {
        const int g = h / (s.heads / s.kv_heads);
        std::vector<double> weight(static_cast<size_t>(s.tokens), 0.0);
        double sum = 0;
        for (int j = 0; j < s.tokens; ++j) {
          if (s.mask == Mask::causal &&
              (j > i || (s.window > 0 && j <= i - s.window) || (s.chunk > 0 && j / s.chunk != i / s.chunk)))
            continue;
          double dot = 0;
          for (int d = 0; d < s.k_dim; ++d)
            dot += static_cast<double>(query(i, h, d, rounds)) *
                   keys[(static_cast<size_t>(j) * s.kv_heads + g) * s.k_dim + d];
          const double score = s.soft_cap > 0 ? s.soft_cap * std::tanh(0.3f * dot / s.soft_cap) : 0.3f * dot;
          sum += weight[static_cast<size_t>(j)] = std::exp(score);
        }
        for (int d = 0; d < s.v_dim; ++d) {
          double value = 0;
          for (int j = 0; j < s.tokens; ++j)
            value += weight[static_cast<size_t>(j)] * values[(static_cast<size_t>(j) * s.kv_heads + g) * s.v_dim + d];
          out[(static_cast<size_t>(i) * s.heads + h) * s.v_dim + d] = value / sum;
        }
      }
    return out;
  }
};

std::vector<int> cut(int tokens, int chunk, int decode) {
  std::vector<int> steps;
  for (int left = tokens - decode; left > 0; left -= chunk) steps.push_back(std::min(chunk, left));
  steps.insert(steps.end(), static_cast<size_t>(decode), 1);
  return steps;
}

constexpr DType kTypes[] = {DType::f32, DType::bf16, DType::i8};
const Case kSetups[] = {
    {},
    {.heads = 3, .kv_heads = 3, .k_dim = 14, .v_dim = 14, .tokens = 33},
    {.heads = 8, .kv_heads = 1, .k_dim = 24, .v_dim = 20, .tokens = 50},
    {.heads = 5, .kv_heads = 1, .k_dim = 64, .v_dim = 64, .tokens = 90, .window = 24},
    {.heads = 4, .kv_heads = 2, .k_dim = 16, .v_dim = 16, .tokens = 90, .window = 1},
    {.heads = 4, .kv_heads = 4, .k_dim = 20, .v_dim = 40, .tokens = 100, .chunk = 32},
    {.heads = 4, .kv_heads = 2, .k_dim = 16, .v_dim = 16, .tokens = 1100},
    {.heads = 4, .kv_heads = 2, .k_dim = 16, .v_dim = 16, .tokens = 1100, .window = 600},
    {.heads = 4, .kv_heads = 2, .k_dim = 16, .v_dim = 16, .tokens = 600, .window = 300, .soft_cap = 0.4f},
    {.heads = 3, .kv_heads = 1, .k_dim = 40, .v_dim = 32, .tokens = 530, .latent = true},
    {.heads = 5, .kv_heads = 1, .k_dim = 40, .v_dim = 32, .tokens = 70, .latent = true, .soft_cap = 1.5f},
    {.heads = 60, .kv_heads = 1, .k_dim = 22, .v_dim = 14, .tokens = 40, .latent = true},
};

TEST_P(Attend, AgreesWithDoublePrecision) {
  for (Case setup : kSetups)
    for (DType dtype : kTypes) {
      setup.dtype = dtype;
      const Sequence sequence(setup);
      const std::vector<float> got = sequence.run(table(), cut(setup.tokens, 1000, 3), 32, 1, 2);
      const bool rounds = table().attend_rounds && (dtype == DType::bf16 || (dtype == DType::i8 && !setup.latent));
      const std::vector<double> want = sequence.expected(rounds);
      // Values are below 1, so that rounded weights (2^-9 of each at most) move their mean by less than that. With a
      // value's scale in it even the weight of a single key is rounded, by 2^-8 at most.
      const double tolerance = !rounds ? 3e-6 : dtype == DType::i8 ? 4e-3 : 2e-3;
      for (size_t i = 0; i < got.size(); ++i)
        ASSERT_NEAR(got[i], want[i], tolerance) << "element " << i << " of " << setup.tokens << " tokens";
    }
}

TEST_P(Attend, AppendWritesWhatTheReferenceWrites) {
  struct Shape {
    int kv_heads, k_dim, v_dim, first, rows, tokens_per_block;
  };
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const Shape& s : {Shape{2, 16, 16, 0, 40, 32}, Shape{1, 33, 17, 3, 9, 8}, Shape{3, 300, 301, 5, 20, 16},
                           Shape{2, 14, 20, 1, 6, 1}, Shape{1, 8, 8, 31, 1, 64}}) {
      const int tokens = s.first + s.rows, blocks = (tokens + s.tokens_per_block - 1) / s.tokens_per_block;
      const size_t stride = cache_layer_bytes(
          {.kv_heads = s.kv_heads, .k_dim = s.k_dim, .v_dim = s.v_dim, .dtype = dtype}, s.tokens_per_block);
      const std::vector<float> k = random_floats(static_cast<size_t>(s.rows) * s.kv_heads * s.k_dim, 21),
                               v = random_floats(static_cast<size_t>(s.rows) * s.kv_heads * s.v_dim, 22);
      std::vector<int32_t> block_table(static_cast<size_t>(blocks));
      for (int b = 0; b < blocks; ++b) block_table[static_cast<size_t>(b)] = blocks - 1 - b;
      const SequenceView view{.rows = s.rows, .first_position = s.first};
      const auto written = [&](const CpuTable& by, int parts) {
        std::vector<std::byte> memory(stride * static_cast<size_t>(blocks) + 64, std::byte{0x5a});
        std::byte* base = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
        const CacheView cache{base, stride, s.tokens_per_block, dtype, s.kv_heads, s.k_dim, s.v_dim};
        const AppendArgs a{k.data(), v.data(), s.kv_heads * s.k_dim, s.kv_heads * s.v_dim, cache, block_table.data(),
                           &view,    1};
        in_parts(parts, [&](Part part) { by.run(a, s.rows, part); });
        return std::vector<std::byte>(base, base + stride * static_cast<size_t>(blocks));
      };
      for (const int parts : kPartCounts)
        EXPECT_EQ(written(table(), parts), written(ref_table(), 1)) << s.k_dim << ", " << parts << " parts";
    }
}

TEST_P(Attend, EncodersSeeTheWholeSequence) {
  for (DType dtype : {DType::f32, DType::i8}) {
    const Sequence sequence({.tokens = 37, .mask = Mask::none, .dtype = dtype});
    const std::vector<float> got = sequence.run(table(), {37}, 64, 2, 3);
    const bool rounds = table().attend_rounds && dtype == DType::i8;
    const std::vector<double> want = sequence.expected(rounds);
    for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], rounds ? 4e-3 : 3e-6);
  }
}

TEST_P(Attend, BitsDependOnNothingElse) {
  for (Case setup : kSetups)
    for (DType dtype : kTypes) {
      if (dtype == DType::i8 && setup.tokens > 1000 && setup.window == 0) continue;  // the other long case is enough
      setup.dtype = dtype;
      const Sequence sequence(setup);
      const std::vector<uint32_t> plain = bits_of(sequence.run(table(), {setup.tokens}, 32, 1, 1));
      for (int block : {1, 8, 16, 64})
        EXPECT_EQ(bits_of(sequence.run(table(), {setup.tokens}, block, 1, 1)), plain) << "blocks of " << block;
      for (int parts : kPartCounts)
        EXPECT_EQ(bits_of(sequence.run(table(), {setup.tokens}, 32, parts, parts)), plain) << parts << " parts";
      for (int chunk : {1, 7, 16, 48})
        EXPECT_EQ(bits_of(sequence.run(table(), cut(setup.tokens, chunk, 5), 16, 1, 4)), plain)
            << "chunks of " << chunk;
    }
}

WEFT_TEST_TABLES(Attend);

}  // namespace
}  // namespace weft::kernels
