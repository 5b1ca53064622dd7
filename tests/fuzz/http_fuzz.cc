// Bytes of a connection to the HTTP server. The answers are whole and well-formed, however the bytes are cut; the
// connection ends; and the next client is answered as ever. The first byte says where the bytes are cut.
#include <charconv>
#include <thread>

#include "base/json.h"
#include "client.h"
#include "server/http_server.h"
#include "target.h"

using namespace weft;

namespace {

// Echoes, streams, or says who asked: what the API does with a connection, without what it means.
void handle(const std::shared_ptr<Exchange>& exchange) {
  const std::string path = exchange->request().path, body = exchange->request().body;
  exchange->post([exchange, path, body] {
    if (path == "/stream") {
      exchange->expect_events();
      for (const char* text : {"data: 1\n\n", "data: 2\n\n"}) exchange->send(text);
      return exchange->finish();
    }
    exchange->respond({200, path + "\n" + body, "text/plain", {}});
  });
}

class Server {
 public:
  Server() {
    HttpLimits limits;
    limits.body_bytes = 1 << 16, limits.all_body_bytes = 1 << 20, limits.handlers = 1;
    limits.head = limits.body = limits.idle = std::chrono::milliseconds(500);
    HttpHandlers handlers;
    handlers.handler = handle;
    handlers.refuse = [](int status, const std::string& message) {
      return HttpResponse{status, json_quote(message), "application/json", {}};
    };
    auto made = HttpServer::listen("127.0.0.1", 0, limits, std::move(handlers));
    require(made.ok(), "the server listens");
    server_ = std::move(made).value();
    thread_ = std::thread([this] { server_->run(); });
  }
  ~Server() {
    server_->stop();
    thread_.join();
  }
  int port() const { return server_->port(); }
  int connections() const { return server_->stats().connections; }

 private:
  std::unique_ptr<HttpServer> server_;
  std::thread thread_;
};

const Server& server() {
  static const Server made;
  return made;
}

// Takes one answer off the front of `bytes`.
void take_answer(std::string_view& bytes) {
  require(bytes.starts_with("HTTP/1.1 ") || bytes.starts_with("HTTP/1.0 "), "an answer begins with its version");
  int status = 0;
  std::from_chars(bytes.data() + 9, bytes.data() + std::min<size_t>(bytes.size(), 12), status);
  require(status >= 100 && status < 600, "an answer has a status");
  const size_t head_end = bytes.find("\r\n\r\n");
  require(head_end != std::string_view::npos, "an answer's head is whole");
  const std::string_view head = bytes.substr(0, head_end);
  bytes.remove_prefix(head_end + 4);
  constexpr std::string_view kLength = "\r\nContent-Length: ";
  const size_t at = head.find(kLength);
  if (status == 100) return;
  if (at == std::string_view::npos) return bytes = {}, void();  // chunks, or to the end: nothing to find the next by
  size_t length = 0;
  std::from_chars(head.data() + at + kLength.size(), head.data() + head.size(), length);
  // The answer to HEAD has the length and no body: then the next answer or the end follows.
  if (bytes.size() >= length && !bytes.starts_with("HTTP/1.")) bytes.remove_prefix(length);
}

void good_client() {
  const FuzzClient client(server().port());
  client.send("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
  const std::string answer = client.read_all(20'000);
  require(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("/health\n"), "the next client is answered as ever");
}

std::string post(const std::string& path, const std::string& body, const std::string& more = "") {
  return "POST " + path + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + more +
         "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  const std::string cut(1, '\7');
  return {
      cut + "GET /a%20b?c=d HTTP/1.1\r\nHost: localhost\r\n\r\n",
      cut + post("/x", R"({"a":1})") + post("/y", "{}"),
      cut +
          "POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3;a=b\r\nxyz\r\n0\r\n"
          "T: v\r\n\r\n",
      cut + "GET /stream HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n",
      cut + "HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nOPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
      cut + post("/x", "12345", "Expect: 100-continue\r\n"),
      cut + post("/x", "12345", "Content-Length: 7\r\nTransfer-Encoding: gzip, chunked\r\n"),
      cut + "GET http://localhost/abs HTTP/1.1\r\nHost: other\r\nOrigin: http://evil\r\nCookie: a=b; c\r\n x\r\n\r\n",
  };
}
std::vector<std::string> fuzz_words() {
  return {"\r\n",
          "\r\n\r\n",
          "\n",
          "\r",
          ": ",
          "HTTP/1.0",
          "HTTP/2.0",
          "HTTP/1.1",
          "Transfer-Encoding: chunked\r\n",
          "Content-Length: 0\r\n",
          "Content-Length: 99999999999999999999\r\n",
          "Content-Length: -1\r\n",
          "Connection: close\r\n",
          "Connection: upgrade\r\nUpgrade: websocket\r\n",
          "Expect: 100-continue\r\n",
          "%00",
          "%zz",
          "/../",
          "0\r\n\r\n",
          "ffffffffffffffff\r\n",
          "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
          "\x16\x03\x01",
          "GET / HTTP/1.1\r\n",
          "Host: a\r\nHost: b\r\n",
          "\t",
          "\x80"};
}
void mend(std::string&) {}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static uint64_t inputs = 0;
  if (inputs == 0) good_client();
  std::string bytes = copy_of(data, size);
  const size_t cut = take_choice(bytes, 256);
  {
    const FuzzClient client(server().port());
    const std::string_view all = bytes, first = all.substr(0, cut);
    client.send(first);
    client.send(all.substr(first.size()));
    client.end_sending();
    const std::string answers = client.read_all(20'000);
    require(answers.size() < (1 << 20) + 64 * bytes.size(), "answers are no longer than what was asked for");
    std::string_view rest = answers;
    while (!rest.empty()) take_answer(rest);
  }
  if (++inputs % 64 == 0) good_client();
  return 0;
}
