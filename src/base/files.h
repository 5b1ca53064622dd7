// Files: reading whole ones, writing whole ones, asking what lies at a path, and where. Large ones: mapped_file.h.
#pragma once

#include <cstddef>
#include <string>

#include "base/result.h"

namespace weft {

bool is_file(const std::string& path);
bool is_directory(const std::string& path);
// How large files that are read whole may be, by what they are. More is an error before a byte of them is read.
struct FileLimit {
  static constexpr size_t options = size_t{1} << 20;      // configuration files of commands, arrival mixes
  static constexpr size_t settings = size_t{64} << 20;    // a model's JSON: config.json, an index of shards, ...
  static constexpr size_t tokenizer = size_t{256} << 20;  // tokenizer.json, vocabularies
  static constexpr size_t chat_template = size_t{4} << 20;
  static constexpr size_t image = size_t{64} << 20;
  static constexpr size_t requests = size_t{8} << 30;  // files of requests
};
// The whole of a regular file of at most `limit_bytes`. Anything else that lies at the path (a folder, a pipe, a
// device) is an error at once, and so is a file that changes while it is read.
Result<std::string> read_file(const std::string& path, size_t limit_bytes = FileLimit::settings);
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

}  // namespace weft
