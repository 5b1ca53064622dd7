// Counts the work of the sources that are built with -fsanitize-coverage=trace-pc: each block of code that runs is one,
// and so are 16 bytes that are allocated, copied, compared or searched.
#pragma once

#include <cstdint>

extern uint64_t work_done;
