#include "kernels/simd/vec_plain.h"
// The traits come first.
#include "kernels/simd/fill.h"
#include "kernels/vector_table.h"

namespace weft::kernels {

const CpuTable& plain16_table() {
  static const CpuTable table = vector_table<64>("plain16", Operand::f32_as_bf16, fill<Plain16>);
  return table;
}

}  // namespace weft::kernels
