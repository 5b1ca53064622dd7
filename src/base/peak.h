// The machine's limits, measured: what the kernels' numbers are percentages of.
#pragma once

#include <cstddef>

#include "base/thread_team.h"

namespace weft::bench {

// Multiply-adds per second of this thread in registers, as FLOP/s: float32 FMA, and the bfloat16 dot instruction (0 if
// absent).
double peak_flops_f32(double seconds);
double peak_flops_bf16(double seconds);
// The same on matrix tiles (AMX), bfloat16 and int8; 0 if absent.
double peak_flops_bf16_tiles(double seconds);
double peak_ops_int8_tiles(double seconds);
// Multiply-adds of int8 pairs with int32 sums in registers, as operations per second (two per pair): the byte dot
// instruction, or on AVX2 the three instructions that take its place.
double peak_ops_int8(double seconds);
// Reads `bytes` of memory in four streams once; returns something that depends on them.
unsigned long read_memory(const void* data, size_t bytes);

// The limits of a team together.
struct MachineLimits {
  double read_bytes_per_s = 0;  // of memory, far more than the caches hold
  double f32_flops = 0, bf16_flops = 0, bf16_tile_flops = 0, int8_ops = 0, int8_tile_ops = 0;
};

// Memory to measure reading with: `bytes` of it, touched, on large pages where the system gives them.
class ReadBuffer {
 public:
  // Less where memory is short, at most a quarter of what is available; none if that is too little to measure with.
  explicit ReadBuffer(size_t bytes = size_t{1} << 30);
  ~ReadBuffer();
  ReadBuffer(const ReadBuffer&) = delete;
  ReadBuffer& operator=(const ReadBuffer&) = delete;
  // The best of the runs that fit into `seconds`, in bytes per second.
  double measure(ThreadTeam& team, double seconds) const;

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

// Takes about `seconds`.
MachineLimits measure_limits(ThreadTeam& team, const ReadBuffer& buffer, double seconds);

}  // namespace weft::bench
