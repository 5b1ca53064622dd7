// Measures the transports of blocks between two processes on this machine: one way, and round trips of 64 bytes; beside
// them, in the same run, a plain socket and memcpy. Prints one JSON object per line.
//
//   bench_transfer [HOST=127.0.0.1]      an address of this machine; UCX uses other devices for another than loopback
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/socket_address.h"
#include "transfer/tcp_transport.h"
#include "transfer/ucx_transport.h"

namespace weft::bench {
namespace {

constexpr size_t kSizes[] = {64 << 10, 1 << 20, 8 << 20};
constexpr size_t kAllowed = 64 << 20;
constexpr size_t kSmall = 64;
constexpr size_t kTrips = 20'000;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

size_t count_of(size_t bytes) { return std::max<size_t>(64, (size_t{1} << 30) / bytes); }

void print(const char* what, size_t bytes, size_t count, double seconds) {
  std::printf("{\"bench\": \"transfer\", \"what\": \"%s\", \"bytes\": %zu, \"GB_per_s\": %.2f}\n", what, bytes,
              static_cast<double>(bytes) * static_cast<double>(count) / seconds * 1e-9);
  std::fflush(stdout);
}

void print_trips(const char* what, std::vector<double>& seconds) {
  std::sort(seconds.begin(), seconds.end());
  std::printf(
      "{\"bench\": \"transfer\", \"what\": \"%s\", \"bytes\": %zu, \"round_trip_us\": %.1f, \"p99_us\": %.1f}\n", what,
      kSmall, seconds[seconds.size() / 2] * 1e6, seconds[seconds.size() * 99 / 100] * 1e6);
  std::fflush(stdout);
}

// The side that is asked: answers short messages.
class Answering : public ChannelHandler {
 public:
  void on_accepted(const std::shared_ptr<Channel>& channel) override { channel->allow(kAllowed); }
  void on_message(const std::shared_ptr<Channel>& channel, std::span<const std::byte> message) override {
    if (message.size() <= kSmall) channel->send({message.begin(), message.end()});
  }
  void on_drained(const std::shared_ptr<Channel>&) override {}
  void on_closed(const std::shared_ptr<Channel>&, const Error&) override { closed = true; }
  std::atomic<bool> closed{false};
};

// The side that asks.
class Asking : public ChannelHandler {
 public:
  void on_accepted(const std::shared_ptr<Channel>&) override {}
  void on_message(const std::shared_ptr<Channel>&, std::span<const std::byte>) override {
    ++answers;
    answers.notify_all();
  }
  void on_drained(const std::shared_ptr<Channel>&) override {
    ++drained;
    drained.notify_all();
  }
  void on_closed(const std::shared_ptr<Channel>&, const Error& why) override { WEFT_CHECK(finished) << why.message(); }
  std::atomic<int> answers{0}, drained{0};
  std::atomic<bool> finished{false};
};

Result<std::unique_ptr<Transport>> make(const std::string& kind, ChannelHandler& handler) {
#ifdef WEFT_UCX_FILE
  ::setenv("WEFT_UCX_PLUGIN", WEFT_UCX_FILE, 0);
#endif
  return kind == "ucx" ? load_ucx_transport(handler) : make_tcp_transport(handler);
}

// Starts this program as the other side and reads the address that it listens at.
class OtherSide {
 public:
  OtherSide(const std::string& kind, const std::string& host) {
    int ends[2];
    WEFT_CHECK(::pipe(ends) == 0);
    std::string program = "bench_transfer", flag = "--serve", what = kind, where = host;
    std::string descriptor = std::to_string(ends[1]);
    char* const arguments[] = {program.data(), flag.data(), what.data(), where.data(), descriptor.data(), nullptr};
    WEFT_CHECK(::posix_spawn(&pid_, "/proc/self/exe", nullptr, nullptr, arguments, environ) == 0);
    ::close(ends[1]);
    char byte = 0;
    while (::read(ends[0], &byte, 1) == 1) address_ += byte;
    ::close(ends[0]);
    WEFT_CHECK(!address_.empty()) << "the other side of " << kind << " does not listen";
  }
  ~OtherSide() { ::waitpid(pid_, nullptr, 0); }
  const std::string& address() const { return address_; }

