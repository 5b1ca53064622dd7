// Which build of the program this is.
#pragma once

#include <string>

namespace weft {

// The linker's build id of the program or shared library that holds this code, in hex: two builds with different code
// differ in it. Empty where it was linked without one (-Wl,--build-id).
std::string build_id();

}  // namespace weft
