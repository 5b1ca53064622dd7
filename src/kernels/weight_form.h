// Weights in memory: in which forms a matrix may be, how it is packed, and what its products read.
#pragma once

#include <cstddef>
#include <cstdint>

namespace weft::kernels {

// How a matrix is stored for the matrix product. The quantised forms hold small codes and a scale per group of k in
// each output column (WeightGroups); their value is always computed in float32, one operation after the other as
// written here:
//   fp8   e4m3fn                        code * scale
//   int8  -128 ... 127                  code * scale
//   int4  0 ... 15, int6 0 ... 63       (code - zero) * scale, or code * scale + minimum
//   fp4   0 ... 15                      level of the code * scale (CodeLevels)
// bf12 is bfloat16 in 12 bits, without loss (bf12_layout.h): products have the bits of those with bf16.
enum class WeightForm : uint8_t { f32, bf16, bf12, fp8, int8, int4, int6, fp4 };
// "float32", "bfloat16", "bfloat16 in 12 bits", "fp8", "int8", "int4", "int6", "fp4"
const char* name(WeightForm form);
constexpr bool is_quantized(WeightForm form) { return form >= WeightForm::fp8; }

// How the scales of a quantised form are stored. `super`: GGUF's K blocks, where a group's scale is a float16 shared by
// 256 values of k times an integer of the group (int4: unsigned, with a minimum made in the same way; int6: signed, or
// with a minimum below 128).
enum class ScaleKind : uint8_t { f32, f16, bf16, super };
// What int4 and int6 subtract from a code or add to the product.
//   none:     int4 subtracts 8, int6 32 (fp8, int8: nothing)
//   zero:     each group has a zero point of 8 bits that is subtracted from the code (int4 without super scales)
//   minimum:  each group has a minimum that is added to the product (int4 and int6 with scales f16 or super)
enum class OffsetKind : uint8_t { none, zero, minimum };

// What the sixteen codes of fp4 stand for: e2m1 (NVFP4, MXFP4), bitsandbytes' normal float and its fp4.
enum class CodeLevels : uint8_t { e2m1, nf4, bnb_fp4 };
// The values by code.
const float* levels_of(CodeLevels levels);

// The groups of a quantised form: k [i * size, (i + 1) * size) of a column share a scale; the last group may be
// shorter. `size` is a multiple of 32 (one group for all of k: k rounded up to 32), of 16 for fp4, or 16 for
// int6.
struct WeightGroups {
  int size = 0;
  ScaleKind scale = ScaleKind::f32;
  OffsetKind offset = OffsetKind::none;
  CodeLevels levels = CodeLevels::e2m1;  // of fp4, whose scales are f32 or bf16
  bool operator==(const WeightGroups&) const = default;
};

// How activations are stored where a matrix product reads them.
//   f32:          as they are
//   f32_as_bf16:  float32 holding values rounded to bfloat16
//   bf16:         bfloat16, row length padded to even with a zero
//   int8:         codes -127 ... 127 of value / scale with a scale for each kStrip of k of each row; see
//     operand_row_elements()
enum class Operand : uint8_t { f32, f32_as_bf16, bf16, int8 };
constexpr int operand_size_bytes(Operand o) { return o == Operand::bf16 ? 2 : o == Operand::int8 ? 1 : 4; }
constexpr int kStrip = 32;  // k whose codes share an activation scale; the quantised forms pad k to a multiple of it
constexpr int64_t strip_count(int64_t k) { return (k + kStrip - 1) / kStrip; }
// Elements of a row of `cols` values in its operand form (before padding between rows). int8: the codes, padded with
// zeros to whole strips; the float32 scale of each strip; the int32 sum of the codes of each strip.
constexpr int64_t operand_row_elements(Operand o, int64_t cols) {
  return o == Operand::int8 ? strip_count(cols) * (kStrip + 8) : o == Operand::bf16 ? (cols + 1) / 2 * 2 : cols;
}

// A matrix's form with all that a kernel must know about it.
struct WeightFormat {
  WeightForm form = WeightForm::f32;
  WeightGroups groups = {};  // of the quantised forms
  Operand operand =
      Operand::f32;  // what products with a quantised form read: any but bf16; int8 only with int8 or int4, bf16 scales
                     // and no offsets. The other forms read what the table says (CpuTable::operand).
  bool operator==(const WeightFormat&) const = default;
};

// Bytes behind the last panel of a matrix that kernels may read.
constexpr size_t kReadAhead = 8192;

// A weight matrix [out, k] in packed form: panels of `panel` output columns; inside a panel the layout is the table's
// own (see CpuTable::pack_panel). Padded columns and k are zero. Aligned to 64 bytes.
struct PackedMatrix {
  WeightForm form = WeightForm::f32;
  int out = 0, k = 0;
  int panel = 0;           // output columns per panel
  size_t panel_bytes = 0;  // from one panel to the next
  // k is summed in this many equal parts (1, 2, 4 or 8), added as a balanced binary tree. They must divide k; for bf16
  // with more than one part, into parts of even length, for bf12 and quantised forms into whole strips.
  int shards = 1;
  const std::byte* data = nullptr;
  WeightGroups groups = {};        // as WeightFormat has them
  Operand operand = Operand::f32;  // likewise

  WeightFormat format() const { return {form, groups, operand}; }
};

// Rows of a quantised matrix before they are packed: codes in a byte each (fp8 as stored, int8 in two's complement) and
// the scales in the WeightGroups' own representation, all row after row. Which arrays are read depends on the groups:
//   f32, f16, bf16:  scales [groups], and zeros [groups] (bytes) or minima [groups] (float16)
//   super:           scales [ceil(k / 256)] float16, minima likewise; factors [groups] bytes, and for a minimum
//     minimum_factors
struct QuantizedRows {
  int rows = 0, k = 0;
  const uint8_t* codes = nullptr;  // [rows, k]
  const void* scales = nullptr;
  const void* offsets = nullptr;  // zeros or minima
  const uint8_t* factors = nullptr;
  const uint8_t* offset_factors = nullptr;
};

}  // namespace weft::kernels
