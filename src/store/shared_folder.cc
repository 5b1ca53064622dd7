#include "store/shared_folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <functional>
#include <string_view>
#include <thread>
#include <utility>

namespace weft {
namespace {

constexpr time_t kLeftoverSeconds = 600;  // no block takes so long to be written
constexpr std::chrono::seconds kLockWait{10};

// Calls `each` with name and status of what lies in a folder; a folder that is none is empty.
void for_each_entry(const std::string& path, bool with_status,
                    const std::function<void(const char* name, const struct stat& status)>& each) {
  DIR* folder = ::opendir(path.c_str());
  if (!folder) return;
  while (const dirent* entry = ::readdir(folder)) {
    struct stat status {};
    if (entry->d_name[0] == '.') continue;
    if (with_status && ::fstatat(::dirfd(folder), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0) continue;
    each(entry->d_name, status);
  }
  ::closedir(folder);
}

bool is_hex(std::string_view text, size_t digits) {
  return text.size() == digits && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

uint64_t random_number() {
  uint64_t number = 0;
  if (::getrandom(&number, sizeof number, 0) != sizeof number)
    number = static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count()) ^
             static_cast<uint64_t>(::getpid()) << 40;
  return number;
}

}  // namespace

// Among all processes: who evicts or takes stock.
class SharedFolder::EvictionLock {
 public:
  explicit EvictionLock(SharedFolder& folder) : folder_(folder), mutex_(folder.lock_mutex_, kLockWait) {
    const auto end = std::chrono::steady_clock::now() + kLockWait;
    while (mutex_.owns_lock() && !held_ && std::chrono::steady_clock::now() < end) {
      held_ = ::flock(folder_.lock_.get(), LOCK_EX | LOCK_NB) == 0;
      if (!held_) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }
  ~EvictionLock() {
    if (held_) ::flock(folder_.lock_.get(), LOCK_UN);
  }
  EvictionLock(const EvictionLock&) = delete;
  EvictionLock& operator=(const EvictionLock&) = delete;
  Status status() const {
    if (held_) return {};
    return fail(Code::resource_exhausted, folder_.path_, "/lock is held by another process for more than ",
                kLockWait.count(), " s");
  }

 private:
  SharedFolder& folder_;
  std::unique_lock<std::timed_mutex> mutex_;
  bool held_ = false;
};

SharedFolder::SharedFolder(std::string path, int64_t max_bytes)
    : path_(std::move(path)), max_bytes_(max_bytes), instance_(random_number()) {}

Result<std::unique_ptr<SharedFolder>> SharedFolder::open(const std::string& path, int64_t max_bytes, Stock& stock) {
  if (path.empty()) return fail(Code::invalid_argument, "no folder is given for the block store");
  if (max_bytes < 0) return fail(Code::invalid_argument, "the block store's limit is ", max_bytes, " bytes");
  std::unique_ptr<SharedFolder> folder(new SharedFolder(path, max_bytes));
  WEFT_RETURN_IF_ERROR(folder->begin());
  const EvictionLock lock(*folder);
  WEFT_RETURN_IF_ERROR(lock.status());
  stock = folder->take_stock();
  return folder;
}

Status SharedFolder::begin() {
  WEFT_RETURN_IF_ERROR(make_folders(path_));
  struct stat status;
  open_to_others_ = ::stat(path_.c_str(), &status) == 0 && (status.st_mode & (S_IWGRP | S_IWOTH)) != 0;
  WEFT_RETURN_IF_ERROR(make_temporary_folder());
  const std::string probe = temporary_path();  // tells of permissions and read-only disks better than their bits
  if (FileDescriptor(::open(probe.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)).get() < 0)
    return file_error("write in", path_);
  ::unlink(probe.c_str());
  for (auto [file, name] : {std::pair{&lock_, "/lock"}, {&usage_, "/usage"}}) {
    const std::string path = path_ + name;
    *file = FileDescriptor(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (file->get() < 0) return file_error("open", path);
  }
  return {};
}

std::string SharedFolder::temporary_path() {
  char name[64];
  std::snprintf(name, sizeof name, "/tmp/%016llx-%llx", static_cast<unsigned long long>(instance_),
                static_cast<unsigned long long>(temporary_files_++));
  return path_ + name;
}

Status SharedFolder::make(const std::string& path) const {
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return file_error("make the folder", path);
  struct stat status;
  if (open_to_others_ && ::lstat(path.c_str(), &status) == 0 && status.st_uid != ::geteuid())
    return fail(Code::invalid_argument, path, " belongs to another user (", status.st_uid,
                "), whose blocks are not used; take another folder, or one that only its owner may write to");
  return {};
}

std::string SharedFolder::block_path(const std::string& identity, const BlockId& id) const {
  const std::string name = block_file_name(id);
  std::string path;
  path.reserve(path_.size() + identity.size() + name.size() + 8);
  path.append(path_).append("/").append(identity).append("/").append(name, 0, 2).append("/").append(name);
  return path;
}

Result<Stock> SharedFolder::reserve(int64_t bytes) {
  ReservedBytes reserved(*this, bytes);
  Stock evicted;
  if (add(bytes) > max_bytes_ && max_bytes_ != 0) {
    if (bytes > max_bytes_)
      return fail(Code::resource_exhausted, "a block of ", bytes, " bytes is larger than ", path_, " may become (",
                  max_bytes_, " bytes)");
    WEFT_TRY(evicted, make_room());
  }
  reserved.keep();
  return evicted;
}

Result<Stock> SharedFolder::make_room() {
  const EvictionLock lock(*this);
  WEFT_RETURN_IF_ERROR(lock.status());
  if (used_bytes() <= max_bytes_) return Stock{};  // another one has made room
  Stock stock = take_stock();
  std::sort(stock.blocks.begin(), stock.blocks.end(),
            [](const StoredBlock& a, const StoredBlock& b) { return a.last_used < b.last_used; });
  const int64_t goal = max_bytes_ - max_bytes_ / 16;
  std::vector<size_t> left(stock.names.size(), 0);
  for (const StoredBlock& block : stock.blocks) ++left[block.identity];
  std::vector<StoredBlock> evicted;
  int64_t used = used_bytes();
  for (const StoredBlock& block : stock.blocks) {
    if (used <= goal) break;
    --left[block.identity];
    if (::unlink(block_path(stock.names[block.identity], block.id).c_str()) != 0) continue;
    used = add(-block.bytes);
    evicted.push_back(block);
  }
  for (size_t i = 0; i < left.size(); ++i) {
    if (left[i] == 0) remove_if_empty(stock.names[i]);
  }
  stock.blocks = std::move(evicted);
  if (used > max_bytes_)
    return fail(Code::resource_exhausted, "nothing is left to evict in ", path_, ", and its ", used,
                " bytes are over the limit of ", max_bytes_);
  return stock;
}

// The caller has the lock. Brings the count of bytes in line with what is there.
Stock SharedFolder::take_stock() {
  Stock stock;
  const int64_t counted = used_bytes();
  stock.bytes = sum_temporary_files();
  for_each_entry(path_, false, [&](const char* name, const struct stat&) {
    if (is_hex(name, 32)) stock.names.emplace_back(name);
  });
  for (size_t i = 0; i < stock.names.size(); ++i) list_blocks(stock, static_cast<int>(i));
  for (const StoredBlock& block : stock.blocks) stock.bytes += block.bytes;
  add(stock.bytes - counted);
  return stock;
}

// Those that are being written; removes those that nobody writes any more.
int64_t SharedFolder::sum_temporary_files() const {
  const std::string folder = path_ + "/tmp";
  const time_t oldest = ::time(nullptr) - kLeftoverSeconds;
  int64_t bytes = 0;
  for_each_entry(folder, true, [&](const char* name, const struct stat& status) {
    if (!S_ISREG(status.st_mode)) return;
    if (status.st_mtime >= oldest || ::unlink((folder + "/" + name).c_str()) != 0) bytes += status.st_size;
  });
  return bytes;
}

void SharedFolder::list_blocks(Stock& stock, int identity) const {
  const std::string folder = path_ + "/" + stock.names[identity];
  for_each_entry(folder, false, [&](const char* part, const struct stat&) {
    if (!is_hex(part, 2)) return;
    for_each_entry(folder + "/" + part, true, [&](const char* name, const struct stat& status) {
      const auto id = parse_block_file_name(name);
      if (!id || !S_ISREG(status.st_mode) || std::strncmp(part, name, 2) != 0) return;
      stock.blocks.push_back({*id, identity, status.st_size,
                              static_cast<int64_t>(status.st_mtim.tv_sec) * 1000000000 + status.st_mtim.tv_nsec});
    });
  });
}

// Folders of models that nobody has used for long; a writer makes them anew.
void SharedFolder::remove_if_empty(const std::string& identity) const {
  const std::string folder = path_ + "/" + identity;
  bool empty = true;
  for_each_entry(folder, false, [&](const char* name, const struct stat&) {
    if (is_hex(name, 2)) empty &= ::rmdir((folder + "/" + name).c_str()) == 0;
    else empty &= std::strcmp(name, kDescriptionName) == 0;
  });
  if (!empty) return;
  ::unlink((folder + "/" + kDescriptionName).c_str());
  ::rmdir(folder.c_str());
}

// Returns the new number of bytes. It is kept by reading and writing a file, not in shared memory: that would end the
// process if somebody cut the file short. A file that is too short counts as 0.
int64_t SharedFolder::add(int64_t bytes) noexcept {
  const std::lock_guard guard(usage_mutex_);
  ::flock(usage_.get(), LOCK_EX);
  int64_t used = 0;
  if (::pread(usage_.get(), &used, sizeof used, 0) != sizeof used) used = 0;
  used = std::max<int64_t>(0, used + bytes);
  if (bytes != 0) {  // where it cannot be written, the next stock puts it right
    [[maybe_unused]] const ssize_t written = ::pwrite(usage_.get(), &used, sizeof used, 0);
  }
  ::flock(usage_.get(), LOCK_UN);
  return used;
}

}  // namespace weft
