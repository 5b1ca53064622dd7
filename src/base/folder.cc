#include "base/folder.h"

#include <dirent.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <new>
#include <string_view>

#include "base/file_descriptor.h"
#include "base/files.h"

namespace weft {

std::vector<std::string> names_in(const std::string& folder) {
  struct Close {
    void operator()(DIR* stream) const { ::closedir(stream); }
  };
  const std::unique_ptr<DIR, Close> stream(::opendir(folder.c_str()));
  if (!stream && errno == ENOMEM) throw std::bad_alloc();
  std::vector<std::string> names;
  while (const dirent* const entry = stream ? ::readdir(stream.get()) : nullptr)
    if (const std::string_view name = entry->d_name; name != "." && name != "..") names.emplace_back(name);
  std::ranges::sort(names);
  return names;
}

Result<NewFolder> NewFolder::make(std::string path) {
  if (is_file(path)) return fail(Code::invalid_argument, path, " is a file; give the name of a new folder");
  if (!names_in(path).empty()) return fail(Code::invalid_argument, path, " is there already, and is not empty");
  WEFT_RETURN_IF_ERROR(make_folders(path));
  return NewFolder(std::move(path));
}

NewFolder::~NewFolder() {
  if (path_.empty()) return;
  for (const std::string& name : names_in(path_)) (void)std::remove((path_ + "/" + name).c_str());
  (void)std::remove(path_.c_str());
}

}  // namespace weft
