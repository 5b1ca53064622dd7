// The transport by itself, with handlers that do what handlers should not: exceptions, long answers, and more
// connections than there is room for.
#include <gtest/gtest.h>
#include <ifaddrs.h>
#include <netinet/in.h>

#include <cstring>
#include <thread>

#include "base/check.h"
#include "http_client.h"
#include "server/errors.h"

namespace weft {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

class Transport {
 public:
  explicit Transport(HttpHandler handler, HttpLimits limits = {}, HttpHandlers more = {},
                     const std::string& host = "127.0.0.1") {
    limits.tick = milliseconds(20);
    more.handler = std::move(handler);
    more.refuse = [](int status, const std::string& message) { return error_response(status, message); };
    auto server = HttpServer::listen(host, 0, limits, std::move(more));
    WEFT_CHECK(server.ok()) << server.error().message();
    server_ = std::move(server).value();
    thread_ = std::thread([this] { server_->run(); });
  }
  ~Transport() {
    server_->stop();
    thread_.join();
  }
  HttpServer& server() { return *server_; }
  int port() const { return server_->port(); }
  Reply ask(const std::string& request) const {
    Connection connection(port());
    connection.send(request);
    return connection.read_reply();
  }

 private:
  std::unique_ptr<HttpServer> server_;
  std::thread thread_;
};

void answer_ok(const std::shared_ptr<Exchange>& exchange) { exchange->respond({.body = "{}"}); }

TEST(Transport, TheLoopThatTakesConnectionsGoesOnAfterAnException) {
  Transport transport(answer_ok);
  for (int i = 0; i < 3; ++i) {
    transport.server().break_next_accept();
    EXPECT_EQ(transport.ask(get("/")).status, 0) << "this one was lost";
    EXPECT_EQ(transport.ask(get("/")).status, 200);
  }
}

// Of what was counted for it nothing is left behind.
TEST(Transport, AnExceptionInAConnectionEndsThatOneAlone) {
  HttpLimits limits;
  limits.all_body_bytes = 110, limits.connections = 8;
  HttpHandlers handlers;
  handlers.admit = [](const HttpRequest& head) -> HttpAdmission {
    if (head.path == "/admit") throw std::runtime_error("in admit");
    return {};
  };
  handlers.place = [](const HttpRequest& request) {
    if (request.path == "/place") throw std::runtime_error("behind the body");
    return HttpPlace::at_once;
  };
  Transport transport(answer_ok, limits, handlers);
  Connection other(transport.port());
  other.send(get("/"));
  EXPECT_EQ(other.read_reply().status, 200);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(transport.ask(post("/admit", std::string(80, 'x'))).status, 0);
    EXPECT_EQ(transport.ask(post("/place", std::string(80, 'x'))).status, 0);
  }
  EXPECT_EQ(transport.ask(post("/", std::string(80, 'x'))).status, 200);
  other.send(get("/"));
  EXPECT_EQ(other.read_reply().status, 200);
  EXPECT_TRUE(TestServer::eventually([&] { return transport.server().stats().connections == 1; }));
}

// Clients learn that it failed, not how.
TEST(Transport, ExceptionsOfHandlersStayInside) {
  Transport transport([](const std::shared_ptr<Exchange>& exchange) {
    const std::string& path = exchange->request().path;
    if (path == "/logic") throw std::runtime_error("secret of /some/file.cc");
    if (path == "/memory") throw std::bad_alloc();
    exchange->post([exchange, path] {
      if (path == "/stream") exchange->send("data: 1\n\n");
      throw std::length_error("secret of vector::_M_range_check");
    });
  });
  const Reply logic = transport.ask(get("/logic")), memory = transport.ask(get("/memory"));
  EXPECT_EQ(logic.status, 500);
  EXPECT_EQ(memory.status, 503);
  EXPECT_EQ(memory.json().find("error")->find("message")->as_string(), "the server ran out of memory for this request");
  const Reply posted = transport.ask(get("/posted")), stream = transport.ask(get("/stream"));
  EXPECT_EQ(posted.status, 500);
  EXPECT_EQ(stream.status, 200);
  ASSERT_EQ(events(stream.body).size(), 3u) << stream.body;
  EXPECT_TRUE(parse_json(events(stream.body)[1])->find("error"));
  EXPECT_EQ(events(stream.body)[2], "[DONE]");
  for (const Reply* reply : {&logic, &memory, &posted, &stream}) {
    for (const char* inside : {"secret", "bad_alloc", "std::", "_M_"})
      EXPECT_EQ(reply->body.find(inside), std::string::npos) << reply->body;
  }
}

