// What one client cannot take from the others: with handlers that hang, an engine that does not get on, and pages of
// other origins. Times are upper bounds of waits, or limits that the test itself has set.
#include <gtest/gtest.h>

#include "http_client.h"

namespace weft {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

std::string chat(const std::string& content, const std::string& members = R"("max_tokens":2)") {
  return post("/v1/chat/completions",
              R"({"messages":[{"role":"user","content":")" + content + R"("}],)" + members + "}");
}

ServerOptions quick() {
  ServerOptions options;
  options.limits.tick = milliseconds(20);
  options.limits.handlers_per_client = 0;
  return options;
}

double metric(TestServer& server, const std::string& name) {
  const std::string text = "\n" + server.ask(get("/metrics")).body;
  const size_t at = text.find("\n" + name + " ");
  return at == std::string::npos ? -1 : std::stod(text.substr(at + name.size() + 2));
}

// Connections whose handlers hang, all of them.
std::vector<Connection> hang(TestServer& server, int count, bool looks) {
  server.engine().hang_at("hang", looks);
  std::vector<Connection> connections;
  for (int i = 0; i < count; ++i) {
    connections.emplace_back(server.port());
    connections.back().send(chat("hang"));
  }
  EXPECT_TRUE(TestServer::eventually([&] { return server.engine().hanging() == count; }));
  return connections;
}

TEST(Hardening, HealthAnswersWhileAllHandlersHang) {
  TestServer server({}, quick());
  std::vector<Connection> hanging = hang(server, HttpLimits().handlers, false);
  Connection waiting(server.port());
  waiting.send(chat("hi"));
  for (const char* path : {"/health", "/ready", "/version", "/metrics", "/server_info", "/v1/models", "/nowhere"}) {
    const auto begin = Clock::now();
    EXPECT_EQ(server.ask(get(path)).status, path == std::string("/nowhere") ? 404 : 200) << path;
    EXPECT_LT(Clock::now() - begin, std::chrono::seconds(2)) << path;
  }
  EXPECT_EQ(metric(server, "weft_http_handlers_running"), HttpLimits().handlers);
  EXPECT_EQ(metric(server, "weft_http_requests_queued"), 1);
  server.engine().let_go();
  EXPECT_EQ(waiting.read_reply().status, 200);
  for (Connection& connection : hanging) EXPECT_EQ(connection.read_reply().status, 200);
}

// Whoever has as many handlers as a client may have waits, though a thread is free; the others do not.
TEST(Hardening, AClientLeavesAThreadToTheOthers) {
  ServerOptions options = quick();
  options.limits.handlers = 3, options.limits.handlers_per_client = 2;
  TestServer server({}, options);
  std::vector<Connection> hanging = hang(server, 2, false);
  Connection waiting(server.port());
  waiting.send(chat("hi"));
  EXPECT_TRUE(TestServer::eventually([&] { return metric(server, "weft_http_requests_queued") == 1; }));
  EXPECT_EQ(metric(server, "weft_http_handlers_running"), 2);
  server.engine().let_go();
  EXPECT_EQ(waiting.read_reply().status, 200);
  for (Connection& connection : hanging) EXPECT_EQ(connection.read_reply().status, 200);
}

TEST(Hardening, AHandlerThatHasHadItsTimeStops) {
  ServerOptions options = quick();
  options.limits.handler = milliseconds(100);
  TestServer server({}, options);
  server.engine().hang_at("hang", true);
  const Reply reply = server.ask(chat("hang"));
  EXPECT_EQ(reply.status, 503);
  EXPECT_NE(reply.body.find("took longer to prepare than this server allows"), std::string::npos) << reply.body;
  EXPECT_TRUE(TestServer::eventually([&] { return server.engine().hanging() == 0; }));
  EXPECT_EQ(server.ask(chat("hi")).status, 200);
  EXPECT_EQ(metric(server, "weft_http_handlers_overdue_total"), 1);
  EXPECT_EQ(metric(server, "weft_http_handlers_replaced"), 0);
}

// Handlers that do not look at the flag are given up, and other threads take their place.
TEST(Hardening, HandlersThatDoNotStopAreReplaced) {
  ServerOptions options = quick();
  options.limits.handler = milliseconds(100);
  options.limits.handlers = 2;
  TestServer server({}, options);
  std::vector<Connection> hanging = hang(server, 2, false);
  for (Connection& connection : hanging) {
    const Reply reply = connection.read_reply();
    EXPECT_EQ(reply.status, 503);
    EXPECT_NE(reply.body.find("0.1 s (--handler-timeout)"), std::string::npos) << reply.body;
  }
  for (int i = 0; i < 5; ++i) EXPECT_EQ(server.ask(chat("hi")).status, 200);
  EXPECT_EQ(server.engine().hanging(), 2);
  EXPECT_EQ(metric(server, "weft_http_handlers_replaced"), 2);
  server.engine().let_go();
  EXPECT_TRUE(TestServer::eventually([&] { return metric(server, "weft_http_handlers_replaced") == 0; }));
  EXPECT_EQ(server.ask(chat("hi")).status, 200);
  EXPECT_EQ(server.engine().metrics().requests.entered, 8) << "the late ones enter, and are cancelled";
}

// Nobody waits for ever, even where more handlers hang than are replaced.
TEST(Hardening, ARequestThatNoHandlerLooksAtIsRefused) {
  ServerOptions options = quick();
  options.limits.handler = milliseconds(100);
  options.limits.handlers = 1;
  TestServer server({}, options);
  std::vector<Connection> hanging = hang(server, 1, false);
  EXPECT_EQ(hanging[0].read_reply().status, 503);
  Connection second(server.port());
  second.send(chat("hang"));
  ASSERT_TRUE(TestServer::eventually([&] { return server.engine().hanging() == 2; }));
  const Reply reply = server.ask(chat("hi"));
  EXPECT_EQ(reply.status, 503);
  EXPECT_NE(reply.body.find("too busy to look at the request within 0.1 s"), std::string::npos) << reply.body;
  EXPECT_EQ(server.ask(get("/health")).status, 200);
  server.engine().let_go();
  EXPECT_TRUE(TestServer::eventually([&] { return server.ask(chat("hi")).status == 200; }));
}

TEST(Hardening, TheQueueForHandlersIsBounded) {
  ServerOptions options = quick();
  options.limits.handlers = 1, options.limits.queued = 2;
  TestServer server({}, options);
  std::vector<Connection> hanging = hang(server, 1, false);
  std::vector<Connection> waiting;
  for (int i = 0; i < 2; ++i) {
    waiting.emplace_back(server.port());
    waiting.back().send(chat("hi"));
  }
  ASSERT_TRUE(TestServer::eventually([&] { return metric(server, "weft_http_requests_queued") == 2; }));
  const Reply reply = server.ask(chat("hi"));
  EXPECT_EQ(reply.status, 503);
  EXPECT_TRUE(reply.has_header("Retry-After: "));
  EXPECT_NE(reply.body.find("2 requests wait to be looked at"), std::string::npos) << reply.body;
  // One whose client has left makes room.
  waiting[0].reset();
  EXPECT_TRUE(TestServer::eventually([&] {
    Connection another(server.port());
    another.send(chat("hi"));
    server.engine().let_go();
    return another.read_reply().status == 200;
  }));
  EXPECT_EQ(waiting[1].read_reply().status, 200);
}

TEST(Hardening, NothingIsPreparedForAClientThatHasLeft) {
  ServerOptions options = quick();
  options.limits.handlers = 1;
  TestServer server({}, options);
  std::vector<Connection> hanging = hang(server, 1, true);
  const int before = server.engine().tokenized();
  {
    Connection waiting(server.port());
    waiting.send(chat("hi"));
    ASSERT_TRUE(TestServer::eventually([&] { return metric(server, "weft_http_requests_queued") == 1; }));
    waiting.reset();
  }
  ASSERT_TRUE(TestServer::eventually([&] { return metric(server, "weft_http_connections") == 2; }));
  hanging[0].reset();  // the handler that runs stops, too
  EXPECT_TRUE(TestServer::eventually([&] { return server.engine().hanging() == 0; }));
  EXPECT_TRUE(TestServer::eventually([&] { return metric(server, "weft_http_requests_queued") == 0; }));
  EXPECT_EQ(server.engine().tokenized(), before);
  EXPECT_EQ(server.engine().metrics().requests.entered, 0);
}

TEST(Hardening, TheEndStopsHandlers) {
  ServerOptions options = quick();
  options.limits.drain = milliseconds(50);
  TestServer server({}, options);
  std::vector<Connection> hanging = hang(server, 2, true);
  server.server().stop();
  for (Connection& connection : hanging) EXPECT_EQ(connection.read_reply().status, 503);
  EXPECT_TRUE(TestServer::eventually([&] { return server.ended(); }));
}

// ---- the watchdog

TEST(Hardening, AnEngineThatDoesNotGetOnIsNotHealthy) {
  ServerOptions options = quick();
  options.watchdog_s = 0.2;
  TestServer server({}, options);
  std::this_thread::sleep_for(milliseconds(300));
  EXPECT_EQ(server.ask(get("/health")).status, 200) << "idle is not stuck";
  server.engine().hold();
  Connection connection(server.port());
  connection.send(chat("hi"));
  for (const char* path : {"/health", "/ready"}) {
    EXPECT_TRUE(TestServer::eventually([&] { return server.ask(get(path)).status == 503; })) << path;
    const Reply reply = server.ask(get(path));
    EXPECT_NE(reply.body.find("while it has 1 sequences (--watchdog 0.2)"), std::string::npos) << reply.body;
  }
  EXPECT_GT(metric(server, "weft_engine_stalled_seconds"), 0.2);
  server.engine().release();
  EXPECT_EQ(connection.read_reply().status, 200);
  EXPECT_EQ(server.ask(get("/health")).status, 200);
  EXPECT_EQ(metric(server, "weft_engine_stalled_seconds"), 0);
}

TEST(Hardening, TheWatchdogCanBeOff) {
  ServerOptions options = quick();
  options.watchdog_s = 0;
  TestServer server({}, options);
  server.engine().hold();
  Connection connection(server.port());
  connection.send(chat("hi"));
  ASSERT_TRUE(TestServer::eventually([&] { return metric(server, "weft_engine_stalled_seconds") > 0.1; }));
  EXPECT_EQ(server.ask(get("/health")).status, 200);
  server.engine().release();
  EXPECT_EQ(connection.read_reply().status, 200);
}

// ---- keys, hosts, origins

TEST(Hardening, MetricsNeedTheKey) {
  ServerOptions options;
  options.api_key = "secret";
  TestServer server({}, options);
  EXPECT_EQ(server.ask(get("/metrics")).status, 401);
  EXPECT_EQ(server.ask(get("/metrics", "Authorization: Bearer secret\r\n")).status, 200);
  options.metrics_without_key = true;
  TestServer open({}, options);
  EXPECT_EQ(open.ask(get("/metrics")).status, 200);
  EXPECT_EQ(open.ask(get("/v1/models")).status, 401);
}

// Nobody without the key makes the server read a body.
TEST(Hardening, ARequestWithoutKeyIsRefusedBeforeItsBody) {
  ServerOptions options;
  options.api_key = "secret";
  TestServer server({}, options);
  Connection connection(server.port());
  connection.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n");
  EXPECT_EQ(connection.read_reply().status, 401);
}

std::string with_host(const std::string& host, const std::string& more = "") {
  return "POST /v1/completions HTTP/1.1\r\nHost: " + host + "\r\nContent-Length: 30\r\n" + more +
         "\r\n{\"prompt\":\"ab\",\"max_tokens\":1}";
}

TEST(Hardening, OtherNamesAndPagesAreRefused) {
  TestServer server;
  const std::string own = "localhost:" + std::to_string(server.port());
  EXPECT_EQ(server.ask(with_host(own)).status, 200) << "curl without a type";
  const Reply host = server.ask(with_host("evil.example.com"));
  EXPECT_EQ(host.status, 403);
  EXPECT_NE(host.body.find("--allowed-hosts evil.example.com"), std::string::npos) << host.body;
  const std::string json = "Content-Type: application/json\r\n";
  EXPECT_EQ(server.ask(with_host(own, json + "Origin: http://evil.example.com\r\n")).status, 403);
  EXPECT_EQ(server.ask(with_host(own, json + "Origin: http://" + own + "\r\n")).status, 200);
  EXPECT_EQ(server.ask(with_host(own, "Content-Type: text/plain\r\nOrigin: http://" + own + "\r\n")).status, 415);
  EXPECT_EQ(server.ask(with_host(own, "Sec-Fetch-Site: same-origin\r\n")).status, 415);
  EXPECT_EQ(server.engine().metrics().requests.entered, 2);
}

TEST(Hardening, AllowedPagesGetTheirHeaders) {
  ServerOptions options;
  options.cors_origins = {"https://app.example.org"};
  TestServer server({}, options);
  const std::string origin = "Origin: https://app.example.org\r\n";
  const Reply before = server.ask("OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: x\r\n" + origin +
                                  "Access-Control-Request-Method: POST\r\n"
                                  "Access-Control-Request-Headers: content-type\r\nConnection: close\r\n\r\n");
  EXPECT_EQ(before.status, 204);
  EXPECT_TRUE(before.has_header("Access-Control-Allow-Headers: content-type"));
  const std::string allow = "Access-Control-Allow-Origin: https://app.example.org";
  EXPECT_TRUE(before.has_header(allow));
  for (const char* body : {R"({"prompt":"ab","max_tokens":1})", R"({"prompt":"ab","max_tokens":1,"stream":true})",
                           R"({"prompt":"ab","max_tokens":"x"})"})
    EXPECT_TRUE(server.ask(post("/v1/completions", body, origin)).has_header(allow)) << body;
  EXPECT_TRUE(server.ask(post("/nowhere", "{}", origin)).has_header(allow));
}

}  // namespace
}  // namespace weft
