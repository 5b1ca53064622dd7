// The AVX-512 table with the dot instructions, and products of bfloat16 and int8 on the matrix tiles of AMX. Compiled
// for all of these; see simd/ and layout.h for linkage.
#include "kernels/simd/vec_avx512.h"
// The traits come first.
#include "kernels/simd/attend_tiles.h"
#include "kernels/simd/fill.h"
#include "kernels/simd/pack_bf12.h"
#include "kernels/simd/tables.h"

namespace weft::kernels {

void fill_amx(CpuTable& table) {
  fill<Avx512Dot>(table);
  table.kernel<AttendArgs>() = attend_on_tiles<Avx512Dot>;
  table.attend_rounds = true;
  table.pack_panel_bf12 = pack_bf12<16>;
  table.prefers_bf12 = true;
  table.attend_scratch_bytes = attend_on_tiles_scratch_bytes<Avx512Dot>;
}

}  // namespace weft::kernels
