#include "kernels/simd/vec_plain.h"
// The traits come first.
#include "kernels/simd/fill.h"
#include "kernels/vector_table.h"

namespace weft::kernels {

const CpuTable& plain16_dot_table() {
  static const CpuTable table = vector_table<64>("plain16_dot", Operand::bf16, fill<Plain16Dot>);
  return table;
}

}  // namespace weft::kernels
