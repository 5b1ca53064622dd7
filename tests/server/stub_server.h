// A server that sends the bytes it is told to, for tests of what talks to servers.
#pragma once

#include <chrono>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace weft {

struct StubAnswer {
  std::vector<std::string> pieces;     // of the response, head and all
  std::chrono::milliseconds pause{0};  // after each
  bool wait_for_client = false;        // then nothing more comes until the client has closed
  bool close = false;                  // the connection, behind the last piece
};
// A whole response.
StubAnswer stub_answer(const std::string& body, int status = 200, const std::string& more_headers = {});

class StubServer {
 public:
  // Called for each request on the thread of its connection.
  using Script = std::function<StubAnswer(const std::string& head, const std::string& body)>;
  explicit StubServer(Script script);
  ~StubServer();
  int port() const { return port_; }
  // Requests whose client has left while wait_for_client.
  int left() const;

 private:
  void talk(int socket);

  const Script script_;
  int listener_ = -1, port_ = 0;
  std::thread accepting_;
  mutable std::mutex mutex_;  // of what follows
  std::vector<std::thread> talking_;
  std::vector<int> sockets_;
  int left_ = 0;
  bool stopping_ = false;
};

}  // namespace weft
