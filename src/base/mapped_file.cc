#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <cstring>
#include <mutex>
#include <utility>

namespace weft {
namespace {

constexpr uintptr_t kPage = 4096;

Error unreadable(const std::string& path, int code) {
  return fail(code == ENOENT ? Code::not_found : Code::internal, "cannot read ", path, ": ", std::strerror(code));
}

// A mapping of the file at a multiple of a large page, so that its pieces can be moved onto some; MAP_FAILED.
void* map_aligned(int fd, size_t size) {
  constexpr size_t kLarge = MappedFile::kLargePage;
  void* const room = ::mmap(nullptr, size + kLarge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) return MAP_FAILED;
  auto* const begin = static_cast<std::byte*>(room);
  const size_t before = (kLarge - reinterpret_cast<uintptr_t>(begin) % kLarge) % kLarge;
  const size_t end = before + (size + kPage - 1) / kPage * kPage;
  void* const data = ::mmap(begin + before, size, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0);
  const int why = errno;
  if (data == MAP_FAILED || before > 0) ::munmap(begin, data == MAP_FAILED ? size + kLarge : before);
  if (data != MAP_FAILED && end < size + kLarge) ::munmap(begin + end, size + kLarge - end);
  errno = why;
  return data;
}

uintptr_t address_of(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); }

// What has become of a file that was `before`; empty if it is the same.
std::string describe_change(const FileStamp& before, const FileStamp& now) {
  if (before == now) return "";
  if (now.bytes < 0) return "is gone, it had " + std::to_string(before.bytes) + " bytes";
  if (before.bytes < 0) return "has appeared, with " + std::to_string(now.bytes) + " bytes";
  const std::string sizes =
      std::to_string(before.bytes) + " bytes when it was opened, " + std::to_string(now.bytes) + " now";
  const bool other = before.device != now.device || before.inode != now.inode;
  return other ? "was replaced by another file: " + sizes : "was written to: " + sizes;
}

}  // namespace

// A mapping that the signal handler knows. They are never freed, and used again.
struct MappedFile::Guard {
  std::atomic<uintptr_t> begin{0}, end{0};  // both 0: not in use
  std::atomic<bool> broken{false};          // some page could not be read
  Guard* next = nullptr;                    // set before it is in the list

  static Guard* take(const void* data, size_t size);
  void give_back() { end = 0, begin = 0; }
  static void handle(int signal, siginfo_t* info, void* context);
  static void install();

  static std::atomic<Guard*> first;
  static std::mutex mutex;  // of who takes one
  static struct sigaction before;
};

std::atomic<MappedFile::Guard*> MappedFile::Guard::first{nullptr};
std::mutex MappedFile::Guard::mutex;
struct sigaction MappedFile::Guard::before {};
static_assert(std::atomic<uintptr_t>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);

MappedFile::Guard* MappedFile::Guard::take(const void* data, size_t size) {
  const std::lock_guard lock(mutex);
  install();
  Guard* guard = first;
  while (guard && guard->end != 0) guard = guard->next;
  if (!guard) {
    guard = new Guard;
    guard->next = first;
    first = guard;
  }
  guard->broken = false;
  guard->begin = address_of(data);
  guard->end = address_of(data) + (size + kPage - 1) / kPage * kPage;
  return guard;
}

void MappedFile::Guard::install() {
  static const bool once = [] {
    struct sigaction action {};
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    return ::sigaction(SIGBUS, &action, &before) == 0;
  }();
  static_cast<void>(once);
}

// Only what is allowed in a signal handler: atomics, mmap and sigaction, which are system calls.
void MappedFile::Guard::handle(int signal, siginfo_t* info, void* context) {
  const int error = errno;
  const uintptr_t address = address_of(info->si_addr);
  if (info->si_code > 0) {  // a fault, not a kill()
    for (Guard* guard = first; guard; guard = guard->next) {
      const uintptr_t begin = guard->begin, end = guard->end, page = address & ~(kPage - 1);
      if (address < begin || address >= end) continue;
      // Zeros up to the mapping's end: a file that was cut short lacks all of it.
      if (::mmap(reinterpret_cast<void*>(page), end - page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                 0) == MAP_FAILED)
        break;
      guard->broken = true;
      errno = error;
      return;
    }
  }
  if ((before.sa_flags & SA_SIGINFO) != 0 && before.sa_sigaction) return before.sa_sigaction(signal, info, context);
  if ((before.sa_flags & SA_SIGINFO) == 0 && before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN)
    return before.sa_handler(signal);
  ::sigaction(SIGBUS, &before, nullptr);  // the instruction is tried again, and the signal ends the process
  if (info->si_code <= 0) ::raise(signal);
  errno = error;
}

