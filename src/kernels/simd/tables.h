// What each instruction set's file adds to a table. Called only where that instruction set runs.
#pragma once

#include "kernels/kernels.h"

namespace weft::kernels {

void fill_avx2(CpuTable& table);
void fill_avx512(CpuTable& table);       // F, BW, VL, DQ
void fill_avx512_bf16(CpuTable& table);  // and the dot instructions on bfloat16 and bytes
void fill_amx(CpuTable& table);          // and the matrix tiles of AMX on bfloat16 and bytes

}  // namespace weft::kernels
