// See the header.
#include "stub_server.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"

namespace weft {

StubAnswer stub_answer(const std::string& body, int status, const std::string& more_headers) {
  return {{"HTTP/1.1 " + std::to_string(status) + " X\r\nContent-Type: application/json\r\nContent-Length: " +
           std::to_string(body.size()) + "\r\n" + more_headers + "\r\n" + body}};
}

StubServer::StubServer(Script script) : script_(std::move(script)) {
  listener_ = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  WEFT_CHECK(::bind(listener_, reinterpret_cast<const sockaddr*>(&address), size) == 0 && ::listen(listener_, 64) == 0)
      << "no port";
  ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
  port_ = ntohs(address.sin_port);
  accepting_ = std::thread([this] {
    for (int socket; (socket = ::accept(listener_, nullptr, nullptr)) >= 0;) {
      const std::lock_guard lock(mutex_);
      if (stopping_) ::shutdown(socket, SHUT_RDWR);
      sockets_.push_back(socket);
      talking_.emplace_back([this, socket] { talk(socket); });
    }
  });
}

StubServer::~StubServer() {
  ::shutdown(listener_, SHUT_RDWR);
  accepting_.join();
  ::close(listener_);
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    for (const int socket : sockets_) ::shutdown(socket, SHUT_RDWR);
  }
  for (std::thread& thread : talking_) thread.join();
  for (const int socket : sockets_) ::close(socket);
}

int StubServer::left() const {
  const std::lock_guard lock(mutex_);
  return left_;
}

void StubServer::talk(int socket) {
  std::string bytes;
  const auto more = [&] {
    char part[65536];
    const ssize_t got = ::recv(socket, part, sizeof part, 0);
    if (got > 0) bytes.append(part, static_cast<size_t>(got));
    return got > 0;
  };
  for (;;) {
    size_t end;
    while ((end = bytes.find("\r\n\r\n")) == std::string::npos)
      if (!more()) return;
    const std::string head = bytes.substr(0, end + 2);
    const size_t field = head.find("Content-Length: ");
    const size_t length = field == std::string::npos ? 0 : std::stoul(head.substr(field + 16));
    while (bytes.size() < end + 4 + length)
      if (!more()) return;
    const StubAnswer answer = script_(head, bytes.substr(end + 4, length));
    bytes.erase(0, end + 4 + length);
    for (const std::string& piece : answer.pieces) {
      if (::send(socket, piece.data(), piece.size(), MSG_NOSIGNAL) < 0) return;
      std::this_thread::sleep_for(answer.pause);
    }
    if (answer.wait_for_client) {
      const bool stayed = more();
      const std::lock_guard lock(mutex_);
      if (!stayed && !stopping_) ++left_;
      if (!stayed) return;
    }
    if (answer.close) {
      ::shutdown(socket, SHUT_RDWR);
      return;
    }
  }
}

}  // namespace weft
