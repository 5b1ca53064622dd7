// The AVX2 table's kernels. Compiled for AVX2, FMA and F16C; see simd/ and layout.h for the rule on linkage.
#include "kernels/simd/vec_avx2.h"
// The traits come first.
#include "kernels/simd/fill.h"
#include "kernels/simd/tables.h"

namespace weft::kernels {

void fill_avx2(CpuTable& table) { fill<Avx2>(table); }

}  // namespace weft::kernels
