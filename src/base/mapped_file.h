// The bytes of a large file at an address: mapped, or read piece by piece as they are asked for. And whether files are
// still the ones that were opened.
//
// Somebody may shorten or rewrite a file that is in use. Reading a page of a mapping that the file no longer reaches
// raises SIGBUS, which would end the process. The first mapping installs a handler: inside of a MappedFile the missing
// pages read as zeros and check() fails from then on; anywhere else the signal does what it did before. So whoever
// reads calls check() behind the last byte, before it trusts what it has read.
#pragma once

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/named_enum.h"
#include "base/result.h"

namespace weft {

// How the bytes of large files come into memory (--load-mode).
enum class LoadMode : uint8_t { mmap, read };
template <>
inline constexpr auto kNames<LoadMode> = names_of_all<LoadMode>("mmap", "read");

// Which file lies at a path, and in which state.
struct FileStamp {
  uint64_t device = 0, inode = 0;
  int64_t bytes = -1;      // -1: there is none
  int64_t changed_ns = 0;  // modification time, since 1970
  int64_t status_ns = 0;   // of its last change of any kind, which nobody can set: also of its name or rights

  static FileStamp of(const struct stat& info);
  static FileStamp at(const std::string& path);
  // Whether the content is taken to be the same.
  bool operator==(const FileStamp& other) const {
    return device == other.device && inode == other.inode && bytes == other.bytes && changed_ns == other.changed_ns;
  }
};

// Files that belong together, to be found as they were once all of them have been read.
class FileStamps {
 public:
  void add(std::string path, const FileStamp& stamp) { files_.emplace_back(std::move(path), stamp); }
  void add(const std::string& path) { add(path, FileStamp::at(path)); }
  void add(const FileStamps& others) { files_.insert(files_.end(), others.files_.begin(), others.files_.end()); }
  // data_corrupt for the first that was written to, shortened, replaced, removed or made since; it says which, and how
  // many bytes there were and are.
  Status check() const;
  // A line for each file: what it is told by.
  std::string text() const;

 private:
  std::vector<std::pair<std::string, FileStamp>> files_;
};

// A regular file, read-only, for as long as the object lives. Moving keeps addresses. Everything may be called from any
// thread.
class MappedFile {
 public:
  // `mmap`: the file is mapped. `read`: it has address space, bytes come there with pin(), and no mapping of the file
  // exists; the file stays open instead. Errors: absent, not readable, not a regular file.
  static Result<MappedFile> open(const std::string& path, LoadMode mode = LoadMode::mmap);
  MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  // All of the file. With LoadMode::read only what is pinned may be looked at.
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const FileStamp& stamp() const { return stamp_; }
  const std::string& path() const { return path_; }

  // A part of the file that stays in memory for as long as this lives.
  class Pin {
   public:
    Pin() = default;
    Pin(const MappedFile* file, std::span<const std::byte> part) : file_(file), part_(part) {}
    Pin(Pin&& other) noexcept : file_(std::exchange(other.file_, nullptr)), part_(other.part_) {}
    Pin& operator=(Pin&& other) noexcept {
      std::swap(file_, other.file_), std::swap(part_, other.part_);
      return *this;
    }
    ~Pin() {
      if (file_) file_->unpin(part_);
    }

   private:
    const MappedFile* file_ = nullptr;
    std::span<const std::byte> part_;
  };
  // Brings a part of bytes() into memory, unless it is there; nothing to do for a mapping. An error that names the file
  // if it cannot be read or has become shorter.
  Result<Pin> pin(std::span<const std::byte> part) const;
  // A part that is not needed in memory any more, unless it is pinned; it may be read again.
  void drop(std::span<const std::byte> part) const;
  // Puts memory with the same bytes in the place of the mapping's piece [n, n + 1) * kLargePage, on a large page where
  // the system has one; who reads on other threads sees the same bytes all the while. So reading becomes as fast as
  // from memory, and what happens to the file later matters no more. False: there is no such piece, no memory for it,
  // or the file could not be read. One thread at a time.
  bool move_into_memory(size_t n) const;
  static constexpr size_t kLargePage = size_t{2} << 20;
  // Whether all that was looked at came from the file: false is an error as of FileStamps::check(), or that the disk
  // failed.
  Status check() const;
  // The same of what was looked at alone, whatever lies at the path now: quick enough to ask behind every step.
  Status check_pages() const;

 private:
  struct Guard;
  class Pieces;
  void unpin(std::span<const std::byte> part) const;

  std::string path_;
  FileStamp stamp_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  Guard* guard_ = nullptr;          // of a mapping
  std::unique_ptr<Pieces> pieces_;  // of LoadMode::read
};

}  // namespace weft
