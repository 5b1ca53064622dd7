#include "store/file_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <mutex>
#include <utility>

namespace weft {
namespace {

Digest identity_digest(const std::string& identity) {
  const std::string text = "weft block file " + std::to_string(kBlockFileVersion) + "\n" + identity;
  return sha256(std::as_bytes(std::span(text)));
}

// 32 digits: the first half of the digest. The whole of it is in every file.
std::string folder_name(const Digest& identity) { return hex_of(identity).substr(0, 32); }

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// A file under a temporary name, which is gone at the end unless it got another one.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::string path)
      : path_(std::move(path)), file_(::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)) {}
  ~TemporaryFile() {
    if (fd() >= 0) ::unlink(path_.c_str());
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  int fd() const { return file_.get(); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  FileDescriptor file_;
};

// Gives a file its name unless there is one of that name: then false and EEXIST.
bool rename_new(const std::string& from, const std::string& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return true;
  if (errno != EINVAL && errno != ENOSYS) return false;
  return ::rename(from.c_str(), to.c_str()) == 0;  // a file system that cannot tell: one of two equal files is lost
}

}  // namespace

FileStore::FileStore(FileStoreOptions options, std::unique_ptr<SharedFolder> folder)
    : options_(std::move(options)), folder_(std::move(folder)), identity_(identity_digest(options_.identity)),
      name_(folder_name(identity_)) {}

Result<std::unique_ptr<FileStore>> FileStore::open(FileStoreOptions options) {
  Stock stock;
  while (options.folder.size() > 1 && options.folder.ends_with('/')) options.folder.pop_back();
  WEFT_TRY(auto folder, SharedFolder::open(options.folder, options.max_bytes, stock));
  std::unique_ptr<FileStore> store(new FileStore(std::move(options), std::move(folder)));
  WEFT_RETURN_IF_ERROR(store->folder_->make(store->options_.folder + "/" + store->name_));
  auto described = store->describe();
  if (!described.ok() && described.error().code() != Code::resource_exhausted) return std::move(described).error();
  for (const StoredBlock& block : stock.blocks) {
    if (stock.names[block.identity] == store->name_) store->index_.insert(block.id);
  }
  return store;
}

bool FileStore::has(int group, const BlockKey& key) const {
  const BlockId id{group, key};
  if (knows(id)) return true;
  if (::access(folder_->block_path(name_, id).c_str(), F_OK) != 0) return false;
  learn(id);
  return true;
}

bool FileStore::read(int group, const BlockKey& key, std::span<std::byte> into) {
  const BlockId id{group, key};
  const std::string path = folder_->block_path(name_, id);
  const BlockRead found = read_block_file(path, identity_, id, into);
  if (found.outcome == BlockRead::Outcome::good) {
    learn(id);
    ++hits_;
    read_bytes_ += static_cast<int64_t>(into.size());
    return true;
  }
  ++misses_;
  forget(id);
  if (found.outcome == BlockRead::Outcome::torn) {
    ++torn_;
    if (::unlink(path.c_str()) == 0) folder_->release(found.file_bytes);
  }
  return false;
}

Status FileStore::write(int group, const BlockKey& key, std::span<const std::byte> content) {
  if (now() < paused_until_) {
    ++skipped_writes_;
    return {};
  }
  const BlockId id{group, key};
  const std::string path = folder_->block_path(name_, id);
  if (touch_block_file(path)) {
    learn(id);
    return {};
  }
  Status status = write_new(id, path, content);
  if (!status.ok()) {
    ++write_errors_;
    paused_until_ = now() + std::chrono::nanoseconds(options_.pause_after_error).count();
  }
  return status;
}

Status FileStore::write_new(const BlockId& id, const std::string& path, std::span<const std::byte> content) {
  TemporaryFile file(folder_->temporary_path());
  if (file.fd() < 0) {
    Error error = file_error("make", file.path());
    static_cast<void>(folder_->make_temporary_folder());  // if somebody has removed it, the next write succeeds
    return error;
  }
  const int64_t bytes = kBlockHeaderBytes + static_cast<int64_t>(content.size());
  if (::ftruncate(file.fd(), bytes) != 0) return file_error("write", file.path());
  WEFT_TRY(const Stock evicted, folder_->reserve(bytes));
  ReservedBytes reserved(*folder_, bytes);
  evicted_ += static_cast<int64_t>(evicted.blocks.size());
  for (const StoredBlock& block : evicted.blocks) {
    if (evicted.names[block.identity] == name_) forget(block.id);
  }
  WEFT_RETURN_IF_ERROR(write_block_file(file.fd(), file.path(), identity_, id, content));
  WEFT_TRY(const bool is_new, publish(file.path(), id, path));
  if (is_new) {
    reserved.keep();
    ++writes_;
    written_bytes_ += static_cast<int64_t>(content.size());
  }
  learn(id);
  return {};
}

// Gives a file that is whole its name. False if another process was quicker.
Result<bool> FileStore::publish(const std::string& temporary, const BlockId& id, const std::string& path) {
  for (int attempt = 0; attempt < 5; ++attempt) {  // folders that were empty may be removed while we make them
    if (rename_new(temporary, path)) return true;
    if (errno == EEXIST) return false;
    if (errno != ENOENT) break;
    WEFT_RETURN_IF_ERROR(make_folders(id));
  }
  return file_error("write", path);
}

Status FileStore::make_folders(const BlockId& id) {
  const std::string folder = options_.folder + "/" + name_;
  WEFT_RETURN_IF_ERROR(folder_->make(folder));
  WEFT_RETURN_IF_ERROR(describe());
  const std::string part = folder + "/" + block_file_name(id).substr(0, 2);
  if (::mkdir(part.c_str(), 0700) != 0 && errno != EEXIST && errno != ENOENT)
    return file_error("make the folder", part);
  return {};
}

// Writes for people what the blocks depend on.
Status FileStore::describe() {
  const std::string path = options_.folder + "/" + name_ + "/" + kDescriptionName;
  if (::access(path.c_str(), F_OK) == 0) return {};
  const std::string text = "Blocks of the KV cache that weft computed with\n\n" + options_.identity + "\n";
  const TemporaryFile file(folder_->temporary_path());
  if (file.fd() < 0) return file_error("make", file.path());
  if (::write(file.fd(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return file_error("write", file.path());
  if (!rename_new(file.path(), path) && errno != EEXIST && errno != ENOENT) return file_error("write", path);
  return {};
}

StoreMetrics FileStore::metrics() const {
  StoreMetrics metrics;
  {
    const std::shared_lock guard(index_mutex_);
    metrics.blocks = static_cast<int64_t>(index_.size());
  }
  metrics.bytes = folder_->used_bytes();
  metrics.hits = hits_, metrics.misses = misses_, metrics.read_bytes = read_bytes_;
  metrics.writes = writes_, metrics.written_bytes = written_bytes_;
  metrics.write_errors = write_errors_, metrics.skipped_writes = skipped_writes_;
  metrics.torn = torn_, metrics.evicted = evicted_;
  return metrics;
}

bool FileStore::knows(const BlockId& id) const {
  const std::shared_lock guard(index_mutex_);
  return index_.contains(id);
}

void FileStore::learn(const BlockId& id) const {
  if (knows(id)) return;
  const std::unique_lock guard(index_mutex_);
  index_.insert(id);
}

void FileStore::forget(const BlockId& id) const {
  const std::unique_lock guard(index_mutex_);
  index_.erase(id);
}

}  // namespace weft
