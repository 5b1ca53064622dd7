// What lies in a folder. In place of std::filesystem::directory_iterator, which ends the process where it finds no
// memory.
#pragma once

#include <string>
#include <vector>

namespace weft {

// The names in a folder, sorted, without "." and "..". A folder that cannot be listed has none. std::bad_alloc: there
// is no memory.
std::vector<std::string> names_in(const std::string& folder);

}  // namespace weft
