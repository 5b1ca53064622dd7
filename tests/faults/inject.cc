// A library for LD_PRELOAD that makes the n-th call of a kind fail while a control block says so. The block is a file
// of a page that the test maps too (injector.py); the environment's WEFT_FAULTS names it. What fails: malloc and its
// kin (operator new and Rust's allocator come there), mmap, open, read, write, the start of a thread, sends and
// receives.
#include <dlfcn.h>
#include <execinfo.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>
#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstdlib>

namespace {

enum Kind : int32_t { kNone, kMalloc, kMmap, kOpen, kRead, kWrite, kThread, kSend, kReceive };

// As injector.py writes it.
struct Control {
  int32_t kind;
  int32_t goes_on;    // 1: all calls from the n-th on fail
  int64_t at;         // n, from 1; 0: calls are only counted
  int64_t count;      // calls so far
  int64_t failed;     // of them
  int64_t least;      // bytes: smaller allocations neither count nor fail
  int64_t last_size;  // bytes of the last allocation that failed
  int32_t trace;      // 1: where a call failed goes to standard error
};

Control* control = nullptr;

__attribute__((constructor)) void attach() {
  const char* path = std::getenv("WEFT_FAULTS");
  if (!path) return;
  const int file = open(path, O_RDWR | O_CLOEXEC);
  if (file < 0) return;
  void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  void* frames[2];
  backtrace(frames, 2);  // loads what it needs while memory is to be had
  if (page != MAP_FAILED) control = static_cast<Control*>(page);
}

bool fails(Kind kind, size_t size = 0) {
  Control* const c = control;
  if (!c || __atomic_load_n(&c->kind, __ATOMIC_ACQUIRE) != kind) return false;
  if (kind == kMalloc && static_cast<int64_t>(size) < c->least) return false;
  const int64_t n = __atomic_add_fetch(&c->count, 1, __ATOMIC_RELAXED);
  if (c->at <= 0 || (c->goes_on ? n < c->at : n != c->at)) return false;
  __atomic_add_fetch(&c->failed, 1, __ATOMIC_RELAXED);
  c->last_size = static_cast<int64_t>(size);
  if (c->trace) {
    void* frames[48];
    backtrace_symbols_fd(frames, backtrace(frames, 48), 2);
    c->trace = 0;
  }
  return true;
}

template <class Function>
Function next(const char* name, Function) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

void* malloc(size_t size) {
  if (!fails(kMalloc, size)) return __libc_malloc(size);
  errno = ENOMEM;
  return nullptr;
}

void* calloc(size_t count, size_t size) {
  if (!fails(kMalloc, count * size)) return __libc_calloc(count, size);
  errno = ENOMEM;
  return nullptr;
}

void* realloc(void* old, size_t size) {
  if (size == 0 || !fails(kMalloc, size)) return __libc_realloc(old, size);
  errno = ENOMEM;
  return nullptr;
}

int posix_memalign(void** out, size_t alignment, size_t size) {
  if (fails(kMalloc, size)) return ENOMEM;
  void* const memory = __libc_memalign(alignment, size);
  if (!memory) return ENOMEM;
  *out = memory;
  return 0;
}

void* aligned_alloc(size_t alignment, size_t size) {
  if (!fails(kMalloc, size)) return __libc_memalign(alignment, size);
  errno = ENOMEM;
  return nullptr;
}

void* mmap(void* address, size_t size, int protection, int flags, int file, off_t offset) {
  static const auto real = next("mmap", &mmap);
  if (!fails(kMmap, size)) return real(address, size, protection, flags, file, offset);
  errno = ENOMEM;
  return MAP_FAILED;
}

#define WEFT_OPEN(name, ...)                                        \
  {                                                                 \
    static const auto real = next(#name, &name);                    \
    mode_t mode = 0;                                                \
    va_list rest;                                                   \
    va_start(rest, flags);                                          \
    if (flags & (O_CREAT | O_TMPFILE)) mode = va_arg(rest, mode_t); \
    va_end(rest);                                                   \
    if (!fails(kOpen)) return real(__VA_ARGS__, mode);              \
    errno = EMFILE;                                                 \
    return -1;                                                      \
  }
int open(const char* path, int flags, ...) WEFT_OPEN(open, path, flags) int open64(const char* path, int flags, ...)
    WEFT_OPEN(open64, path, flags) int openat(int folder, const char* path, int flags, ...)
        WEFT_OPEN(openat, folder, path, flags)
// A call with the arguments as they are, or -1 and errno.
#define WEFT_CALL(kind, problem, name, ...)      \
  {                                              \
    static const auto real = next(#name, &name); \
    if (!fails(kind)) return real(__VA_ARGS__);  \
    errno = problem;                             \
    return -1;                                   \
  }
            ssize_t read(int file, void* to, size_t size) WEFT_CALL(kRead, EIO, read, file, to, size) ssize_t
    pread(int file, void* to, size_t size, off_t at) WEFT_CALL(kRead, EIO, pread, file, to, size, at) ssize_t
    pread64(int file, void* to, size_t size, off64_t at) WEFT_CALL(kRead, EIO, pread64, file, to, size, at) ssize_t
    write(int file, const void* from, size_t size) WEFT_CALL(kWrite, ENOSPC, write, file, from, size) ssize_t
    pwrite(int file, const void* from, size_t size, off_t at)
        WEFT_CALL(kWrite, ENOSPC, pwrite, file, from, size, at) ssize_t
    send(int socket, const void* from, size_t size, int flags)
        WEFT_CALL(kSend, EPIPE, send, socket, from, size, flags) ssize_t
    sendmsg(int socket, const msghdr* message, int flags)
        WEFT_CALL(kSend, EPIPE, sendmsg, socket, message, flags) ssize_t writev(int file, const iovec* parts, int count)
            WEFT_CALL(kSend, EPIPE, writev, file, parts, count) ssize_t
    recv(int socket, void* to, size_t size, int flags)
        WEFT_CALL(kReceive, ECONNRESET, recv, socket, to, size, flags) ssize_t
    recvmsg(int socket, msghdr* message, int flags) WEFT_CALL(kReceive, ECONNRESET, recvmsg, socket, message, flags)

    // Where it ends, for whoever reads the log: standard error has no line of what is thrown out of a function.
    void abort() {
  if (Control* const c = control) {
    __atomic_store_n(&c->kind, kNone, __ATOMIC_RELEASE);
    void* frames[48];
    backtrace_symbols_fd(frames, backtrace(frames, 48), 2);
  }
  static const auto real = next("abort", &abort);
  real();
  _exit(134);
}

int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*body)(void*), void* argument) {
  static const auto real = next("pthread_create", &pthread_create);
  return fails(kThread) ? EAGAIN : real(thread, attributes, body, argument);
}

}  // extern "C"
