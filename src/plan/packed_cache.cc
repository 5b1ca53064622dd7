#include "plan/packed_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <fstream>
#include <mutex>
#include <system_error>
#include <thread>
#define XXH_INLINE_ALL  // so that no library is linked
#include <xxhash.h>

#include "base/build_id.h"
#include "base/file_descriptor.h"
#include "base/folder.h"
#include "base/log.h"
#include "base/sha256.h"

namespace weft {
namespace {

constexpr uint32_t kVersion = 1;
constexpr int64_t kChunk = int64_t{256} << 10;
constexpr int64_t kAlignment = 4096;  // of the first part; the others begin at multiples of kPartAlignment
constexpr int64_t kPartAlignment = 64;
constexpr int64_t kMostParts = 1 << 22;
constexpr std::chrono::seconds kWaitForWriter{20};
constexpr std::string_view kWhole = ".packed", kWriting = ".writing";

struct Header {
  char magic[8] = {'w', 'e', 'f', 't', ' ', 'p', 'w', '\n'};
  uint32_t version = kVersion;
  uint32_t unused = 0;
  Digest identity{};
  int64_t parts = 0, chunks = 0;  // how many
  int64_t file_bytes = 0;
  uint64_t list_checksum = 0;    // of the parts' records and the chunks' checksums behind the header
  uint64_t header_checksum = 0;  // of all before it
};
static_assert(sizeof(Header) == 88 && std::endian::native == std::endian::little);

struct PartRecord {
  uint64_t tag = 0;
  int64_t offset = 0, bytes = 0;
};

uint64_t checksum(const void* data, size_t bytes) { return XXH3_64bits(data, bytes); }
uint64_t checksum(const Header& header) { return checksum(&header, offsetof(Header, header_checksum)); }

constexpr int64_t chunks_of(int64_t bytes) { return (bytes + kChunk - 1) / kChunk; }
constexpr int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// Header, records and checksums as they lie at the beginning of a file.
struct Index {
  Header header;
  std::vector<PartRecord> parts;
  std::vector<uint64_t> chunks;  // of all parts in turn

