// See allocation.cc.
#pragma once

namespace weft {

// From now on memory that runs out is an exception. Before, while the program's own constants are made and the
// arguments read (CLI11 asks for memory in functions that are noexcept), nobody could catch it, and the process ends
// with a message and status 1.
void throw_out_of_memory() noexcept;

}  // namespace weft
