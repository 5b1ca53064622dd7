// Ids of nine letters and digits, the form that the strictest chat templates (Mistral's) ask of tool calls.
#pragma once

#include <string>
#include <string_view>

namespace weft {

constexpr size_t kShortIdLength = 9;

// The same text always gives the same id; different texts give different ones but for one pair in 10^16.
std::string short_id(std::string_view text);
// Whether `id` is nine letters and digits already.
bool is_short_id(std::string_view id);

}  // namespace weft
