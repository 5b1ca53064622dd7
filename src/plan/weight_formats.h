// Decides how each matrix of a plan is held in memory, from the options and from how the checkpoint stores it.
//
//   stored in fp8 with scales, or in GGUF blocks other than IQ2_XS and IQ2_S: kept in codes of 4, 6 or 8 bits and
//     widened in the kernel (unless `dequantize`); the values are exactly those of the dequantised tensor
//   --quantize int8 | int4: all matrix products but routers. The language-model head is int8 with either, since its
//     errors go straight into the logits. Norms, biases, embeddings stay as they are. With float32 the products take
//     float32 rows; else rows are quantised to 8 bits, each strip of 32 values with its own scale (Operand::int8), but
//     for products that read parts of rows
//   everything else: the model's form, float32 or bfloat16
#pragma once

#include "checkpoint/checkpoint.h"
#include "core/option_kinds.h"
#include "plan/plan.h"

namespace weft {

struct FormatOptions {
  kernels::WeightForm form = kernels::WeightForm::f32;  // of what is not quantised: f32 or bf16
  Quantize quantize = Quantize::none;
  bool dequantize = false;    // weights that are stored in 8 or 4 bits are widened to `form` when loading
  bool round_inputs = false;  // products round their input as the tensors' format says (TensorInfo::input_rounding)
};

// The plan with Matrix::format set. Matrices stacked from tensors of different kinds are cut into one product for each
// run of equal ones; the embedding of a tied model is read from the checkpoint's table if the head is quantised here.
Plan choose_formats(Plan plan, const Checkpoint& checkpoint, const FormatOptions& options);

// Whether products can round their inputs as the format of their weights says; unsupported with the first tensor for
// which they cannot.
Status check_input_rounding(const Plan& plan, const Checkpoint& checkpoint);

// How a tensor of k columns is kept in its bits, for rows in form `operand`; nothing if it cannot be or is not
// quantised.
std::optional<kernels::WeightFormat> stored_format(const TensorInfo& tensor, int k, kernels::Operand operand);

// What is added to the codes of a quantised matrix whose zero point is one so that it becomes `zero`, if the codes then
// are from 0 to `largest`.
std::optional<int> code_shift(const CodedMatrix& matrix, int zero, int largest);
// Whether products with a matrix that is kept in its bits need their input in another order, or times factors
// (ArrangeOp).
bool arranges_input(const CodedMatrix* matrix);

}  // namespace weft
