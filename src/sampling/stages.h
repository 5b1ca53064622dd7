// The stages that change logits before a token is chosen, one function per parameter, in the order of sampler.h.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "sampling/sampler.h"

namespace weft {

// Whether any stage is active for this row; without one the model's logits are used as they are.
bool has_stages(const SampleRow& row);
// Writes the processed logits of the row to `logits` [vocab]. Empty, or the row's error (a processor's).
std::string apply_stages(const SampleRow& row, std::span<float> logits, Scratch& scratch);

// How many tokens' logits the stages change at most, where they can only lower them; -1: they may do more.
int most_lowered(const SampleRow& row);
// The same changes for some of the tokens, of a row whose most_lowered() is not -1. Sorts them by id.
void lower(const SampleRow& row, std::span<Candidate> tokens, Scratch& scratch);

}  // namespace weft
