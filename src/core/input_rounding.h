// How a checkpoint's format rounds the inputs of a matrix product (--activation-quantization checkpoint).
#pragma once

#include <cstdint>

namespace weft {

// Each value x of a row becomes number(x / s) * s, where s is the scale of its group of columns, and number() the
// nearest number of the kind, ties to even, limited to its range. With a = the largest magnitude of the group:
//   int8   -128 ... 127     s = a / 127
//   fp8    e4m3fn           s = a / 448
//   fp4    e2m1             s = e4m3(a / 6 / outer) * outer   (NVFP4)
// (which is computed in float32 in this order), or s = `scale` where that is not 0. A group of zeros stays zeros.
struct InputRounding {
  // other: the format rounds in a way that is not supported
  enum class Kind : uint8_t { none, int8, fp8, fp4, other };
  Kind kind = Kind::none;
  int group = 0;    // columns that share a scale; 0: all
  float scale = 0;  // fixed; 0: found from the row
  float outer = 1;  // of fp4
  float limit = 0;  // a is at most this; 0: any
  bool operator==(const InputRounding&) const = default;
};

}  // namespace weft
