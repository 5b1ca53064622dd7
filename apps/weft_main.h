// weft_main() of commands.h, for a program that wants to know when the arguments have been read.
#pragma once

#include "commands.h"

namespace weft {

// `parsed` is called then; null: nothing is.
int weft_main(int count, const char* const* words, const EngineLoader& load, void (*parsed)() noexcept);

}  // namespace weft
