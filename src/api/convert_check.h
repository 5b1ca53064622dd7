// Whether two files of a model compute the same.
#pragma once

#include <optional>
#include <string>

#include "checkpoint/checkpoint.h"
#include "plan/plan.h"

namespace weft {

// What the plan of a model's converted form computes otherwise than that of the model, as far as it follows from the
// configuration: the operations and their sizes, the caches, which tensors norms are, and the rotary frequencies to the
// bit, with the divisors of a GGUF file applied. Nothing: the same. `divisors`: values of rope_freqs.weight, or empty.
std::optional<std::string> plan_difference(const Plan& model, const Plan& converted, std::span<const float> divisors);

}  // namespace weft
