// The AVX-512 table's kernels, without a dot instruction. Compiled for F, BW, VL and DQ; see simd/ and layout.h for
// linkage.
#include "kernels/simd/vec_avx512.h"
// The traits come first.
#include "kernels/simd/fill.h"
#include "kernels/simd/tables.h"

namespace weft::kernels {

void fill_avx512(CpuTable& table) { fill<Avx512>(table); }

}  // namespace weft::kernels
