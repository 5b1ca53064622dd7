// Packing of weight matrices into panels. All tables use one family of layouts and differ in the panel's width only.
#pragma once

#include "kernels/kernels.h"

namespace weft::kernels {

// See CpuTable::pack_panel: `rows` is [row_count, ld] float32, row_count <= columns.
void pack_panel_f32(WeightForm form, int columns, const float* rows, int64_t ld, int row_count, int k,
                    std::byte* panel);
// The same from bfloat16 rows into form bf16.
void pack_panel_bf16(int columns, const uint16_t* rows, int64_t ld, int row_count, int k, std::byte* panel);
// The same of form bf12 (bf12_layout.h).
float bf12_value(const PackedMatrix& w, int column, int k);
void bf12_row(const PackedMatrix& w, int column, float* out);

// See CpuTable::pack_panel_quantized and quantized_panel_bytes.
void pack_quantized(WeightForm form, const WeightGroups& groups, int columns, const QuantizedRows& rows,
                    std::byte* panel);
size_t quantized_panel_bytes(WeightForm form, const WeightGroups& groups, int columns, int k);
// Bytes that a matrix [out, k] takes in this format, padding between panels aside.
int64_t format_bytes(const WeightFormat& format, int64_t out, int k);

// What a packed quantised matrix holds at (column, k): its code, its group's scale and offset (zero point, centre of
// the codes or minimum), and the value as WeightForm defines it. The scale of fp8 comes times 2^120, as it is stored.
// Slow: for the reference and for looking up embeddings.
struct GroupValues {
  float scale = 0, offset = 0;
};
int packed_code(const PackedMatrix& w, int column, int k);
GroupValues packed_group(const PackedMatrix& w, int column, int k);
float packed_value(const PackedMatrix& w, int column, int k);
void packed_row(const PackedMatrix& w, int column, float* out);  // values of all k of a column; also of form bf12

}  // namespace weft::kernels
