// Where sockets listen and connect: "HOST:PORT" as text, and the addresses that a host's name stands for.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace weft {

struct HostPort {
  std::string host;  // a name or an address, without brackets
  uint16_t port = 0;
};

// "node7:8000", "10.0.0.7:0", "[::1]:8000". Errors name the text and what it lacks.
Result<HostPort> parse_host_port(std::string_view text);

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t size = 0;

  const sockaddr* data() const { return reinterpret_cast<const sockaddr*>(&storage); }
  // "10.0.0.7:8000", "[::1]:8000"
  std::string text() const;
  // Of this machine and reached by it alone: 127.0.0.0/8 or ::1.
  bool loopback() const;
};

// The addresses of a TCP socket at `place`, at least one. Asks the system's resolver, which may take seconds.
Result<std::vector<SocketAddress>> resolve(const HostPort& place);
// The same without waiting: `done` is called before it returns if the host is an address already, else by a thread of
// its own, which nothing waits for: what `done` uses must still be there, or be known to have gone.
void resolve_later(const HostPort& place, std::function<void(Result<std::vector<SocketAddress>>)> done);

}  // namespace weft