// A long answer is made and sent while others are served.
TEST(Transport, MakingALongAnswerHoldsNobodyUp) {
  HttpHandlers handlers;
  handlers.place = [](const HttpRequest& request) {
    return request.path == "/health" ? HttpPlace::at_once : HttpPlace::pool;
  };
  std::atomic<bool> making{false}, enough{false};
  Transport transport(
      [&](const std::shared_ptr<Exchange>& exchange) {
        if (exchange->request().path == "/health") return answer_ok(exchange);
        exchange->post([&, exchange] {
          making = true;
          while (!enough) std::this_thread::sleep_for(milliseconds(1));
          exchange->respond({.body = std::string(50'000'000, 'x')});
        });
      },
      {}, handlers);
  std::vector<Connection> waiting;
  for (int i = 0; i < HttpLimits().answerers; ++i) {
    waiting.emplace_back(transport.port());
    waiting.back().send(get("/long"));
  }
  EXPECT_TRUE(TestServer::eventually([&] { return making.load(); }));
  EXPECT_EQ(transport.ask(get("/health")).status, 200);
  enough = true;
  for (Connection& connection : waiting) EXPECT_EQ(connection.read_reply().body.size(), 50'000'000u);
}

TEST(Transport, AnIdleConnectionMakesRoomForANewOne) {
  HttpLimits limits;
  limits.connections = 3;
  std::atomic<bool> enough{false};
  Transport transport(
      [&](const std::shared_ptr<Exchange>& exchange) {
        while (exchange->request().path == "/busy" && !enough) std::this_thread::sleep_for(milliseconds(1));
        answer_ok(exchange);
      },
      limits);
  Connection busy(transport.port()), idle(transport.port()), fresh(transport.port());
  busy.send(get("/busy"));
  idle.send(get("/"));
  EXPECT_EQ(idle.read_reply().status, 200);
  fresh.send(get("/"));
  EXPECT_EQ(fresh.read_reply().status, 200);
  EXPECT_EQ(transport.ask(get("/")).status, 200);
  EXPECT_TRUE(idle.at_end()) << "it has waited longest";
  fresh.send(get("/"));
  EXPECT_EQ(fresh.read_reply().status, 200);
  enough = true;
  EXPECT_EQ(busy.read_reply().status, 200);
  EXPECT_EQ(transport.server().stats().evicted, 1);
}

