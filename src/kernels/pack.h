// Packing of weight matrices into panels. All tables use one family of layouts and differ in the panel's width only.
#pragma once

#include "kernels/kernels.h"

namespace weft::kernels {

// See CpuTable::pack_panel: `rows` is [row_count, ld] float32, row_count <= columns.
void pack_panel_f32(WeightForm form, int columns, const float* rows, int64_t ld, int row_count, int k, std::byte* panel);
// The same from bfloat16 rows into form bf16.
void pack_panel_bf16(int columns, const uint16_t* rows, int64_t ld, int row_count, int k, std::byte* panel);

}  // namespace weft::kernels
