// Python literals and names, read from text that may still be growing.
#pragma once

#include <string>
#include <string_view>

#include "forms/json_text.h"

namespace weft {

// Reads a Python literal (string, number, True, False, None, list, tuple, dict), appends it as JSON text and moves `at`
// behind it. A number at the end of the text may go on.
Found read_python(std::string_view text, size_t& at, std::string& json, int depth = 0);

// An identifier, with dots: the name of a function. Moves `at` behind it.
Found read_identifier(std::string_view text, size_t& at, std::string& out);

}  // namespace weft
