#pragma once

#include <cstddef>
#include <string>

namespace weft {

// Bytes of memory that this process can still have: what the system reports as available without swapping (free memory
// where it does not report that), within what its control group and the groups above it leave. Memory of a group that
// holds parts of files counts as available, since the kernel takes it back when it is needed. `root`: in place of /
// when files are read, for tests.
size_t available_memory(const std::string& root = "");

}  // namespace weft
