// Packing's inner step: every layout of packed weights keeps 32-bit words (a float, two bfloat16, four bytes of codes)
// of a row in k order and turns [rows][words] into [words][columns]. Internal linkage; see layout.h.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace weft::kernels {
namespace {

constexpr int kTransposeWords = 16;  // a cache line of a row

// Four words in the vector that every 64-bit target has; compilers turn the shuffles into its instructions.
typedef uint32_t Words4 __attribute__((vector_size(16)));

[[maybe_unused]] inline Words4 load_words(const std::byte* at) {
  Words4 words;
  std::memcpy(&words, at, sizeof words);
  return words;
}

// Lines of four rows, `row_bytes` apart, to 16 x 4 words at `out`, `columns` words apart.
[[maybe_unused]] inline void transpose_lines(const std::byte* rows, size_t row_bytes, int columns, std::byte* out) {
  const size_t out_bytes = static_cast<size_t>(columns) * 4;
  for (int word = 0; word < kTransposeWords; word += 4) {
    const std::byte* from = rows + word * 4;
    std::byte* to = out + static_cast<size_t>(word) * out_bytes;
    const Words4 a = load_words(from), b = load_words(from + row_bytes), c = load_words(from + 2 * row_bytes),
                 d = load_words(from + 3 * row_bytes);
    const Words4 ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5),
                 ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const Words4 cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5),
                 cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    const Words4 columns_of[] = {
        __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5), __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7),
        __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5), __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7)};
    for (int i = 0; i < 4; ++i) std::memcpy(to + static_cast<size_t>(i) * out_bytes, &columns_of[i], sizeof(Words4));
  }
}

// out[word][row] = rows[row][word] for `row_count` rows of `words` words, which may lie at any address, `row_bytes`
// apart; `columns` words from one word of `out` to the next.
[[maybe_unused]] inline void transpose_words(const std::byte* rows, size_t row_bytes, int row_count, int words,
                                             int columns, std::byte* out) {
  // A line of each row at a time: it is read once, and the lines that it goes to stay in the L1 cache.
  for (int first = 0; first < words; first += kTransposeWords) {
    const int last = std::min(words, first + kTransposeWords);
    int row = 0;
    if (last - first == kTransposeWords)
      for (; row + 4 <= row_count; row += 4)
        transpose_lines(
            rows + static_cast<size_t>(row) * row_bytes + static_cast<size_t>(first) * 4, row_bytes, columns,
            out + (static_cast<size_t>(first) * static_cast<size_t>(columns) + static_cast<size_t>(row)) * 4);
    for (; row < row_count; ++row)
      for (int word = first; word < last; ++word)
        std::memcpy(out + (static_cast<size_t>(word) * static_cast<size_t>(columns) + static_cast<size_t>(row)) * 4,
                    rows + static_cast<size_t>(row) * row_bytes + static_cast<size_t>(word) * 4, 4);
  }
}

}  // namespace
}  // namespace weft::kernels
