// The vector kernels of one instruction set as table entries.
#pragma once

#include "kernels/simd/append.h"
#include "kernels/simd/attend.h"
#include "kernels/simd/linear_dispatch.h"
#include "kernels/simd/rows.h"

namespace weft::kernels {
namespace {

template <class V>
void fill(CpuTable& table) {
  table.linear = linear<V>;
  table.to_operand = to_operand<V>;
  table.rms_norm = rms_norm<V>;
  table.layer_norm = layer_norm<V>;
  table.heads = heads<V>;
  table.activate = activate<V>;
  table.add = add<V>;
  table.select_rows = select_rows<V>;
  table.scale_rows = scale_rows<V>;
  table.combine = combine<V>;
  table.append = append<V>;
  table.attend = attend<V>;
  table.attend_combine = attend_combine<V>;
  table.attend_scratch_bytes = attend_scratch_bytes<V>;
}

}  // namespace
}  // namespace weft::kernels
