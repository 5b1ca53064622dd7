// Random weights (--load-format dummy): a counter is hashed, so any part of a tensor can be made on its own, by any
// thread, and is the same on every machine.
#pragma once

#include <cstdint>
#include <string_view>

namespace weft {

// What a tensor's values follow from; names that differ have unrelated values.
uint64_t random_seed(std::string_view tensor_name);

// Values [first, first + count) of the sequence that `seed` stands for, evenly spread over [center - width, center +
// width). Near the speed of memory where the processor has wide vectors; the same values with all of them. Any thread.
void random_values(uint64_t seed, uint64_t first, int64_t count, float center, float width, float* out);

}  // namespace weft