  int64_t list_bytes() const { return header.parts * int64_t{sizeof(PartRecord)} + header.chunks * 8; }
  int64_t content_offset() const { return round_up(int64_t{sizeof(Header)} + list_bytes(), kAlignment); }
  uint64_t list_checksum() const {
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    XXH3_64bits_update(&state, parts.data(), parts.size() * sizeof(PartRecord));
    XXH3_64bits_update(&state, chunks.data(), chunks.size() * 8);
    return XXH3_64bits_digest(&state);
  }
};

Digest digest_of(const PackedIdentity& identity) {
  const std::string text = "weft build " + build_id() + "\n" + identity.place + "\n" + identity.content;
  return sha256(std::as_bytes(std::span(text)));
}

std::string path_of(const std::string& folder, const PackedIdentity& identity) {
  return folder + "/" + hex_of(sha256(std::as_bytes(std::span(identity.place)))).substr(0, 32);
}

// Sizes and places agree with each other and with the file's length, so that the parts may be looked at.
bool is_sound(const Index& index, int64_t file_bytes) {
  int64_t end = index.content_offset(), chunks = 0;
  for (const PartRecord& part : index.parts) {
    if (part.bytes < 0 || part.offset != round_up(end, kPartAlignment) || part.bytes > file_bytes - part.offset)
      return false;
    end = part.offset + part.bytes, chunks += chunks_of(part.bytes);
  }
  return chunks == index.header.chunks && file_bytes - end >= int64_t{kernels::kReadAhead};
}

// The beginning of a file that is for `identity` and whole as far as that tells; else nothing.
std::optional<Index> read_index(int fd, int64_t file_bytes, const Digest& identity) {
  Index index;
  Header& header = index.header;
  if (!read_all(fd, &header, sizeof header, 0) || std::memcmp(header.magic, Header().magic, sizeof header.magic) != 0 ||
      header.version != kVersion || header.header_checksum != checksum(header) || header.identity != identity ||
      header.file_bytes != file_bytes || header.parts < 0 || header.parts > kMostParts || header.chunks < 0 ||
      header.chunks > chunks_of(file_bytes) + header.parts || index.content_offset() > file_bytes)
    return std::nullopt;
  index.parts.resize(static_cast<size_t>(header.parts)), index.chunks.resize(static_cast<size_t>(header.chunks));
  const off_t list = sizeof header;
  const size_t record_bytes = index.parts.size() * sizeof(PartRecord);
  if (!read_all(fd, index.parts.data(), record_bytes, list) ||
      !read_all(fd, index.chunks.data(), index.chunks.size() * 8, list + static_cast<off_t>(record_bytes)) ||
      header.list_checksum != index.list_checksum() || !is_sound(index, file_bytes))
    return std::nullopt;
  return index;
}

// Whether nobody but this user (or root) can have written it.
bool is_own(const struct stat& info) {
  return S_ISREG(info.st_mode) && (info.st_uid == ::geteuid() || info.st_uid == 0) &&
         (info.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

struct Entry {
  std::string path;
  int64_t bytes = 0, last_used = 0;  // nanoseconds since 1970
  bool whole = false;                // else one that is or was being written
};

std::vector<Entry> list_folder(const std::string& folder) {
  std::vector<Entry> entries;
  for (const std::string& name : names_in(folder)) {
    struct stat info {};
    const std::string path = folder + "/" + name;
    if ((!name.ends_with(kWhole) && !name.ends_with(kWriting)) || ::lstat(path.c_str(), &info) != 0 ||
        !S_ISREG(info.st_mode))
      continue;
    entries.push_back({path, static_cast<int64_t>(info.st_size),
                       static_cast<int64_t>(info.st_mtim.tv_sec) * 1'000'000'000 + info.st_mtim.tv_nsec,
                       name.ends_with(kWhole)});
  }
  return entries;
}

// The file at `path`, locked by this process and empty; none (-1) while another process has it.
Result<FileDescriptor> take_for_writing(const std::string& path) {
  FileDescriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600));
  if (file.get() < 0) return file_error("write", path);
  if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return FileDescriptor();
    return file_error("lock", path);
  }
  struct stat own {
  }, there{};
  if (::fstat(file.get(), &own) != 0) return file_error("look at", path);
  if (!is_own(own)) return fail(Code::invalid_argument, path, " is not this user's");
  // Whoever had the lock before may have given the file its name, or removed it.
  if (::lstat(path.c_str(), &there) != 0 || own.st_ino != there.st_ino) return FileDescriptor();
  if (::ftruncate(file.get(), 0) != 0) return file_error("write", path);
  return file;
}

// Of a thread beside those that answer: it comes after them.
void step_aside() {
  const auto self = static_cast<id_t>(::gettid());
  ::setpriority(PRIO_PROCESS, self, ::getpriority(PRIO_PROCESS, self) + 5);
}

// Files that were used least recently go until `bytes` more are within the limit, and what killed processes have left.
Status make_room(const std::string& folder, int64_t max_bytes, int64_t bytes, const std::string& own) {
  std::vector<Entry> entries = list_folder(folder);
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.last_used < b.last_used; });
  int64_t used = bytes;
  for (const Entry& entry : entries) {
    if (entry.path == own + std::string(kWriting) || entry.path == own + std::string(kWhole)) continue;
    if (!entry.whole) {  // in use, or left by a killed process
      const auto taken = take_for_writing(entry.path);
      if (taken.ok() && taken->get() >= 0 && ::unlink(entry.path.c_str()) == 0) continue;
    }
    used += entry.bytes;
  }
  if (max_bytes == 0) return {};
  if (bytes > max_bytes)
    return fail(Code::resource_exhausted, "the packed weights take ", bytes,
                " bytes, which is more than --packed-cache ", folder, ":", max_bytes, " allows");
  for (const Entry& entry : entries) {
    if (used <= max_bytes) break;
    if (entry.whole && entry.path != own + std::string(kWhole) && ::unlink(entry.path.c_str()) == 0)
      used -= entry.bytes;
  }
  return {};
}

}  // namespace

class PackedCache::Writer {
 public:
  Writer(std::string folder, std::string path, int64_t max_bytes, const Digest& identity, std::vector<PackedPart> parts)
      : folder_(std::move(folder)), path_(std::move(path)), max_bytes_(max_bytes), parts_(std::move(parts)) {
    index_.header.identity = identity;
    thread_ = std::thread([this] { run(); });
  }
  ~Writer() {
    std::unique_lock lock(mutex_);
    ended_.wait_for(lock, kWaitForWriter, [&] { return done_; });
    stop_ = true;
    lock.unlock();
    thread_.join();
  }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

 private:
  void run() {
    step_aside();
    try {
      if (Status written = write(); !written.ok())
        log_warning("packed weights are not kept for the next start: ", written.error().message());
    } catch (const std::bad_alloc&) {
      log_warning("packed weights are not kept for the next start: out of memory");
    }
    const std::lock_guard lock(mutex_);
    done_ = true;
    ended_.notify_all();
  }

