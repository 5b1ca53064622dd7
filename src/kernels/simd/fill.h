// The vector kernels of one instruction set as table entries.
#pragma once

#include "kernels/simd/append.h"
#include "kernels/simd/attend.h"
#include "kernels/simd/linear_dispatch.h"
#include "kernels/simd/rows.h"

namespace weft::kernels {
namespace {

// Kernels without vectors of their own stay what they are.
template <class V>
void fill(CpuTable& table) {
  for_each_type(Kernels{}, [&]<class Args>() {
    if constexpr (requires(const Args& args) { compute<V>(args, 0, Part{}); })
      table.kernel<Args>() = [](const Args& args, int rows, Part part) { compute<V>(args, rows, part); };
  });
  table.attend_scratch_bytes = attend_scratch_bytes<V>;
}

}  // namespace
}  // namespace weft::kernels