TEST(Transport, GroupsOfAddresses) {
  EXPECT_EQ(address_group("127.0.0.1"), "");
  EXPECT_EQ(address_group("127.8.9.1"), "");
  EXPECT_EQ(address_group("::1"), "");
  EXPECT_EQ(address_group("192.0.2.7"), "192.0.2.7");
  EXPECT_EQ(address_group("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
  EXPECT_EQ(address_group("2001:db8:1:2::9"), "2001:db8:1:2::/64");
  EXPECT_EQ(address_group("fe80::1:2%eth0"), "fe80::/64");
}

// An address of this machine that is not its loopback; empty: it has none.
std::string own_address() {
  ifaddrs* list = nullptr;
  std::string found;
  if (::getifaddrs(&list) != 0) return "";
  for (const ifaddrs* one = list; one; one = one->ifa_next) {
    if (!one->ifa_addr || one->ifa_addr->sa_family != AF_INET) continue;
    const auto address = ntohl(reinterpret_cast<const sockaddr_in*>(one->ifa_addr)->sin_addr.s_addr);
    if (address >> 24 == 127) continue;
    found = std::to_string(address >> 24) + "." + std::to_string(address >> 16 & 255) + "." +
            std::to_string(address >> 8 & 255) + "." + std::to_string(address & 255);
  }
  ::freeifaddrs(list);
  return found;
}

TEST(Transport, AnAddressHasSoManyConnections) {
  const std::string own = own_address();
  if (own.empty()) GTEST_SKIP() << "this machine has no address but its loopback";
  HttpLimits limits;
  limits.connections_per_address = 2;
  std::string peer;
  Transport transport(
      [&](const std::shared_ptr<Exchange>& exchange) {
        peer = exchange->request().peer;
        answer_ok(exchange);
      },
      limits, {}, own);
  Connection a(transport.port(), own), b(transport.port(), own), c(transport.port(), own);
  const Reply refused = c.read_reply();
  EXPECT_EQ(refused.status, 429);
  EXPECT_TRUE(refused.has_header("Retry-After: "));
  EXPECT_NE(refused.body.find(own + " has 2 connections"), std::string::npos) << refused.body;
  a.send(get("/"));
  EXPECT_EQ(a.read_reply().status, 200);
  EXPECT_EQ(peer, own);
  b.close();
  EXPECT_TRUE(TestServer::eventually([&] { return transport.server().stats().connections == 1; }));
  Connection d(transport.port(), own);
  d.send(get("/"));
  EXPECT_EQ(d.read_reply().status, 200);
}

TEST(Transport, ThisMachineHasAsManyAsItLikes) {
  HttpLimits limits;
  limits.connections_per_address = 1;
  Transport transport(answer_ok, limits);
  Connection a(transport.port()), b(transport.port());
  for (Connection* one : {&a, &b}) {
    one->send(get("/"));
    EXPECT_EQ(one->read_reply().status, 200);
  }
}

constexpr size_t kSlowBody = 5000;

// Sends a body of kSlowBody bytes in pieces with pauses, until it has an answer or is refused.
Reply send_slowly(Transport& transport, size_t piece, milliseconds pause) {
  Connection connection(transport.port());
  const std::string request = post("/", std::string(kSlowBody, 'x'));
  const size_t head = request.size() - kSlowBody;
  connection.send(request.substr(0, head));
  for (size_t at = head; at < request.size() && transport.server().stats().timeouts == 0; at += piece) {
    connection.send(request.substr(at, piece));
    std::this_thread::sleep_for(pause);
  }
  return connection.read_reply();
}

// Bytes that come now and then keep a connection no longer than the rate allows.
TEST(Transport, ABodyThatComesTooSlowlyIsRefused) {
  HttpLimits limits;
  limits.body_grace = milliseconds(300), limits.body_rate = 1000;
  Transport transport(answer_ok, limits);
  const auto begin = Clock::now();
  const Reply refused = send_slowly(transport, 1, milliseconds(10));  // at most 100 bytes a second
  EXPECT_EQ(refused.status, 408);
  EXPECT_NE(refused.body.find("and at least 1000 a second must come behind the first 0.3 s (--min-body-rate)"),
            std::string::npos)
      << refused.body;
  EXPECT_GE(Clock::now() - begin, milliseconds(300));
  EXPECT_LT(Clock::now() - begin, milliseconds(10'000)) << "--body-timeout is 60 s";
}

// A body of which enough comes has --body-timeout, and without a lowest rate all have.
TEST(Transport, ABodyThatComesSlowlyButFastEnoughIsTaken) {
  HttpLimits limits;
  limits.body_grace = milliseconds(300), limits.body_rate = 1000;
  const auto begin = Clock::now();
  {
    Transport transport(answer_ok, limits);
    EXPECT_EQ(send_slowly(transport, 100, milliseconds(20)).status, 200) << "some 5000 bytes a second";
    EXPECT_GT(Clock::now() - begin, milliseconds(900)) << "the first 0.3 s are over";
  }
  limits.body_rate = 0;
  Transport transport(answer_ok, limits);
  EXPECT_EQ(send_slowly(transport, 10, milliseconds(2)).status, 200);
  limits.body = milliseconds(300);
  Transport hasty(answer_ok, limits);
  const Reply refused = send_slowly(hasty, 1, milliseconds(10));
  EXPECT_EQ(refused.status, 408);
  EXPECT_NE(refused.body.find("(--body-timeout)"), std::string::npos) << refused.body;
}

}  // namespace
}  // namespace weft