  void lay_out() {
    Header& header = index_.header;
    header.parts = static_cast<int64_t>(parts_.size());
    for (const PackedPart& part : parts_) header.chunks += chunks_of(static_cast<int64_t>(part.bytes.size()));
    int64_t end = index_.content_offset();
    for (const PackedPart& part : parts_) {
      index_.parts.push_back({part.tag, round_up(end, kPartAlignment), static_cast<int64_t>(part.bytes.size())});
      end = index_.parts.back().offset + index_.parts.back().bytes;
    }
    header.file_bytes = end + int64_t{kernels::kReadAhead};
    index_.chunks.reserve(static_cast<size_t>(header.chunks));
  }

  Status write() {
    lay_out();
    const std::string writing = path_ + std::string(kWriting);
    WEFT_TRY(const FileDescriptor file, take_for_writing(writing));
    if (file.get() < 0) return {};  // another process is at it
    Status status = fill(file.get(), writing);
    if (status.ok() && ::rename(writing.c_str(), (path_ + std::string(kWhole)).c_str()) != 0)
      status = file_error("rename", writing);
    if (!status.ok()) ::unlink(writing.c_str());
    return status;
  }

  Status fill(int fd, const std::string& writing) {
    WEFT_RETURN_IF_ERROR(make_room(folder_, max_bytes_, index_.header.file_bytes, path_));
    // So that a full disk is known before anything is written. Not every file system can.
    if (::fallocate(fd, 0, 0, index_.header.file_bytes) != 0 && (errno == ENOSPC || errno == EDQUOT || errno == EFBIG))
      return file_error("write", writing);
    if (::ftruncate(fd, index_.header.file_bytes) != 0) return file_error("write", writing);
    for (size_t p = 0; p < parts_.size(); ++p) {
      const std::span<const std::byte> bytes = parts_[p].bytes;
      for (size_t at = 0; at < bytes.size(); at += kChunk) {
        if (stop_) return fail(Code::cancelled, "the program ended before all of them were written");
        const auto chunk = bytes.subspan(at, std::min<size_t>(kChunk, bytes.size() - at));
        index_.chunks.push_back(checksum(chunk.data(), chunk.size()));
        if (!write_all(fd, chunk.data(), chunk.size(),
                       static_cast<off_t>(index_.parts[p].offset) + static_cast<off_t>(at)))
          return file_error("write", writing);
      }
    }
    index_.header.list_checksum = index_.list_checksum();
    index_.header.header_checksum = checksum(index_.header);
    const size_t record_bytes = index_.parts.size() * sizeof(PartRecord);
    const off_t list = sizeof(Header);
    if (!write_all(fd, &index_.header, sizeof(Header), 0) || !write_all(fd, index_.parts.data(), record_bytes, list) ||
        !write_all(fd, index_.chunks.data(), index_.chunks.size() * 8, list + static_cast<off_t>(record_bytes)))
      return file_error("write", writing);
    log_info("packed weights are kept for the next start: file=", path_, kWhole, " bytes=", index_.header.file_bytes);
    return {};
  }

  const std::string folder_, path_;  // path_ without its ending
  const int64_t max_bytes_;
  const std::vector<PackedPart> parts_;
  Index index_;
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable ended_;
  bool done_ = false;
  std::thread thread_;
};

class PackedFile::Mover {
 public:
  explicit Mover(std::shared_ptr<const MappedFile> file) : file_(std::move(file)), thread_([this] { run(); }) {}
  ~Mover() {
    stop_ = true;
    thread_.join();
  }
  Mover(const Mover&) = delete;
  Mover& operator=(const Mover&) = delete;

 private:
  void run() {
    step_aside();
    for (size_t n = 0; !stop_ && file_->move_into_memory(n); ++n) {
    }
  }

  const std::shared_ptr<const MappedFile> file_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

Result<std::shared_ptr<PackedCache>> PackedCache::open(std::string folder, int64_t max_bytes, LoadMode mode) {
  while (folder.size() > 1 && folder.ends_with('/')) folder.pop_back();
  if (build_id().empty())
    return fail(Code::unsupported, "packed weights are not kept by a program that was linked without a build id");
  WEFT_RETURN_IF_ERROR(make_folders(folder));
  if (::access(folder.c_str(), R_OK | W_OK | X_OK) != 0) return file_error("write in", folder);
  return std::shared_ptr<PackedCache>(new PackedCache(std::move(folder), max_bytes, mode));
}

namespace {

// Whether all parts are what the index says. Each thread looks at what it is going to read, and so does a thread of
// several NUMA nodes bring it into memory near it.
class Check {
 public:
  Check(const Index& index, PackedFile& found, int first_thread, int threads)
      : index_(index), found_(found), first_thread_(first_thread), threads_(threads) {
    for (const PackedPart& part : found.parts) {
      first_chunk_.push_back(chunks_);
      chunks_ += chunks_of(static_cast<int64_t>(part.bytes.size()));
    }
  }

