// A quantised matrix as its file has it, whatever the format: where codes, scales and zero points lie, and what they
// mean. The readers of the formats (this folder) fill it; read_block() widens by it, and the packer (plan/) takes codes
// and scales from it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/quant/packed_fields.h"

namespace weft {

// The scales of a matrix in groups of its columns: that of (row, group) is value number
// row / row_block * row_stride + group * group_stride of `values`, widened to float32.
struct ScaleGrid {
  TensorInfo values;  // of a scalar float type
  int64_t row_block = 1, row_stride = 0, group_stride = 0;
  // Applied to each in float32: multiplied, or divided by it.
  float factor = 1;
  bool divided = false;
  // bitsandbytes' nested scales: value i is levels[byte i] * outer[i / outer_block] + offset.
  struct Nested {
    std::array<float, 256> levels;
    TensorInfo outer;
    int64_t outer_block = 0;
    float offset = 0;
  };
  std::optional<Nested> nested;

  // Values [first, first + count) of the list, with all of that.
  Status read(int64_t first, int64_t count, float* out) const;
};

// The value of (row, col) is, in float32, operation by operation,
//   (code - zero) * scale     whole numbers
//   levels[code] * scale      if there are levels
// times input_factors[col], if there are any.
struct CodedMatrix {
  std::string format = {};  // as `weft inspect` shows it: "AWQ"
  std::string module = {};  // the tensors' names begin with it
  PackedFields codes = {};  // [rows, cols]
  std::optional<std::array<float, 16>> levels = {};
  // Zero points: of all codes, or one per row and group, to which `zero_added` is added.
  int zero = 0, zero_added = 0;
  std::optional<PackedFields> zeros = {};  // [rows, groups]
  int max_zero = 255;                      // larger ones are refused
  // Column c belongs to group c / group_size, or group_of[c] if that is not empty (act order).
  int64_t group_size = 0, groups = 1;
  std::vector<int32_t> group_of = {};
  ScaleGrid scales = {};
  // bitsandbytes: scale number (row * cols + col) / flat_block, where blocks do not end with rows; 0 otherwise.
  int64_t flat_block = 0;
  std::optional<TensorInfo> input_factors = {};  // [cols]

  int64_t rows() const { return codes.rows; }
  int64_t cols() const { return codes.cols; }
  int64_t group(int64_t col) const { return group_of.empty() ? col / group_size : group_of[static_cast<size_t>(col)]; }
  // "AWQ, 4 bits, groups of 128"
  std::string describe() const;
  int64_t stored_bytes() const;  // of all its tensors

  // All of these may be called from any thread. Errors: data_corrupt with the tensor's name for scales that are not
  // finite and zero points that are out of range.
  Status read_scales(int64_t first_row, int64_t count, float* out) const;   // [count, groups]; without flat_block
  Status read_zeros(int64_t first_row, int64_t count, uint8_t* out) const;  // [count, groups]
  Status read_values(int64_t first_row, int64_t count, int64_t first_col, int64_t width, float* out, int64_t ld) const;

  // What follows from the above; set by prepare(), which reads the zero points.
  std::optional<int> sole_zero = {};       // the zero point of all rows and groups, if it is one
  std::vector<int32_t> column_order = {};  // act order: the columns group by group
  bool whole_groups =
      true;  // in that order, group g has columns [g * group_size, (g + 1) * group_size), the last fewer
  Status prepare();
};

}  // namespace weft
