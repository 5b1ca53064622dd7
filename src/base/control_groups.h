// The control groups (versions 1 and 2) that limit this process.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace weft {

// Calls `read` with the folder of each group that this process is in and that `controller` ("cpu", "memory") may limit,
// and of each group above it, with the version of its files (1 or 2). Folders need not have files of that controller.
// `root` is put in front of /proc and /sys (for tests).
void for_each_control_group(const std::string& root, std::string_view controller,
                            const std::function<void(const std::string& folder, int version)>& read);

}  // namespace weft
