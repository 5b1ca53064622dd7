// Files: reading whole ones, mapping large ones, asking what lies at a path, and where.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "base/result.h"

namespace weft {

bool is_file(const std::string& path);
bool is_directory(const std::string& path);
// The whole file; refuses directories and files over `limit_bytes`.
Result<std::string> read_file(const std::string& path, size_t limit_bytes = size_t{1} << 30);
// A secret that a file holds, without the white space at its end. An empty one is an error.
Result<std::string> read_secret(const std::string& path);
// Where a file is written to first, so that no reader sees half of it, and its name in the end. What is there and is no
// ordinary file (/dev/stdout, a pipe) is written to as it is, and a link stays one.
struct OutputPlace {
  std::string target, temporary;
  bool in_place() const { return target == temporary; }
};
OutputPlace output_place(const std::string& path);
// Writes all of a file, see OutputPlace.
Status write_file(const std::string& path, std::string_view content);

// Where a library that is loaded on demand lies: what the environment variable says, or else `file` in the folder of
// the running program.
std::string plugin_path(const char* variable, const char* file);

// A file mapped read-only for as long as the object lives. Moving keeps addresses.
class MappedFile {
 public:
  static Result<MappedFile> open(const std::string& path);
  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  // Tells the kernel that this part is no longer needed in memory; reading it again still works.
  void drop(std::span<const std::byte> part) const;

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace weft
