// Products with bfloat16 weights in 12 bits on the dot instruction: a chunk of one or a few panels is unpacked into the
// L1 cache, and the tiles of the plain bfloat16 product pass over it, so that the result has the same bits.
#pragma once

#include "kernels/simd/linear.h"
#include "kernels/simd/unpack_bf12.h"

namespace weft::kernels {
namespace {

template <class V>
struct Bf12Product {
  using Block = LinearBlock<V>;
  using Plain = FloatProduct<V, WeightForm::bf16>;
  static constexpr int kColumns = Block::kColumns;
  static constexpr int kTileRows = Plain::kTileRows, kBlockTiles = Plain::kBlockTiles,
                       kBlockFloats = Plain::kBlockFloats, kMaxGroup = Plain::kMaxGroup;
  static constexpr int kDepth = Plain::kDepth;
  static constexpr int kChunkBytes = kColumns * kBf12Chunk * 2;  // unpacked
  static constexpr int kAhead = 2 * kChunkBytes * 3 / 4;
  static_assert(V::kDot && kDepth % kBf12Chunk == 0);

  static int depth(int rows, int length) { return rows == 1 ? length : kDepth; }

  static void multiply_depth(const Block& b, int begin, int end, bool first, float* sums) {
    alignas(64) float copy[kBlockTiles * kTileRows * Plain::kLdCopy];
    const float* x = Plain::row_of(b.a, b.first_row()) + begin / 2;
    if (b.row_count() > 1) {
      for (int r = 0; r < b.row_count(); ++r)
        copy_row<V>(Plain::row_of(b.a, b.first_row() + r) + begin / 2, (end - begin + 1) / 2,
                    copy + r * Plain::kLdCopy);
      x = copy;
    }
    if (b.tile_count() == 1) return kStream[b.row_count() - 1](b, x, begin, end, first, sums);
    alignas(64) std::byte unpacked[kDepth / kBf12Chunk * kChunkBytes];
    const Bf12Layout layout = bf12_layout(kColumns, b.a.w.k);
    for (int p = 0; p < b.panels(); ++p) {
      const Bf12Panel panel(b.panel(p), layout);
      for (int k = begin; k < end; k += kBf12Chunk)
        unpack_chunk<kColumns, true>(panel, k / kBf12Chunk, kAhead, unpacked + (k - begin) / kBf12Chunk * kChunkBytes);
      for (int t = b.first_tile; t < b.last_tile; ++t) {
        const int row = tile_row(b.rows, b.tiles, t), count = tile_row(b.rows, b.tiles, t + 1) - row;
        Plain::kCached[count - 1](x + (row - b.first_row()) * Plain::kLdCopy, unpacked, 0, end - begin, first,
                                  sums + b.sums_of(row) + static_cast<int64_t>(p) * count * kColumns);
      }
    }
  }

  // One tile of rows over panels that come from memory, a chunk of a few of them at a time.
  template <int MR>
  static void stream(const Block& b, const float* x, int begin, int end, bool first, float* sums) {
    constexpr int kFit = V::kFreeRegisters / (MR * V::kPanelVectors);
    constexpr int NP = kFit > 4 ? 4 : kFit < 1 ? 1 : kFit;
    int p = 0;
    for (; p + NP <= b.panels(); p += NP) stream_panels<MR, NP>(b, x, p, begin, end, first, sums);
    for (; p < b.panels(); ++p) stream_panels<MR, 1>(b, x, p, begin, end, first, sums);
  }
  template <int MR, int NP>
  [[gnu::noinline]] static void stream_panels(const Block& b, const float* x, int p, int begin, int end, bool first,
                                              float* sums) {
    constexpr int VP = V::kPanelVectors;
    alignas(64) std::byte unpacked[NP * kChunkBytes];
    const Bf12Layout layout = bf12_layout(kColumns, b.a.w.k);
    Bf12Panel panels[NP];
    TileOperands<NP> chunk{.x = x, .ld_x = Plain::kLdCopy, .step_bytes = kColumns * 4};
    for (int i = 0; i < NP; ++i) panels[i] = Bf12Panel(b.panel(p + i), layout), chunk.w[i] = unpacked + i * kChunkBytes;
    float* out = sums + static_cast<ptrdiff_t>(p) * MR * kColumns;
    Accumulators<V, MR, NP, VP> acc;
#pragma GCC unroll 32
    for (int i = 0; i < NP * MR * VP; ++i)
      acc.at[i / VP % MR][i / VP / MR][i % VP] = first ? V::zero() : V::load(out + i * V::kLanes);
    for (int k = begin; k < end; k += kBf12Chunk, chunk.x += kBf12Chunk / 2) {
      const int c = k / kBf12Chunk;
      bool exceptions = end - k < kBf12Chunk;
      for (int i = 0; i < NP; ++i) exceptions = exceptions || panels[i].starts[c] != panels[i].starts[c + 1];
      if (!exceptions) {
        accumulate_units(acc, panels, c, chunk.x);
      } else {
        for (int i = 0; i < NP; ++i) unpack_chunk<kColumns, true>(panels[i], c, kAhead, unpacked + i * kChunkBytes);
        accumulate<V, WeightForm::bf16, 0>(acc, chunk, end - k < kBf12Chunk ? end - k : kBf12Chunk);
      }
    }
#pragma GCC unroll 32
    for (int i = 0; i < NP * MR * VP; ++i) V::store(out + i * V::kLanes, acc.at[i / VP % MR][i / VP / MR][i % VP]);
  }

  // A chunk without exceptions, straight from the registers: a unit of 128 weights is one pair of k of a panel.
  template <int MR, int NP>
  WEFT_INLINE void accumulate_units(Accumulators<V, MR, NP, V::kPanelVectors>& acc, const Bf12Panel (&panels)[NP],
                                    int c, const float* x) {
    static_assert(kColumns == 64 && V::kPanelVectors == 4);
    for (int step = 0; step < kBf12Chunk / 2; ++step) {
#pragma GCC unroll 4
      for (int i = 0; i < NP; ++i) {
        const std::byte* from = panels[i].bodies + (static_cast<ptrdiff_t>(c) * (kBf12Chunk / 2) + step) * kUnitBytes;
#pragma GCC unroll 3
        for (int line = 0; line < 3; ++line)
          _mm_prefetch(reinterpret_cast<const char*>(from + kAhead + line * 64), _MM_HINT_T0);
        const Bf12Unit unit = unpack_unit(from, panels[i].table);
#pragma GCC unroll 6
        for (int r = 0; r < MR; ++r) {
          const __m512i a = V::as_bits(V::set1(x[r * Plain::kLdCopy + step]));
#pragma GCC unroll 4
          for (int v = 0; v < 4; ++v) acc.at[r][i][v] = V::dot(acc.at[r][i][v], unit.weights[v], a);
        }
      }
    }
  }
  using Stream = void (*)(const Block&, const float*, int, int, bool, float*);
  static constexpr Stream kStream[kTileRows] = {stream<1>, stream<2>, stream<3>, stream<4>, stream<5>, stream<6>};
};

}  // namespace
}  // namespace weft::kernels
