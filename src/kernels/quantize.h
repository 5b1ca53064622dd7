// Quantisation of float rows: while loading (--quantize int8 | int4), and for checkpoints that are written.
#pragma once

#include <vector>

#include "kernels/kernels.h"

namespace weft::kernels {

// The formats that quantize_row() makes: symmetric codes with a bfloat16 scale for each group.
//   int8: groups of 64, scale = largest magnitude / 127; 8.25 bits a weight
//   int4: groups of 32, codes -8 ... 7, the scale searched for the least sum of squared errors; 4.5 bits a weight
// `operand` is what their products read: float32 rows or int8 rows.
WeightFormat quantized_format(WeightForm form, int k, Operand operand);

// Quantises a row of k weights into `codes` [k] and `scales` [groups]. Values that are not finite give their group the
// scale NaN.
void quantize_row(const WeightFormat& format, const float* row, int k, uint8_t* codes, uint16_t* scales);

// As int4 for codes of 4 or 3 bits, -2^(bits-1) ... 2^(bits-1)-1, stored from 0 on; groups of 32, also of 3 bits. The
// squared errors are weighed with `importance` [k]: positive numbers around 1, such as the mean squares of the inputs
// that the columns are multiplied with (then the sum is the squared error of the product, were the inputs
// independent). null: all are 1, and 4 bits are those of quantize_row().
constexpr int kFitGroup = 32;
void fit_row(int bits, const float* row, const float* importance, int k, uint8_t* codes, uint16_t* scales);

}  // namespace weft::kernels
