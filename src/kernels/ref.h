// Parts of the reference table that live in files of their own.
#pragma once

#include "kernels/kernels.h"

namespace weft::kernels {

// out[index] = value in operand form; the end of a row of `cols` values gets bf16's zero padding.
void ref_store(void* out, int64_t index, Operand operand, float value);
void ref_end_row(void* out, int64_t row_index, int cols, Operand operand);
// Codes -127 ... 127 of `count` values, to codes[0], codes[stride], ...; returns their scale. How: see ToOperandArgs.
float ref_int8_codes(const float* x, int count, int8_t* codes, int64_t stride);

float ref_activated(Activation act, float x);

// Element (column, k) of a packed matrix of any form.
float ref_weight(const PackedMatrix& w, int column, int k);
void reference(const LinearArgs& a, int rows, Part part);
void reference(const ArrangeArgs& a, int rows, Part part);
void reference(const AppendArgs& a, int rows, Part part);
void reference(const AttendArgs& a, int rows, Part part);
void reference(const AttendCombineArgs& a, int rows, Part part);
size_t ref_attend_scratch_bytes(int heads, const CacheView& cache);

void reference(const RouteArgs& a, int rows, Part part);
void reference(const GroupRowsArgs& a, int rows, Part part);
void reference(const ScaleRowsArgs& a, int rows, Part part);
void reference(const CombineArgs& a, int rows, Part part);

void reference(const ReduceArgs& a, int rows, Part part);
void reference(const PickRowsArgs& a, int rows, Part part);
void reference(const JoinColumnsArgs& a, int rows, Part part);
void reference(const JoinRowsArgs& a, int rows, Part part);

}  // namespace weft::kernels