// The file in pieces that are read when somebody pins them.
class MappedFile::Pieces {
 public:
  Pieces(int fd, std::byte* data, size_t size)
      : fd_(fd), data_(data), size_(size), pieces_((size + kPieceBytes - 1) / kPieceBytes) {}
  ~Pieces() { ::close(fd_); }
  Pieces(const Pieces&) = delete;
  Pieces& operator=(const Pieces&) = delete;

  // 0, or errno; ENODATA: the file has become shorter.
  int pin(size_t first, size_t last) {
    std::unique_lock lock(mutex_);
    for (size_t i = first; i <= last; ++i) ++pieces_[i].pins;
    for (size_t i = first; i <= last; ++i) {
      Piece& piece = pieces_[i];
      changed_.wait(lock, [&] { return piece.state != State::reading; });
      if (piece.state == State::present) continue;
      piece.state = State::reading;
      lock.unlock();
      const int error = read(i);
      lock.lock();
      piece.state = error == 0 ? State::present : State::absent;
      piece.dropped = 0;
      changed_.notify_all();
      if (error == 0) continue;
      for (size_t k = first; k <= last; ++k) --pieces_[k].pins;
      return error;
    }
    return 0;
  }

  void unpin(size_t first, size_t last) {
    const std::lock_guard lock(mutex_);
    for (size_t i = first; i <= last; ++i) {
      --pieces_[i].pins;
      let_go(i);
    }
  }

  void drop(size_t begin, size_t end) {
    const std::lock_guard lock(mutex_);
    for (size_t i = begin / kPieceBytes; i * kPieceBytes < end; ++i) {
      const size_t from = std::max(begin, i * kPieceBytes), to = std::min(end, i * kPieceBytes + bytes_of(i));
      pieces_[i].dropped += to - from;
      let_go(i);
    }
  }

  static constexpr size_t kPieceBytes = size_t{128} << 10;

 private:
  enum class State : uint8_t { absent, reading, present };
  struct Piece {
    State state = State::absent;
    uint32_t pins = 0;
    size_t dropped = 0;  // bytes of it that nobody needs any more
  };

  size_t bytes_of(size_t piece) const { return std::min(kPieceBytes, size_ - piece * kPieceBytes); }

  int read(size_t piece) {
    const size_t begin = piece * kPieceBytes, bytes = bytes_of(piece);
    for (size_t done = 0; done < bytes;) {
      const ssize_t got = ::pread(fd_, data_ + begin + done, bytes - done, static_cast<off_t>(begin + done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return errno;
      if (got == 0) return ENODATA;
      done += static_cast<size_t>(got);
    }
    return 0;
  }

  // The caller has the lock.
  void let_go(size_t i) {
    Piece& piece = pieces_[i];
    if (piece.pins > 0 || piece.state != State::present || piece.dropped < bytes_of(i)) return;
    ::madvise(data_ + i * kPieceBytes, bytes_of(i), MADV_DONTNEED);
    piece.state = State::absent;
  }

  const int fd_;
  std::byte* const data_;
  const size_t size_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Piece> pieces_;
};

FileStamp FileStamp::of(const struct stat& info) {
  const auto ns = [](const timespec& time) { return static_cast<int64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec; };
  return {static_cast<uint64_t>(info.st_dev), static_cast<uint64_t>(info.st_ino), static_cast<int64_t>(info.st_size),
          ns(info.st_mtim), ns(info.st_ctim)};
}

FileStamp FileStamp::at(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 ? of(info) : FileStamp();
}

Status FileStamps::check() const {
  for (const auto& [path, before] : files_)
    if (const std::string change = describe_change(before, FileStamp::at(path)); !change.empty())
      return fail(Code::data_corrupt, path, " changed while it was in use: it ", change);
  return {};
}

std::string FileStamps::text() const {
  std::string text;
  for (const auto& [path, stamp] : files_)
    text += path + " " + std::to_string(stamp.device) + " " + std::to_string(stamp.inode) + " " +
            std::to_string(stamp.bytes) + " " + std::to_string(stamp.changed_ns) + " " +
            std::to_string(stamp.status_ns) + "\n";
  return text;
}

Result<MappedFile> MappedFile::open(const std::string& path, LoadMode mode) {
  // A pipe in the place of a file would be waited for.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return unreadable(path, errno);
  struct stat info {};
  const int looked = ::fstat(fd, &info), code = errno;
  if (looked != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    if (looked != 0) return unreadable(path, code);
    return fail(Code::invalid_argument, path, " is not a regular file");
  }
  MappedFile file;
  file.path_ = path, file.stamp_ = FileStamp::of(info);
  const auto size = static_cast<size_t>(info.st_size);
  const bool map = mode == LoadMode::mmap;
  void* data = nullptr;
  if (size > 0)
    data = map ? map_aligned(fd, size)
               : ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    const int why = errno;
    ::close(fd);
    return fail(Code::resource_exhausted, "cannot map ", path, ", ", size, " bytes: ", std::strerror(why));
  }
  if (map || size == 0) ::close(fd);
  if (size == 0) return file;
  file.data_ = static_cast<const std::byte*>(data), file.size_ = size;
  if (map) file.guard_ = Guard::take(data, size);
  else file.pieces_ = std::make_unique<Pieces>(fd, static_cast<std::byte*>(data), size);
  return file;
}

MappedFile::MappedFile() = default;

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), stamp_(other.stamp_), data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)), guard_(std::exchange(other.guard_, nullptr)),
      pieces_(std::move(other.pieces_)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_), std::swap(stamp_, other.stamp_);
  std::swap(data_, other.data_), std::swap(size_, other.size_);
  std::swap(guard_, other.guard_), std::swap(pieces_, other.pieces_);
  return *this;
}

