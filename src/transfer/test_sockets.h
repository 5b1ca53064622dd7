// Plain sockets that tests hold against a transport's port.
#pragma once

#include <poll.h>
#include <sys/socket.h>

#include <chrono>
#include <string>

#include "base/check.h"
#include "base/socket_address.h"

namespace weft {

// Connects as no peer would; the caller closes it.
inline int raw_connect(const std::string& address) {
  const auto place = resolve(*parse_host_port(address));
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  WEFT_CHECK(::connect(socket, place->front().data(), place->front().size) == 0);
  return socket;
}

// Whether the other side ends the connection within the time.
inline bool ends_within(int socket, double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  char bytes[4096];
  while (std::chrono::duration<double>(Clock::now() - begin).count() < seconds) {
    pollfd look{socket, POLLIN, 0};
    if (::poll(&look, 1, 20) > 0 && ::recv(socket, bytes, sizeof bytes, MSG_DONTWAIT) <= 0) return true;
  }
  return false;
}

}  // namespace weft
