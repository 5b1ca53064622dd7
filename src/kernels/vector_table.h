// How a table of vector kernels is put together.
#pragma once

#include "kernels/bf12_layout.h"
#include "kernels/pack.h"

namespace weft::kernels {

// A table of vector kernels: the reference table, with the packing for panels of `columns` columns (`bf16_columns` for
// bfloat16 weights), filled by `fill`.
template <int columns, int bf16_columns = columns>
static CpuTable vector_table(const char* isa, Operand bf16_operand, void (*fill)(CpuTable&)) {
  CpuTable table = ref_table();
  table.isa = isa;
  if (bf16_operand == Operand::bf16)
    table.operand = [](WeightForm form) { return form == WeightForm::f32 ? Operand::f32 : Operand::bf16; };
  table.panel_cols = [](WeightForm form) {
    return form == WeightForm::bf16 || form == WeightForm::bf12 ? bf16_columns : columns;
  };
  table.panel_bytes = [](WeightForm form, int k) {
    if (form == WeightForm::bf12) return bf12_layout(bf16_columns, k).bytes;
    return packed_panel_bytes(form, form == WeightForm::bf16 ? bf16_columns : columns, k);
  };
  table.pack_panel = [](WeightForm form, const float* rows, int64_t ld, int row_count, int k, std::byte* panel) {
    pack_panel_f32(form, form == WeightForm::bf16 ? bf16_columns : columns, rows, ld, row_count, k, panel);
  };
  table.pack_panel_bf16 = [](const uint16_t* rows, int64_t ld, int row_count, int k, std::byte* panel) {
    pack_panel_bf16(bf16_columns, rows, ld, row_count, k, panel);
  };
  table.quantized_panel_bytes = [](WeightForm form, WeightGroups groups, int k) {
    return quantized_panel_bytes(form, groups, columns, k);
  };
  table.pack_panel_quantized = [](WeightForm form, WeightGroups groups, const QuantizedRows& rows, std::byte* panel) {
    pack_quantized(form, groups, columns, rows, panel);
  };
  fill(table);
  return table;
}

}  // namespace weft::kernels