  bool run(ThreadTeam& team) {
    const ThreadTeam::Seat seat(team);
    team.run([&](int thread) {
      const int reader = thread - first_thread_;
      if (reader >= 0 && reader < threads_)
        for (size_t p = 0; p < found_.parts.size() && !failed_; ++p) look_at(p, reader);
    });
    return !failed_ && found_.file->check_pages().ok();
  }

 private:
  void look_at(size_t p, int reader) {
    const std::span<const std::byte> bytes = found_.parts[p].bytes;
    const int64_t chunks = chunks_of(static_cast<int64_t>(bytes.size()));
    // The shares of a part with fewer chunks than there are readers go to other readers for each part.
    const int64_t share = (reader + static_cast<int64_t>(p)) % threads_;
    const int64_t turn = chunks < threads_ ? share : reader;
    for (int64_t c = chunks * turn / threads_; c < chunks * (turn + 1) / threads_ && !failed_; ++c) {
      const auto chunk = bytes.subspan(static_cast<size_t>(c * kChunk),
                                       std::min<size_t>(kChunk, bytes.size() - static_cast<size_t>(c * kChunk)));
      auto pin = found_.file->pin(chunk);
      if (!pin.ok() || checksum(chunk.data(), chunk.size()) != index_.chunks[static_cast<size_t>(first_chunk_[p] + c)])
        failed_ = true;
      else found_.pins[static_cast<size_t>(first_chunk_[p] + c)] = std::move(*pin);
    }
  }

  const Index& index_;
  PackedFile& found_;
  const int first_thread_, threads_;
  int64_t chunks_ = 0;
  std::vector<int64_t> first_chunk_;  // by part
  std::atomic<bool> failed_{false};
};

}  // namespace

namespace {

// Null where it would gain nothing: no large pages, or no thread.
std::shared_ptr<PackedFile::Mover> start_mover(const std::shared_ptr<const MappedFile>& file) {
  std::string setting;
  std::ifstream file_of_system("/sys/kernel/mm/transparent_hugepage/enabled");
  if (!std::getline(file_of_system, setting) || setting.find("[never]") != std::string::npos) return nullptr;
  try {
    return std::make_shared<PackedFile::Mover>(file);
  } catch (const std::system_error&) {
    return nullptr;
  }
}

}  // namespace

std::optional<PackedFile> PackedCache::find(const PackedIdentity& identity, ThreadTeam& team, int first_thread,
                                            int threads) const {
  const std::string path = path_of(folder_, identity) + std::string(kWhole);
  const FileDescriptor opened(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat info {};
  if (opened.get() < 0 || ::fstat(opened.get(), &info) != 0 || !is_own(info)) return std::nullopt;
  const std::optional<Index> index = read_index(opened.get(), info.st_size, digest_of(identity));
  if (!index) return std::nullopt;  // of another build or checkpoint, or torn: written anew
  ::futimens(opened.get(), nullptr);
  auto file = MappedFile::open(path, team.spans_nodes() ? LoadMode::read : mode_);
  if (!file.ok() || file->bytes().size() != static_cast<size_t>(info.st_size)) return std::nullopt;
  PackedFile found;
  found.file = std::make_shared<const MappedFile>(std::move(*file));
  for (const PartRecord& part : index->parts)
    found.parts.push_back(
        {part.tag, found.file->bytes().subspan(static_cast<size_t>(part.offset), static_cast<size_t>(part.bytes))});
  found.pins.resize(index->chunks.size());
  if (Check(*index, found, first_thread, threads > 0 ? threads : team.size()).run(team)) {
    if (!team.spans_nodes() && mode_ == LoadMode::mmap) found.mover = start_mover(found.file);
    return found;
  }
  log_warning("packed weights in ", path, " are damaged and packed again");
  ::unlink(path.c_str());
  return std::nullopt;
}

std::shared_ptr<PackedCache::Writer> PackedCache::write(const PackedIdentity& identity,
                                                        std::vector<PackedPart> parts) const {
  try {
    return std::make_shared<Writer>(folder_, path_of(folder_, identity), max_bytes_, digest_of(identity),
                                    std::move(parts));
  } catch (const std::system_error& thrown) {  // no thread
    log_warning("packed weights are not kept for the next start: ", thrown.what());
    return nullptr;
  }
}

}  // namespace weft
