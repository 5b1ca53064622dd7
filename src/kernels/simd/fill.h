// The vector kernels of one instruction set as table entries.
#pragma once

#include "kernels/simd/linear.h"
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
}

}  // namespace
}  // namespace weft::kernels
