// What lies in a folder. In place of std::filesystem::directory_iterator, which ends the process where it finds no
// memory.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace weft {

// The names in a folder, sorted, without "." and "..". A folder that cannot be listed has none. std::bad_alloc: there
// is no memory.
std::vector<std::string> names_in(const std::string& folder);

// A folder that files are written to, which goes with all of them unless it is kept.
class NewFolder {
 public:
  // Makes it, and those that it lies in. Errors: a file or a folder that is not empty is there; it cannot be made.
  static Result<NewFolder> make(std::string path);
  NewFolder(NewFolder&& other) noexcept : path_(std::move(other.path_)) { other.path_.clear(); }
  ~NewFolder();
  void keep() { path_.clear(); }

 private:
  explicit NewFolder(std::string path) : path_(std::move(path)) {}
  std::string path_;  // empty: it stays
};

}  // namespace weft
