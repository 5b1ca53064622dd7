// Elementwise ops: out[r, c] = f(a[r, c]), or f(a[r, c], b[r, c]), in float32.
//
// An op is a struct of its constants and an entry in the list; its slot in the tables, how they are filled, the plan's
// op and its binding follow from these. What it computes is written twice: in ref.cc (element()) and for vectors in
// simd/rows.h (elements()). docs/adding-a-kernel.md has an example.
#pragma once

#include <cstdint>

#include "base/type_list.h"

namespace weft::kernels {

struct Add {  // a + b
  static constexpr const char* kName = "add";
  static constexpr int kInputs = 2;
};

struct Scale {  // a * factor
  static constexpr const char* kName = "scale";
  static constexpr int kInputs = 1;
  float factor = 1.0f;
};

struct SoftCap {  // cap * tanh(a / cap)
  static constexpr const char* kName = "soft_cap";
  static constexpr int kInputs = 1;
  float cap = 1.0f;
};

using ElementwiseOps = TypeList<Add, Scale, SoftCap>;
template <class F>
concept IsElementwise = contains<F>(ElementwiseOps{});

template <IsElementwise F>
struct ElementwiseArgs {
  F f;
  const float *a = nullptr, *b = nullptr;  // b: of ops with two inputs. out may be either of them
  int64_t ld_a = 0, ld_b = 0;
  int cols = 0;
  float* out = nullptr;
  int64_t ld_out = 0;
};

}  // namespace weft::kernels
