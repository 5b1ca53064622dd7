#include "base/file_descriptor.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace weft {

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) ::close(fd_);
}

bool write_all(int fd, const void* data, size_t bytes, off_t at) {
  for (size_t done = 0; done < bytes;) {
    const ssize_t put =
        ::pwrite(fd, static_cast<const char*>(data) + done, bytes - done, at + static_cast<off_t>(done));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return false;
    done += static_cast<size_t>(put);
  }
  return true;
}

bool read_all(int fd, void* data, size_t bytes, off_t at) {
  for (size_t done = 0; done < bytes;) {
    const ssize_t got = ::pread(fd, static_cast<char*>(data) + done, bytes - done, at + static_cast<off_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    done += static_cast<size_t>(got);
  }
  return true;
}

Error file_error(std::string_view what, const std::string& path) {
  const int code = errno;
  const bool full = code == ENOSPC || code == EDQUOT || code == EFBIG;
  return fail(full ? Code::resource_exhausted : Code::internal, "cannot ", what, " ", path, ": ", std::strerror(code));
}

Status make_folders(const std::string& path) {
  for (size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    const std::string part = path.substr(0, end);
    if (::mkdir(part.c_str(), 0700) != 0 && errno != EEXIST) return file_error("make the folder", part);
    if (end == std::string::npos) break;
  }
  struct stat status;
  if (::stat(path.c_str(), &status) != 0) return file_error("look at the folder", path);
  if (!S_ISDIR(status.st_mode)) return fail(Code::invalid_argument, path, " is not a folder");
  return {};
}

}  // namespace weft