MappedFile::~MappedFile() {
  if (guard_) guard_->give_back();
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

Result<MappedFile::Pin> MappedFile::pin(std::span<const std::byte> part) const {
  if (!pieces_ || part.empty()) return Pin();
  const auto begin = static_cast<size_t>(part.data() - data_);
  const int error = pieces_->pin(begin / Pieces::kPieceBytes, (begin + part.size() - 1) / Pieces::kPieceBytes);
  if (error == 0) return Pin(this, part);
  if (error != ENODATA) return unreadable(path_, error);
  return fail(Code::data_corrupt, path_, " changed while it was in use: it has become shorter than the ", size_,
              " bytes when it was opened");
}

void MappedFile::unpin(std::span<const std::byte> part) const {
  const auto begin = static_cast<size_t>(part.data() - data_);
  pieces_->unpin(begin / Pieces::kPieceBytes, (begin + part.size() - 1) / Pieces::kPieceBytes);
}

void MappedFile::drop(std::span<const std::byte> part) const {
  if (part.empty()) return;
  if (pieces_) {
    const auto begin = static_cast<size_t>(part.data() - data_);
    return pieces_->drop(begin, begin + part.size());
  }
  const uintptr_t begin = (address_of(part.data()) + kPage - 1) & ~(kPage - 1);
  const uintptr_t end = address_of(part.data() + part.size()) & ~(kPage - 1);
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

bool MappedFile::move_into_memory(size_t n) const {
  if (!guard_ || n * kLargePage >= size_) return false;
  std::byte* const target = const_cast<std::byte*>(data_) + n * kLargePage;
  const size_t bytes = std::min(kLargePage, size_ - n * kLargePage), pages = (bytes + kPage - 1) / kPage * kPage;
  void* const room =
      ::mmap(nullptr, 2 * kLargePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) return false;
  auto* const begin = static_cast<std::byte*>(room);
  const size_t before = (kLargePage - address_of(begin) % kLargePage) % kLargePage;
  std::byte* const copy = begin + before;
  ::madvise(copy, kLargePage, MADV_HUGEPAGE);
  std::memcpy(copy, target, bytes);
  const bool moved = !guard_->broken && ::mprotect(copy, pages, PROT_READ) == 0 &&
                     ::mremap(copy, pages, pages, MREMAP_MAYMOVE | MREMAP_FIXED, target) != MAP_FAILED;
  if (before > 0) ::munmap(begin, before);
  const size_t used = moved ? before + pages : before;
  ::munmap(begin + used, 2 * kLargePage - used);
  return moved;
}

Status MappedFile::check() const {
  FileStamps stamps;
  stamps.add(path_, stamp_);
  WEFT_RETURN_IF_ERROR(stamps.check());
  return check_pages();
}

Status MappedFile::check_pages() const {
  if (guard_ && guard_->broken)
    return fail(Code::data_corrupt, "parts of ", path_, " (", size_,
                " bytes) could not be read: was it cut short, or does its disk fail?");
  return {};
}

}  // namespace weft
