#include "kernels/pack.h"

#include <algorithm>
#include <cstring>

#include "kernels/layout.h"
#include "kernels/transpose.h"

namespace weft::kernels {
namespace {

void clear_padding(WeightForm form, int columns, int row_count, int k, std::byte* panel) {
  const bool odd = form == WeightForm::bf16 && k % 2 != 0;
  if (row_count < columns || odd) std::memset(panel, 0, packed_panel_bytes(form, columns, k));
}

// The k that has no partner in its word of two.
void put_last_odd(int columns, int column, int k, uint16_t value, std::byte* panel) {
  reinterpret_cast<uint16_t*>(panel)[packed_index(WeightForm::bf16, columns, column, k - 1)] = value;
}

// float32 rows to words of two bfloat16, some rows and some of their k at a time.
void pack_narrowed(int columns, const float* rows, int64_t ld, int row_count, int k, std::byte* panel) {
  constexpr int kRows = 4, kValues = 2 * kTransposeWords;
  uint16_t narrow[kRows][kValues];
  const int even = k / 2 * 2;
  for (int first = 0; first < even; first += kValues) {
    const int values = std::min(kValues, even - first);
    for (int row = 0; row < row_count; row += kRows) {
      const int count = std::min(kRows, row_count - row);
      for (int r = 0; r < count; ++r) {
        const float* from = rows + (row + r) * ld + first;
        if (values == kValues)
          for (int i = 0; i < kValues; ++i) narrow[r][i] = float_to_bf16(from[i]);
        else
          for (int i = 0; i < values; ++i) narrow[r][i] = float_to_bf16(from[i]);
      }
      std::byte* to =
          panel + (static_cast<size_t>(first / 2) * static_cast<size_t>(columns) + static_cast<size_t>(row)) * 4;
      transpose_words(reinterpret_cast<const std::byte*>(narrow), sizeof narrow[0], count, values / 2, columns, to);
    }
  }
  if (k % 2 != 0)
    for (int row = 0; row < row_count; ++row)
      put_last_odd(columns, row, k, float_to_bf16(rows[row * ld + k - 1]), panel);
}

}  // namespace

void pack_panel_f32(WeightForm form, int columns, const float* rows, int64_t ld, int row_count, int k,
                    std::byte* panel) {
  clear_padding(form, columns, row_count, k, panel);
  if (form != WeightForm::f32) return pack_narrowed(columns, rows, ld, row_count, k, panel);
  transpose_words(reinterpret_cast<const std::byte*>(rows), static_cast<size_t>(ld) * sizeof(float), row_count, k,
                  columns, panel);
}

void pack_panel_bf16(int columns, const uint16_t* rows, int64_t ld, int row_count, int k, std::byte* panel) {
  clear_padding(WeightForm::bf16, columns, row_count, k, panel);
  transpose_words(reinterpret_cast<const std::byte*>(rows), static_cast<size_t>(ld) * sizeof(uint16_t), row_count,
                  k / 2, columns, panel);
  if (k % 2 != 0)
    for (int row = 0; row < row_count; ++row) put_last_odd(columns, row, k, rows[row * ld + k - 1], panel);
}

}  // namespace weft::kernels
