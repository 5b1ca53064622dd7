#include "base/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>

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

Result<size_t> regular_size(int fd, const std::string& path) {
  struct stat info;
  if (::fstat(fd, &info) != 0) return system_error("cannot read", path);
  if (!S_ISREG(info.st_mode)) return fail(Code::invalid_argument, path, " is not a regular file");
  return static_cast<size_t>(info.st_size);
}

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
  Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) return system_error("cannot open", path);
  WEFT_TRY(const size_t size, regular_size(file.fd, path));
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
  content.resize(done);
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

Result<MappedFile> MappedFile::open(const std::string& path) {
  Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) return system_error("cannot open", path);
  WEFT_TRY(const size_t size, regular_size(file.fd, path));
  MappedFile mapped;
  if (size == 0) return mapped;
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (data == MAP_FAILED) return system_error("cannot map", path);
  mapped.data_ = static_cast<const std::byte*>(data);
  mapped.size_ = size;
  return mapped;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::drop(std::span<const std::byte> part) const {
  constexpr uintptr_t kPage = 4096;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(part.data()) + kPage - 1) & ~(kPage - 1);
  const uintptr_t end = reinterpret_cast<uintptr_t>(part.data() + part.size()) & ~(kPage - 1);
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace weft
