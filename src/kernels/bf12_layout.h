// Bfloat16 weights in 12 bits, without loss: the exponents of a panel's weights take few values, so that four bits name
// most of them.
//
// A panel holds the plain bfloat16 panel (layout.h) in chunks; a chunk is kBf12Chunk of k of all columns, padded with
// zeros.
//   table       32 words: exponents << 7, 16 of them twice; entry 0 is exponent 0 (zeros and subnormals)
//   starts      [chunks + 1] uint32: the exceptions of chunk c are [starts[c], starts[c + 1])
//   chunks      for each 128 weights 192 bytes: 32 words of four table indices, then two times 32 words of two weights'
//               sign and mantissa. Weight i = 32 r + j of the 128 has index bits [4 r, 4 r + 4) of word j, and sign
//               (high bit) and mantissa in byte r % 2 of word j of the first (r < 2) or second 32 words.
//   exceptions  weights whose exponent is not in the table: their index in the chunk and their bits
#pragma once

#include "kernels/layout.h"

namespace weft::kernels {
namespace {

constexpr int kBf12Chunk = 32;

struct Bf12Exception {
  uint16_t place, bits;
};

struct Bf12Layout {
  int chunks = 0, capacity = 0;  // of the list of exceptions
  size_t chunk_weights = 0, chunk_bytes = 0;
  size_t starts = 64, bodies = 0, exceptions = 0, bytes = 0;  // offsets in bytes, and the whole panel
};

[[maybe_unused]] constexpr Bf12Layout bf12_layout(int columns, int k) {
  Bf12Layout l;
  l.chunks = (k + kBf12Chunk - 1) / kBf12Chunk;
  l.chunk_weights = static_cast<size_t>(columns) * kBf12Chunk;
  l.chunk_bytes = l.chunk_weights / 2 * 3;
  const size_t weights = l.chunk_weights * static_cast<size_t>(l.chunks);
  l.capacity = static_cast<int>(weights / 128) + 16;
  l.bodies = (l.starts + (static_cast<size_t>(l.chunks) + 1) * sizeof(uint32_t) + 63) / 64 * 64;
  l.exceptions = l.bodies + l.chunk_bytes * static_cast<size_t>(l.chunks);
  l.bytes = (l.exceptions + static_cast<size_t>(l.capacity) * sizeof(Bf12Exception) + 63) / 64 * 64;
  return l;
}

}  // namespace
}  // namespace weft::kernels
