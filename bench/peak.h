// The machine's limits, measured: what the kernels' numbers are percentages of.
#pragma once

#include <cstddef>

namespace weft::bench {

// Multiply-adds per second of this thread in registers, as FLOP/s: float32 FMA, and the bfloat16 dot instruction (0 if absent).
double peak_flops_f32(double seconds);
double peak_flops_bf16(double seconds);
// Multiply-adds of int8 pairs with int32 sums in registers, as operations per second (two per pair): the byte dot instruction, or
// on AVX2 the three instructions that take its place.
double peak_ops_int8(double seconds);
// Reads `bytes` of memory in four streams once; returns something that depends on them.
unsigned long read_memory(const void* data, size_t bytes);

}  // namespace weft::bench
