#include "kernels/pack.h"

#include <algorithm>
#include <cstring>

#include "kernels/layout.h"

namespace weft::kernels {
namespace {

// Writes the panel block of k values by block of k values, so that both the rows and the panel's lines stay in the first cache.
constexpr int kBlock = 64;

template <class Element, class Convert>
void pack_rows(WeightForm form, int columns, const Element* rows, int64_t ld, int row_count, int k, std::byte* panel,
               Convert convert) {
  using Stored = decltype(convert(rows[0]));
  Stored* out = reinterpret_cast<Stored*>(panel);
  for (int first = 0; first < k; first += kBlock) {
    const int last = std::min(k, first + kBlock);
    for (int column = 0; column < row_count; ++column) {
      const Element* row = rows + column * ld;
      for (int i = first; i < last; ++i) out[packed_index(form, columns, column, i)] = convert(row[i]);
    }
  }
}

void clear_padding(WeightForm form, int columns, int row_count, int k, std::byte* panel) {
  const bool odd = form == WeightForm::bf16 && k % 2 != 0;
  if (row_count < columns || odd) std::memset(panel, 0, packed_panel_bytes(form, columns, k));
}

}  // namespace

void pack_panel_f32(WeightForm form, int columns, const float* rows, int64_t ld, int row_count, int k, std::byte* panel) {
  clear_padding(form, columns, row_count, k, panel);
  if (form == WeightForm::f32) {
    pack_rows(form, columns, rows, ld, row_count, k, panel, [](float value) { return value; });
  } else {
    pack_rows(form, columns, rows, ld, row_count, k, panel, [](float value) { return float_to_bf16(value); });
  }
}

void pack_panel_bf16(int columns, const uint16_t* rows, int64_t ld, int row_count, int k, std::byte* panel) {
  clear_padding(WeightForm::bf16, columns, row_count, k, panel);
  pack_rows(WeightForm::bf16, columns, rows, ld, row_count, k, panel, [](uint16_t value) { return value; });
}

}  // namespace weft::kernels
