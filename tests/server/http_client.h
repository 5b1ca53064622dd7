// A plain socket to a server on this machine, for tests that need to see and send bytes as they are.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/json.h"
#include "fake_engine.h"
#include "server/api_server.h"

namespace weft {

struct Reply {
  int status = 0;  // 0: the connection ended before a whole answer
  std::string head;
  std::string body;   // chunks joined
  Json json() const;  // null if the body is none
  bool has_header(std::string_view line) const { return head.find(line) != std::string::npos; }
};

class Connection {
 public:
  explicit Connection(int port, const std::string& address = "127.0.0.1");
  ~Connection();
  Connection(Connection&& other) noexcept : fd_(std::exchange(other.fd_, -1)), buffer_(std::move(other.buffer_)) {}

  void send(std::string_view bytes);
  // The next whole answer (by Content-Length, chunks, or to the end).
  Reply read_reply();
  // At least `count` bytes, or what came before the end.
  std::string read_bytes(size_t count);
  bool at_end();  // the server has closed and nothing is left
  void close_sending();
  void reset();  // closes so that the server sees a reset
  void close();
  void small_receive_buffer();

 private:
  bool fill();
  std::optional<std::string> take_line();
  std::string take(size_t count);

  int fd_ = -1;
  std::string buffer_;
};

std::string post(const std::string& path, const std::string& body, const std::string& more_headers = {});
std::string get(const std::string& path, const std::string& more_headers = {});

// The payloads of "data: " lines.
std::vector<std::string> events(const std::string& body);

// A server with its engine and its thread.
class TestServer {
 public:
  explicit TestServer(FakeOptions fake = {}, ServerOptions options = {}, bool attach = true, EngineOptions engine = {});
  ~TestServer();
  int port() const { return server_->port(); }
  FakeEngine& engine() { return engine_; }
  ApiServer& server() { return *server_; }
  Reply ask(const std::string& request);
  // Waits up to some seconds for `condition`.
  template <class Condition>
  static bool eventually(Condition condition) {
    for (int i = 0; i < 500; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return false;
  }
  bool ended() const { return ended_; }

 private:
  FakeEngine engine_;
  std::unique_ptr<ApiServer> server_;
  std::atomic<bool> ended_{false};
  std::thread thread_;
};

}  // namespace weft
