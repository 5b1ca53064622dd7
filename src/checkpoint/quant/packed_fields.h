// Grids of small whole numbers as quantised files pack them: several fields to a word, words along one dimension.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "checkpoint/checkpoint.h"

namespace weft {

// A grid [rows, cols] of fields of `bits` bits (1 to 8). A line is a row of the grid, or with `along_rows` a column of
// it. The fields of a line are a stream of bits in little-endian words, the lowest bits of the first word first, unless
// `order` says otherwise; a field may lie in two words.
struct PackedFields {
  enum class Order : uint8_t {
    low_first,
    high_first,  // the first field of a word is the highest
    awq,         // 8 fields of 4 bits in a word; field j is nibble (0, 4, 1, 5, 2, 6, 3, 7)[j]
  };
  TensorInfo tensor;  // its bytes
  int64_t rows = 0, cols = 0;
  int bits = 8;
  bool along_rows = false;
  int word_bytes = 1;                        // 1 or 4. Words of one byte: 2, 4 or 8 bits
  int64_t word_stride = 1, line_stride = 0;  // bytes from a word, and from a line, to the next
  Order order = Order::low_first;
  uint8_t flip = 0;  // bits that are inverted on reading: of the sign, to make two's complement a number from 0 on

  // Fields [first_row, + count) x [first_col, + width), row r at out + (r - first_row) * ld. The range is checked.
  Status read(int64_t first_row, int64_t count, int64_t first_col, int64_t width, uint8_t* out, int64_t ld) const;
  // Whether the bytes of a row lie together and those of the next row behind them.
  bool rows_lie_together() const { return !along_rows && word_stride == word_bytes; }
};

}  // namespace weft
