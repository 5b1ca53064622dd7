// Bytes of a server to this program's HTTP client (a front, a batch, a member of a cluster): a whole answer or a
// failure with its reason, in time. The first byte says where the bytes are cut.
#include <chrono>
#include <thread>

#include "client.h"
#include "server/http_client.h"
#include "target.h"

using namespace weft;

namespace {

// Answers one connection after the other with what it was given last.
class Server {
 public:
  Server() : listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET, address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    require(::bind(listener_, reinterpret_cast<const sockaddr*>(&address), size) == 0 && ::listen(listener_, 8) == 0 &&
                ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) == 0,
            "the server listens");
    port_ = ntohs(address.sin_port);
  }
  ~Server() { ::close(listener_); }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  int port() const { return port_; }

  // To be called by another thread than the client's.
  void answer_once(std::string_view bytes, size_t cut) const {
    const int link = ::accept(listener_, nullptr, nullptr);
    char request[4096];
    (void)::recv(link, request, sizeof request, 0);
    const std::string_view first = bytes.substr(0, cut);
    for (const std::string_view piece : {first, bytes.substr(first.size())})
      if (!piece.empty()) (void)::send(link, piece.data(), piece.size(), MSG_NOSIGNAL);
    ::shutdown(link, SHUT_WR);
    const linger now{1, 0};  // no TIME_WAIT: there are many connections
    (void)::recv(link, request, sizeof request, 0);
    ::setsockopt(link, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    ::close(link);
  }

 private:
  const int listener_;
  int port_ = 0;
};

}  // namespace

std::vector<std::string> fuzz_seeds() {
  const std::string cut(1, '\x18');
  return {
      cut + "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
      cut + "HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n",
      cut + "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nT: v\r\n\r\n",
      cut + "HTTP/1.0 200 OK\r\n\r\nto the end",
      cut + "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 None\r\nConnection: keep-alive\r\n\r\n",
      cut + "HTTP/1.1 000 None\r\nContent-Length: 4294967295\r\n\r\n",
      cut + "HTTP/1.1 200 OK\r\nContent-Length: 1844674407370955161\r\n\r\nx",
      cut + "HTTP/1.1 429 Many\r\nRetry-After: -5\r\nContent-Length: 0\r\n\r\n",
      cut + "HTTP/1.1 429 Many\r\nRetry-After: Wed, 21 Oct 2015 07:28:00 GMT\r\nContent-Length: 1\r\n\r\nx",
  };
}
std::vector<std::string> fuzz_words() {
  return {"\r\n",
          "\r\n\r\n",
          "HTTP/1.1 ",
          "HTTP/9.9 ",
          " 000 ",
          " 99999 ",
          "Content-Length: ",
          "Retry-After: -5\r\n",
          "Retry-After: 99999999999\r\n",
          "Transfer-Encoding: chunked\r\n",
          "ffffffffffffffff\r\n",
          "0\r\n\r\n",
          "-1",
          "Connection: close\r\n",
          "Location: /\r\n",
          "Content-Encoding: gzip\r\n",
          std::string(1, '\0')};
}
void mend(std::string&) {}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Server server;
  std::string bytes = copy_of(data, size);
  const size_t cut = take_choice(bytes, 256);
  std::thread answer([&] { server.answer_once(bytes, cut); });
  HttpReply reply;
  bool ended = false;
  {
    HttpClient client({"127.0.0.1", server.port(), ""}, {}, std::chrono::seconds(20));
    client.get("/x", [&](HttpReply got) {
      require(!ended, "a call ends once");
      reply = std::move(got), ended = true;
    });
    client.run();
  }
  answer.join();
  require(ended, "a call ends");
  require(reply.body.size() <= bytes.size(), "no more comes than was sent");
  require(reply.retry_after_s >= 0, "nobody comes again before now");
  if (reply.failure == HttpReply::Failure::none)
    require(reply.status >= 200 && reply.status < 1000, "an answer has a status");
  else require(!reply.problem.empty() && reply.failure != HttpReply::Failure::timed_out, "a failure says why, in time");
  return 0;
}
