// A plain client of a server in the same process, for targets and tests that send bytes as they are.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <string_view>

#include "target.h"

namespace weft {

class FuzzClient {
 public:
  explicit FuzzClient(int port) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET, address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    require(::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0,
            "the server takes clients");
    const int on = 1;
    ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  ~FuzzClient() { close(); }
  FuzzClient(const FuzzClient&) = delete;
  FuzzClient& operator=(const FuzzClient&) = delete;

  void send(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;  // the server has refused and closed
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
  }
  void end_sending() const { ::shutdown(fd_, SHUT_WR); }
  // At least one byte, or nothing at the end of the connection.
  std::string read_some(int patience_ms = 60'000) const {
    pollfd wait{fd_, POLLIN, 0};
    require(::poll(&wait, 1, patience_ms) == 1, "the server answers, or ends the connection");
    char piece[16384];
    const ssize_t got = ::recv(fd_, piece, sizeof piece, 0);
    return {piece, got > 0 ? static_cast<size_t>(got) : 0};
  }
  // To the end of the connection, which must come.
  std::string read_all(int patience_ms = 60'000) const {
    std::string all;
    for (std::string piece = read_some(patience_ms); !piece.empty(); piece = read_some(patience_ms)) all += piece;
    return all;
  }
  // With a reset: a million connections in TIME_WAIT would use up the ports.
  void close() {
    if (fd_ < 0) return;
    const linger now{1, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    ::close(fd_);
    fd_ = -1;
  }

 private:
  int fd_;
};

// In HTTP/1.0, so that an answer ends with the connection and has no chunks.
inline std::string post_once(const std::string& path, std::string_view body) {
  return "POST " + path + " HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n\r\n" + std::string(body);
}

struct PlainReply {
  int status = 0;
  std::string head, body;
};
inline PlainReply split_reply(const std::string& bytes) {
  PlainReply reply;
  const size_t head_end = bytes.find("\r\n\r\n");
  if (bytes.size() < 12 || head_end == std::string::npos) return reply;
  reply.status = std::atoi(bytes.c_str() + 9);
  reply.head = bytes.substr(0, head_end), reply.body = bytes.substr(head_end + 4);
  return reply;
}

}  // namespace weft
