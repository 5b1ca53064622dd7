// The AVX-512 table with the dot instructions on bfloat16 and bytes. Compiled for F, BW, VL, DQ, BF16 and VNNI; see
// simd/ and layout.h for linkage.
#include "kernels/simd/vec_avx512.h"
// The traits come first.
#include "kernels/simd/fill.h"
#include "kernels/simd/pack_bf12.h"
#include "kernels/simd/tables.h"

namespace weft::kernels {

void fill_avx512_bf16(CpuTable& table) {
  fill<Avx512Dot>(table);
  table.pack_panel_bf12 = pack_bf12<64>;
}

}  // namespace weft::kernels
