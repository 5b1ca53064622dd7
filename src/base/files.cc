#include "base/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/mapped_file.h"

namespace weft {
namespace {

Error system_error(const std::string& what, const std::string& path) {
  const int code = errno;
  return fail(code == ENOENT ? Code::not_found : Code::internal, what, " ", path, ": ", std::strerror(code));
}

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace

std::string plugin_path(const char* variable, const char* file) {
  if (const char* const path = std::getenv(variable)) return path;
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  return (program.parent_path() / file).string();
}

bool is_file(const std::string& path) {
  struct stat info;
  return ::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
}

bool is_directory(const std::string& path) {
  struct stat info;
  return ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

Result<std::string> read_file(const std::string& path, size_t limit_bytes) {
  // Without waiting for a pipe's writer.
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) return system_error("cannot open", path);
  struct stat before {};
  if (::fstat(file.fd, &before) != 0) return system_error("cannot read", path);
  if (!S_ISREG(before.st_mode)) return fail(Code::invalid_argument, path, " is not a regular file");
  const auto size = static_cast<size_t>(before.st_size);
  if (size > limit_bytes)
    return fail(Code::invalid_argument, path, " has ", size, " bytes, over the limit of ", limit_bytes);
  std::string content(size, '\0');
  size_t done = 0;
  while (done < size) {
    const ssize_t got = ::read(file.fd, content.data() + done, size - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_error("cannot read", path);
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  struct stat after {};
  if (::fstat(file.fd, &after) != 0) return system_error("cannot read", path);
  if (done < size || FileStamp::of(before) != FileStamp::of(after))
    return fail(Code::data_corrupt, path, " changed while it was read: ", size, " bytes when it was opened, ",
                after.st_size, " now");
  return content;
}

Result<std::string> read_secret(const std::string& path) {
  WEFT_TRY(std::string secret, read_file(path, size_t{1} << 16));
  secret.resize(secret.find_last_not_of(" \t\r\n") + 1);
  if (secret.empty()) return fail(Code::invalid_argument, "the secret in ", path, " is empty");
  return secret;
}

namespace {

// Errors name `path`.
Status write_all(const std::string& file_path, const std::string& path, std::string_view content) {
  Descriptor file{::open(file_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)};
  if (file.fd < 0) return system_error("cannot write", path);
  size_t done = 0;
  while (done < content.size()) {
    const ssize_t put = ::write(file.fd, content.data() + done, content.size() - done);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return system_error("cannot write", path);
    done += static_cast<size_t>(put);
  }
  return {};
}

}  // namespace

OutputPlace output_place(const std::string& path) {
  struct stat there {};
  if (::stat(path.c_str(), &there) != 0) return {path, path + ".part"};
  if (!S_ISREG(there.st_mode)) return {path, path};
  std::string target = path;
  if (char* const real = ::realpath(path.c_str(), nullptr)) target = real, std::free(real);
  return {target, target + ".part"};
}

Status write_file(const std::string& path, std::string_view content) {
  const OutputPlace place = output_place(path);
  WEFT_RETURN_IF_ERROR(write_all(place.temporary, path, content));
  if (!place.in_place() && ::rename(place.temporary.c_str(), place.target.c_str()) != 0)
    return system_error("cannot write", path);
  return {};
}

}  // namespace weft