 private:
  pid_t pid_ = 0;
  std::string address_;
};

void tell(int descriptor, const std::string& address) {
  WEFT_CHECK(::write(descriptor, address.data(), address.size()) == static_cast<ssize_t>(address.size()));
  ::close(descriptor);
}

void serve_transport(const std::string& kind, const std::string& host, int descriptor) {
  Answering handler;
  auto transport = make(kind, handler);
  WEFT_CHECK(transport.ok()) << transport.error().message();
  const auto address = (*transport)->listen(host + ":0");
  WEFT_CHECK(address.ok()) << address.error().message();
  tell(descriptor, *address);
  while (!handler.closed) std::this_thread::sleep_for(std::chrono::milliseconds(10));
}

void measure_ways(const char* kind, Channel& channel, Asking& asking, const std::function<void()>& ask) {
  for (const size_t bytes : kSizes) {
    double seconds = 0;
    const size_t count = count_of(bytes);
    for (int round = 0; round < 2; ++round) {  // the first makes the memory
      const std::vector<std::byte> block(bytes, std::byte{1});
      const double begin = now();
      for (size_t i = 0; i < count; ++i) {
        for (int before = asking.drained; channel.queued_bytes() > 4 * kDrainedBytes; before = asking.drained)
          if (channel.queued_bytes() > kDrainedBytes) asking.drained.wait(before);
        channel.send(block);  // a copy, as who sends blocks makes one
      }
      ask();
      seconds = now() - begin;
    }
    print(kind, bytes, count, seconds);
  }
}

void measure_trips(const char* kind, const std::function<void()>& ask) {
  std::vector<double> trips(kTrips);
  for (double& trip : trips) {
    const double begin = now();
    ask();
    trip = now() - begin;
  }
  print_trips(kind, trips);
}

void measure_transport(const char* kind, const std::string& host) {
  Asking asking;
  auto transport = make(kind, asking);
  if (!transport.ok()) {
    std::fprintf(stderr, "bench_transfer: no %s: %s\n", kind, transport.error().message().c_str());
    return;
  }
  const OtherSide other(kind, host);
  const auto channel = (*transport)->dial(other.address());
  const auto ask = [&] {
    const int before = asking.answers;
    channel->send(std::vector<std::byte>(kSmall));
    asking.answers.wait(before);
  };
  ask();
  measure_ways(kind, *channel, asking, ask);
  measure_trips(kind, ask);
  asking.finished = true;
  channel->close();
}

// ---- A plain socket
// --------------------------------------------------------------------------------------------------

void write_all(int socket, const std::byte* data, size_t bytes) {
  while (bytes > 0) {
    const ssize_t written = ::write(socket, data, bytes);
    WEFT_CHECK(written > 0);
    data += written;
    bytes -= static_cast<size_t>(written);
  }
}

bool read_all(int socket, std::byte* data, size_t bytes) {
  while (bytes > 0) {
    const ssize_t got = ::read(socket, data, bytes);
    if (got <= 0) return false;
    data += got;
    bytes -= static_cast<size_t>(got);
  }
  return true;
}

void set_no_delay(int socket) {
  const int on = 1;
  ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

void serve_socket(const std::string& host, int descriptor) {
  SocketAddress address = resolve({host, 0})->front();
  const int listener = ::socket(address.storage.ss_family, SOCK_STREAM, 0);
  WEFT_CHECK(::bind(listener, address.data(), address.size) == 0 && ::listen(listener, 1) == 0);
  ::getsockname(listener, reinterpret_cast<sockaddr*>(&address.storage), &address.size);
  tell(descriptor, address.text());
  const int socket = ::accept(listener, nullptr, nullptr);
  set_no_delay(socket);
  std::vector<std::byte> buffer(kSizes[2]);
  for (const size_t bytes : kSizes) {
    for (size_t i = 0; i < 2 * count_of(bytes); ++i) {
      WEFT_CHECK(read_all(socket, buffer.data(), bytes));
      if (i + 1 == count_of(bytes) || i + 1 == 2 * count_of(bytes)) write_all(socket, buffer.data(), kSmall);
    }
  }
  while (read_all(socket, buffer.data(), kSmall)) write_all(socket, buffer.data(), kSmall);
}

void measure_socket(const std::string& host) {
  const OtherSide other("socket", host);
  const auto address = resolve(*parse_host_port(other.address()))->front();
  const int socket = ::socket(address.storage.ss_family, SOCK_STREAM, 0);
  WEFT_CHECK(::connect(socket, address.data(), address.size) == 0);
  set_no_delay(socket);
  std::vector<std::byte> small(kSmall);
  for (const size_t bytes : kSizes) {
    const std::vector<std::byte> block(bytes, std::byte{1});
    double seconds = 0;
    for (int round = 0; round < 2; ++round) {
      const double begin = now();
      for (size_t i = 0; i < count_of(bytes); ++i) write_all(socket, block.data(), bytes);
      WEFT_CHECK(read_all(socket, small.data(), kSmall));
      seconds = now() - begin;
    }
    print("socket", bytes, count_of(bytes), seconds);
  }
  measure_trips("socket", [&] {
    write_all(socket, small.data(), kSmall);
    WEFT_CHECK(read_all(socket, small.data(), kSmall));
  });
  ::close(socket);
}

void measure_memcpy() {
  for (const size_t bytes : kSizes) {
    constexpr size_t kBlocks = 8;  // so that no cache has them all
    const std::vector<std::byte> from(kBlocks * bytes, std::byte{1});
    std::vector<std::byte> to(kBlocks * bytes);
    const double begin = now();
    for (size_t i = 0; i < count_of(bytes); ++i) {
      const size_t at = i % kBlocks * bytes;
      std::memcpy(to.data() + at, from.data() + at, bytes);
      asm volatile("" : : "r"(to.data()) : "memory");
    }
    print("memcpy", bytes, count_of(bytes), now() - begin);
  }
}

}  // namespace
}  // namespace weft::bench

int main(int argc, char** argv) {
  using namespace weft::bench;
  if (argc == 5 && std::string(argv[1]) == "--serve") {
    const int descriptor = std::atoi(argv[4]);
    if (std::string(argv[2]) == "socket") serve_socket(argv[3], descriptor);
    else serve_transport(argv[2], argv[3], descriptor);
    return 0;
  }
  const std::string host = argc > 1 ? argv[1] : "127.0.0.1";
  measure_memcpy();
  measure_socket(host);
  measure_transport("tcp", host);
  measure_transport("ucx", host);
}
