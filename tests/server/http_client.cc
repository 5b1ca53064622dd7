// See the header.
#include "http_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"

namespace weft {

Json Reply::json() const {
  auto parsed = parse_json(body);
  return parsed.ok() ? std::move(parsed).value() : Json();
}

Connection::Connection(int port, const std::string& host) {
  fd_ = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  WEFT_CHECK(::inet_pton(AF_INET, host.c_str(), &address.sin_addr) == 1) << host;
  if (::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) close();
  const timeval limit{20, 0};  // no test waits longer than this for bytes
  if (fd_ >= 0) ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
}

Connection::~Connection() { close(); }

void Connection::send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return;  // the server has closed; the test sees it in what it reads
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
}

bool Connection::fill() {
  char bytes[16384];
  const ssize_t got = fd_ >= 0 ? ::recv(fd_, bytes, sizeof bytes, 0) : 0;
  if (got <= 0) return false;
  buffer_.append(bytes, static_cast<size_t>(got));
  return true;
}

std::optional<std::string> Connection::take_line() {
  size_t end;
  while ((end = buffer_.find("\r\n")) == std::string::npos)
    if (!fill()) return std::nullopt;
  std::string line = buffer_.substr(0, end);
  buffer_.erase(0, end + 2);
  return line;
}

std::string Connection::take(size_t count) {
  while (buffer_.size() < count && fill()) {
  }
  std::string bytes = buffer_.substr(0, count);
  buffer_.erase(0, bytes.size());
  return bytes;
}

std::string Connection::read_bytes(size_t count) {
  while (buffer_.size() < count && fill()) {
  }
  return std::exchange(buffer_, {});
}

Reply Connection::read_reply() {
  Reply reply;
  std::optional<std::string> line = take_line();
  if (!line || !line->starts_with("HTTP/1.1 ")) return reply;
  const int status = std::stoi(line->substr(9));
  std::optional<size_t> length;
  bool chunked = false;
  while ((line = take_line()) && !line->empty()) {
    reply.head += *line + "\n";
    if (line->starts_with("Content-Length: ")) length = std::stoul(line->substr(16));
    if (*line == "Transfer-Encoding: chunked") chunked = true;
  }
  if (!line) return reply;
  if (chunked) {
    for (;;) {
      line = take_line();
      if (!line) return reply;
      const size_t size = std::stoul(*line, nullptr, 16);
      reply.body += take(size);
      if (!take_line()) return reply;
      if (size == 0) break;
    }
  } else if (length) {
    reply.body = take(*length);
    if (reply.body.size() < *length) return reply;
  } else if (status != 100) {
    while (fill()) {
    }
    reply.body = std::exchange(buffer_, {});
  }
  reply.status = status;
  return reply;
}

bool Connection::at_end() { return buffer_.empty() && !fill(); }
void Connection::close_sending() { ::shutdown(fd_, SHUT_WR); }
void Connection::reset() {
  const linger now{1, 0};
  ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
  close();
}
void Connection::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}
void Connection::small_receive_buffer() {
  const int size = 1024;
  ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
}

std::string post(const std::string& path, const std::string& body, const std::string& more_headers) {
  return "POST " + path +
         " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) +
         "\r\n" + more_headers + "\r\n" + body;
}
std::string get(const std::string& path, const std::string& more_headers) {
  return "GET " + path + " HTTP/1.1\r\nHost: x\r\n" + more_headers + "\r\n";
}

std::vector<std::string> events(const std::string& body) {
  std::vector<std::string> found;
  for (size_t at = 0; at < body.size();) {
    const size_t end = body.find("\n\n", at);
    const std::string event = body.substr(at, end - at);
    if (event.starts_with("data: ")) found.push_back(event.substr(6));
    at = end == std::string::npos ? body.size() : end + 2;
  }
  return found;
}

TestServer::TestServer(FakeOptions fake, ServerOptions options, bool attach, EngineOptions engine)
    : engine_(fake, std::move(engine)) {
  options.port = 0;
  auto server = ApiServer::listen(std::move(options));
  WEFT_CHECK(server.ok()) << server.error().message();
  server_ = std::move(server).value();
  if (attach) server_->attach(engine_);
  thread_ = std::thread([this] {
    server_->run();
    ended_ = true;
  });
}

TestServer::~TestServer() {
  server_->stop();
  thread_.join();
}

Reply TestServer::ask(const std::string& request) {
  Connection connection(port());
  connection.send(request);
  return connection.read_reply();
}

}  // namespace weft
