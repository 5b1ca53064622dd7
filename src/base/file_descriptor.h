// An open file that is closed at the end of its owner, and reading and writing all of a piece of it.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <string>
#include <string_view>

#include "base/result.h"

namespace weft {

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd = -1) : fd_(fd) {}  // -1 is none
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~FileDescriptor();
  int get() const { return fd_; }

 private:
  int fd_;
};

// At a place of the file, as often as the system takes or gives a part of it only. False: errno says why, or the file
// ended.
bool write_all(int fd, const void* data, size_t bytes, off_t at);
bool read_all(int fd, void* data, size_t bytes, off_t at);

// An error from errno: "cannot WHAT PATH: No space left on device". resource_exhausted where a disk or quota is full.
Error file_error(std::string_view what, const std::string& path);
// Makes a folder and those above it, for their owner alone. Something else that lies there is an error.
Status make_folders(const std::string& path);

}  // namespace weft
