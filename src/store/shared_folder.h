// The folder of a FileStore as all processes that share it see it: how many bytes it takes, who evicts, what is in it.
//
// The number of bytes is in the file `usage`. A writer adds its file's size when the file has that size already, under
// its temporary name, and before it has content; taking stock looks at the temporary files first. So the number may be
// too large for a while, but no file is left out of it (other than in a disorder that the next stock puts right).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/result.h"
#include "store/block_file.h"

namespace weft {

constexpr const char* kDescriptionName = "identity.txt";

// Blocks with where they lie: FOLDER/names[identity]/xx/NAME.
struct StoredBlock {
  BlockId id;
  int identity = 0;
  int64_t bytes = 0;      // of the file
  int64_t last_used = 0;  // nanoseconds since 1970
};
struct Stock {
  std::vector<std::string> names;  // of identities' folders
  std::vector<StoredBlock> blocks;
  int64_t bytes = 0;  // of blocks and of files that are being written
};

// Any thread, several at once.
class SharedFolder {
 public:
  // Makes the folder where it is missing, tries to write in it, and takes stock; temporary files that killed processes
  // have left are removed. max_bytes 0: no limit.
  static Result<std::unique_ptr<SharedFolder>> open(const std::string& path, int64_t max_bytes, Stock& stock);

  // A new name for a file that is to get another one when it is whole.
  std::string temporary_path();
  // Makes a folder directly below this one, or below one of those. In a folder that other users may write to, one that
  // belongs to another user is an error.
  Status make(const std::string& path) const;
  Status make_temporary_folder() const { return make(path_ + "/tmp"); }
  std::string block_path(const std::string& identity, const BlockId& id) const;

  // Accounts for a file of so many bytes, which is there under a temporary name. Removes the least recently used blocks
  // if the limit needs it, and returns them. An error: the limit cannot be kept, or another process holds the lock too
  // long; then nothing is accounted for, as after an exception (std::bad_alloc).
  Result<Stock> reserve(int64_t bytes);
  // After a file was removed, or not written.
  void release(int64_t bytes) noexcept { add(-bytes); }
  int64_t used_bytes() noexcept { return add(0); }

 private:
  class EvictionLock;

  SharedFolder(std::string path, int64_t max_bytes);
  Status begin();
  Result<Stock> make_room();
  Stock take_stock();
  int64_t sum_temporary_files() const;
  void list_blocks(Stock& stock, int identity) const;
  void remove_if_empty(const std::string& identity) const;
  int64_t add(int64_t bytes) noexcept;

  const std::string path_;
  const int64_t max_bytes_;
  const uint64_t instance_;  // of this object among all of all processes: in names of temporary files
  bool open_to_others_ = false;
  std::atomic<uint64_t> temporary_files_{0};
  FileDescriptor lock_, usage_;
  std::timed_mutex lock_mutex_;  // one thread of the process has the lock
  std::mutex usage_mutex_;
};

// Bytes that a folder accounts for and whose file may still come to nothing: given back at the end unless they are
// kept.
class ReservedBytes {
 public:
  ReservedBytes(SharedFolder& folder, int64_t bytes) : folder_(folder), bytes_(bytes) {}
  ~ReservedBytes() {
    if (bytes_ > 0) folder_.release(bytes_);
  }
  ReservedBytes(const ReservedBytes&) = delete;
  ReservedBytes& operator=(const ReservedBytes&) = delete;
  void keep() { bytes_ = 0; }

 private:
  SharedFolder& folder_;
  int64_t bytes_;
};

}  // namespace weft
