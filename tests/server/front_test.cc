// The front of several servers over real sockets: with servers whose engine has no model, and with ones that send the
// bytes that a test wants.
#include <gtest/gtest.h>

#include <atomic>

#include "http_client.h"
#include "orchestrate/front.h"
#include "server/context_servers.h"
#include "stub_server.h"

namespace weft {
namespace {

using std::chrono::milliseconds;

ServerEntry entry(int port, std::optional<ServerRole> role = std::nullopt) { return {{"127.0.0.1", port, ""}, role}; }
std::string url(int port) { return "http://127.0.0.1:" + std::to_string(port); }

// A front with its thread.
class TestFront {
 public:
  explicit TestFront(std::vector<ServerEntry> entries, FrontOptions options = {}) {
    options.port = 0, options.watch.interval = milliseconds(30);
    auto front = Front::listen(std::move(options));
    EXPECT_TRUE(front.ok());
    front_ = std::move(front).value();
    front_->servers().set_members(std::move(entries));
    thread_ = std::thread([this] { front_->run(); });
  }
  ~TestFront() {
    front_->stop();
    thread_.join();
  }
  Front& front() { return *front_; }
  int port() const { return front_->port(); }
  Reply ask(const std::string& request) const {
    Connection connection(port());
    connection.send(request);
    return connection.read_reply();
  }
  // Waits until so many servers are up.
  bool wait_for(int count) const {
    return TestServer::eventually([&] {
      int up = 0;
      for (const ServerStatus& server : front_->servers().status()) up += server.state == ServerState::up;
      return up == count;
    });
  }
  ServerStatus status(size_t index) const { return front_->servers().status().at(index); }
  bool has_metric(const std::string& line) const {
    return ask(get("/metrics")).body.find(line + "\n") != std::string::npos;
  }

 private:
  std::unique_ptr<Front> front_;
  std::thread thread_;
};

const std::string kInfo =
    R"({"version":"1","instance":"i","role":"both","model":"tiny","generative":true,"identity":"fake",)"
    R"("tokens_per_block":4,"kv_cache_events":0,"transfer":null,)"
    R"("load":{"running":0,"waiting":0,"kv_used":0,"kv_total":1}})";

// A server that says it is up, and has a script for all else.
class Upstream {
 public:
  explicit Upstream(StubServer::Script script)
      : stub_([this, script](const std::string& head, const std::string& body) {
          if (head.starts_with("GET /server_info ")) return stub_answer(kInfo, alive_ ? 200 : 503);
          ++calls_;
          return script(head, body);
        }) {}
  int port() const { return stub_.port(); }
  int calls() const { return calls_; }  // besides those of the front's own
  int left() const { return stub_.left(); }
  void set_alive(bool alive) { alive_ = alive; }

 private:
  std::atomic<int> calls_{0};
  std::atomic<bool> alive_{true};
  StubServer stub_;
};

std::string completion(const std::string& members = "", const std::string& headers = {}) {
  return post("/v1/completions", "{\"prompt\":\"abcdefgh\",\"max_tokens\":3" + members + "}", headers);
}

std::string chunk(const std::string& data) {
  char size[20];
  std::snprintf(size, sizeof size, "%zx\r\n", data.size());
  return size + data + "\r\n";
}
const std::string kStreamHead =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n";

// ---- answers come back as they were

TEST(Front, StreamsAreTheSameBytes) {
  const std::vector<std::string> events = {"data: {\"a\": \"\xc3\xa9\"}\n\n", ": ping\n\n",
                                           "data: {\"b\": 1}\n\ndata: 2\n\n", "data: [DONE]\n\n",
                                           "rest without an end"};
  std::string all;
  StubAnswer answer{{kStreamHead}, milliseconds(3)};
  for (const std::string& event : events) {
    all += event;
    const std::string bytes = chunk(event);
    for (size_t at = 0; at < bytes.size(); at += 7) answer.pieces.push_back(bytes.substr(at, 7));  // across all borders
  }
  answer.pieces.emplace_back("0\r\n\r\n");
  Upstream server([&](auto&, auto&) { return answer; });
  TestFront front({entry(server.port())});
  ASSERT_TRUE(front.wait_for(1));
  for (int i = 0; i < 2; ++i) {
    const Reply reply = front.ask(completion(",\"stream\":true"));
    EXPECT_EQ(reply.status, 200);
    EXPECT_TRUE(reply.has_header("Content-Type: text/event-stream"));
    EXPECT_EQ(reply.body, all);
  }
  EXPECT_EQ(front.status(0).in_flight, 0);
  EXPECT_TRUE(front.has_metric("weft_http_requests_total{path=\"/v1/completions\",status=\"200\"} 2"));
  EXPECT_TRUE(front.has_metric("weft_front_first_byte_seconds_count 2"));
}

// An event is with the client before the next one exists.
TEST(Front, EventsComeAtOnce) {
  Upstream server(
      [&](auto&, auto&) { return StubAnswer{{kStreamHead + chunk("data: 1\n\n")}, milliseconds(0), true}; });
  TestFront front({entry(server.port())});
  ASSERT_TRUE(front.wait_for(1));
  Connection client(front.port());
  client.send(completion(",\"stream\":true"));
  EXPECT_NE(client.read_bytes(180).find("data: 1\n\n"), std::string::npos);
  EXPECT_EQ(server.left(), 0);
  client.close();
  EXPECT_TRUE(TestServer::eventually([&] { return server.left() == 1; })) << "and its leaving is passed on";
  EXPECT_TRUE(TestServer::eventually([&] { return front.status(0).in_flight == 0; }));
}

TEST(Front, WholeAnswersAndErrorsKeepStatusHeadersAndBody) {
  const std::string body = "{\"error\": \"\xff any bytes\"}";
  Upstream server([&](const std::string& head, auto&) {
    const int status = std::stoi(head.substr(head.find("?status=") + 8));
    return stub_answer(body, status, "Retry-After: 7\r\nX-Own: yes\r\nConnection: keep-alive\r\nServer: stub\r\n");
  });
  FrontOptions options;
  options.passage.max_retries = 0;
  TestFront front({entry(server.port())}, options);
  ASSERT_TRUE(front.wait_for(1));
  for (const int status : {200, 201, 400, 403, 404, 418, 429, 500, 503}) {
    const Reply reply = front.ask(post("/v1/completions?status=" + std::to_string(status), "{}"));
    EXPECT_EQ(reply.status, status);
    EXPECT_EQ(reply.body, body);
    EXPECT_TRUE(reply.has_header("Retry-After: 7\n"));
    EXPECT_TRUE(reply.has_header("X-Own: yes\n"));
    EXPECT_TRUE(reply.has_header("Server: weft\n"));
    EXPECT_FALSE(reply.has_header("stub"));
  }
}

TEST(Front, EveryCallOfAServer) {
  TestServer server;
  TestFront front({entry(server.port())});
  ASSERT_TRUE(front.wait_for(1));
  const auto same = [&](const std::string& request) {
    const Reply direct = server.ask(request), through = front.ask(request);
    EXPECT_EQ(through.status, direct.status) << request;
    EXPECT_EQ(through.body, direct.body);
  };
  same(get("/v1/models"));
  same(get("/v1/models/tiny"));
  same(get("/v1/models/no%2Fsuch%20model"));
  for (const char* path : {"/tokenize", "/v1/tokenize"}) same(post(path, R"({"prompt":"hi"})"));
  for (const char* path : {"/detokenize", "/v1/detokenize"}) same(post(path, R"({"tokens":[104,105]})"));
  for (const char* path : {"/classify", "/v1/classify", "/score", "/v1/score", "/v1/reward"})
    same(post(path, R"({"input":"a"})"));
  same(post("/v1/completions", "{"));
  same(post("/v1/completions", R"({"prompt":"a","top_p":7})"));
  same(post("/v1/chat/completions", R"({"messages":[],"model":"other"})"));
  Connection head(front.port());
  head.send("HEAD /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  const std::string bytes = head.read_bytes(1'000'000);
  EXPECT_TRUE(bytes.starts_with("HTTP/1.1 200 OK\r\n"));
  EXPECT_TRUE(bytes.ends_with("\r\n\r\n")) << "no body";
  const Reply chat =
      front.ask(post("/v1/chat/completions", R"({"messages":[{"role":"user","content":"a"}],"max_tokens":2})"));
  EXPECT_EQ(chat.status, 200);
  EXPECT_EQ(chat.json().find("choices")->items()[0].find("message")->find("content")->as_string(), "us");
  EXPECT_EQ(front.ask(get("/v1/completions")).status, 405);
  EXPECT_EQ(front.ask(post("/server_info", "")).status, 404) << "a server's own affair";
}

// ---- what goes to the servers

TEST(Front, HeadersOfServersAreTheFrontsOwn) {
  std::mutex mutex;
  std::string seen, body_seen;
  Upstream server([&](const std::string& head, const std::string& body) {
    const std::lock_guard lock(mutex);
    seen = head, body_seen = body;
    return stub_answer("{}");
  });
  FrontOptions options;
  options.api_key = "front", options.server_api_key = "inner";
  TestFront front({entry(server.port())}, options);
  ASSERT_TRUE(front.wait_for(1));
  EXPECT_EQ(front.ask(completion()).status, 401);
  EXPECT_EQ(front.ask(completion("", "Authorization: Bearer inner\r\n")).status, 401);
  EXPECT_EQ(front.ask(get("/cluster_info")).status, 401);
  EXPECT_EQ(server.calls(), 0);
  EXPECT_EQ(front
                .ask(completion(",\"x\":\"\u00e9\"",
                                "x-api-key: front\r\nAuthorization: Bearer front\r\nWeft-Context-Servers: "
                                "127.0.0.1:1\r\nWEFT-Context-Proof: aa\r\nCookie: c\r\nX-Request-Id: r7\r\n"))
                .status,
            200);
  const std::lock_guard lock(mutex);
  EXPECT_NE(seen.find("POST /v1/completions HTTP/1.1\r\n"), std::string::npos);
  EXPECT_NE(seen.find("Authorization: Bearer inner\r\n"), std::string::npos);
  EXPECT_NE(seen.find("content-type: application/json\r\n"), std::string::npos) << seen;
  EXPECT_NE(seen.find("x-request-id: r7\r\n"), std::string::npos);
  for (const char* absent : {"front\r\n", "eft-", "EFT-", "ookie", "api-key"})
    EXPECT_EQ(seen.find(absent), std::string::npos) << absent << "\n" << seen;
  EXPECT_EQ(body_seen, "{\"prompt\":\"abcdefgh\",\"max_tokens\":3,\"x\":\"\u00e9\"}");
}

TEST(Front, ContextServersAreNamedWithProof) {
  FakeOptions context;
  context.transfer = "10.0.0.1:71";
  EngineOptions role;
  role.role = ServerRole::context, role.kv_transfer_secret = "secret";
  TestServer first(context, {}, true, role);
  context.transfer = "10.0.0.2:72";
  TestServer second(context, {}, true, role);
  role.role = ServerRole::generation;
  TestServer generation({}, {}, true, role);
  FrontOptions options;
  options.passage.transfer_secret = "secret", options.context_router = RouterKind::round_robin;
  TestFront front({entry(first.port(), ServerRole::context), entry(second.port()), entry(generation.port())}, options);
  ASSERT_TRUE(front.wait_for(3));
  std::set<std::vector<std::string>> seen;
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(front.ask(completion()).status, 200);
    seen.insert(generation.engine().last_context_servers());
  }
  EXPECT_EQ(seen, (std::set<std::vector<std::string>>{{"10.0.0.1:71", "10.0.0.2:72"}, {"10.0.0.2:72", "10.0.0.1:71"}}));
  front.front().servers().set_members({entry(second.port()), entry(generation.port())});
  EXPECT_EQ(front.ask(completion()).status, 200);
  EXPECT_EQ(generation.engine().last_context_servers(), std::vector<std::string>{"10.0.0.2:72"});
  front.front().servers().set_members({entry(generation.port())});
  EXPECT_EQ(front.ask(completion()).status, 200);
  EXPECT_TRUE(generation.engine().last_context_servers().empty());
}

// ---- servers that fail

TEST(Front, ARefusedConnectionIsAnotherServersRequest) {
  TestServer server;
  auto gone = std::make_unique<Upstream>([](auto&, auto&) { return stub_answer("{}"); });
  const int port = gone->port();
  FrontOptions options;
  options.generation_router = RouterKind::round_robin;
  TestFront front({entry(port), entry(server.port())}, options);
  ASSERT_TRUE(front.wait_for(2));
  gone.reset();
  for (int i = 0; i < 4; ++i) EXPECT_EQ(front.ask(completion()).status, 200);
  EXPECT_TRUE(front.wait_for(1));
  EXPECT_EQ(front.status(0).reason, "it cannot be reached: Connection refused");
}

TEST(Front, AConnectionThatBreaksEarlyIsAnotherServersRequest) {
  const std::string half = kStreamHead + chunk("data: {\"never");
  for (const std::string& bytes : {std::string(), std::string("HTTP/1.1 200 OK\r\nContent-Le"), half,
                                   std::string("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"half\"")}) {
    Upstream bad([&](auto&, auto&) { return StubAnswer{{bytes}, milliseconds(0), false, true}; });
    Upstream good([&](auto&, auto&) { return stub_answer("{\"good\":1}"); });
    FrontOptions options;
    options.generation_router = RouterKind::round_robin;
    TestFront front({entry(bad.port()), entry(good.port())}, options);
    ASSERT_TRUE(front.wait_for(2));
    for (int i = 0; bad.calls() == 0; ++i) {
      ASSERT_LT(i, 10);
      EXPECT_EQ(front.ask(completion()).body, "{\"good\":1}");
    }
    EXPECT_GE(front.status(0).failures, 1u);
    EXPECT_TRUE(TestServer::eventually([&] { return front.has_metric("weft_front_retries_total 1"); }));
    ASSERT_TRUE(front.wait_for(2)) << "it answers how it is, so it gets requests again";
  }
}

TEST(Front, BusyServersAreLeftForOthers) {
  for (const int status : {429, 503}) {
    Upstream busy([&](auto&, auto&) { return stub_answer("{\"busy\":1}", status, "Retry-After: 1\r\n"); });
    Upstream good([&](auto&, auto&) { return stub_answer("{\"good\":1}"); });
    FrontOptions options;
    options.generation_router = RouterKind::round_robin;
    TestFront front({entry(busy.port()), entry(good.port())}, options);
    ASSERT_TRUE(front.wait_for(2));
    for (int i = 0; i < 4; ++i) EXPECT_EQ(front.ask(completion()).body, "{\"good\":1}");
    EXPECT_EQ(busy.calls(), 2);
    front.front().servers().set_members({entry(busy.port())});
    const Reply reply = front.ask(completion());
    EXPECT_EQ(reply.status, status) << "there is no other";
    EXPECT_EQ(reply.body, "{\"busy\":1}");
  }
}

TEST(Front, ABreakInTheMiddleIsAnEvent) {
  Upstream server([&](auto&, auto&) {
    return StubAnswer{{kStreamHead + chunk("data: 1\n\n") + chunk("data: 2")}, milliseconds(0), false, true};
  });
  TestServer other;
  FrontOptions options;
  options.generation_router = RouterKind::round_robin;
  TestFront front({entry(server.port()), entry(other.port())}, options);
  ASSERT_TRUE(front.wait_for(2));
  Reply reply;
  for (int i = 0; server.calls() == 0; ++i) {
    ASSERT_LT(i, 10);
    reply = front.ask(completion(",\"stream\":true"));
  }
  EXPECT_EQ(reply.body, "data: 1\n\ndata: {\"error\":{\"message\":\"the server " + url(server.port()) +
                            " did not end its answer (the connection ended before the answer)\",\"type\":"
                            "\"server_error\",\"param\":null,\"code\":null}}\n\ndata: [DONE]\n\n");
}

TEST(Front, NobodyIsLeft) {
  Upstream a([&](auto&, auto&) { return StubAnswer{{}, milliseconds(0), false, true}; });
  Upstream b([&](auto&, auto&) { return StubAnswer{{}, milliseconds(0), false, true}; });
  FrontOptions options;
  options.passage.max_retries = 5;
  TestFront front({entry(a.port()), entry(b.port())}, options);
  ASSERT_TRUE(front.wait_for(2));
  const Reply reply = front.ask(completion());
  EXPECT_EQ(reply.status, 502);
  EXPECT_GE(a.calls(), 1);  // one more where a connection at rest was used first
  EXPECT_GE(b.calls(), 1);
  EXPECT_NE(reply.body.find("did not answer (the connection ended before the answer), and 1 before it"),
            std::string::npos);
  a.set_alive(false), b.set_alive(false);
  Reply none;
  EXPECT_TRUE(TestServer::eventually([&] {
    none = front.ask(completion());
    return none.body.find(url(a.port()) + ": down (/server_info answered with status 503") != std::string::npos;
  }));
  EXPECT_EQ(none.status, 503);
  EXPECT_TRUE(none.has_header("Retry-After: "));
  EXPECT_EQ(front.ask(get("/ready")).status, 503);
  EXPECT_EQ(front.ask(get("/health")).status, 200);
  a.set_alive(true);
  ASSERT_TRUE(front.wait_for(1)) << "it comes back by itself";
  EXPECT_EQ(front.ask(get("/ready")).status, 200);
}

TEST(Front, TimeLimits) {
  Upstream silent([&](auto&, auto&) { return StubAnswer{{}, milliseconds(0), true}; });
  Upstream good([&](auto&, auto&) { return stub_answer("{\"good\":1}"); });
  FrontOptions options;
  options.generation_router = RouterKind::round_robin;
  options.passage.first_byte_timeout = milliseconds(150);
  {
    TestFront front({entry(silent.port()), entry(good.port())}, options);
    ASSERT_TRUE(front.wait_for(2));
    for (int i = 0; i < 3; ++i) EXPECT_EQ(front.ask(completion()).body, "{\"good\":1}");
    EXPECT_TRUE(front.wait_for(2)) << "being slow is not being down";
    EXPECT_GE(front.status(0).failures, 1u);
    EXPECT_TRUE(TestServer::eventually([&] { return silent.left() >= 1; }));
  }
  options.passage.first_byte_timeout = milliseconds(0), options.passage.request_timeout = milliseconds(200);
  TestFront front({entry(silent.port())}, options);
  ASSERT_TRUE(front.wait_for(1));
  const Reply reply = front.ask(completion());
  EXPECT_EQ(reply.status, 504);
  EXPECT_NE(reply.body.find("no answer within 0.2 s"), std::string::npos) << reply.body;
}

TEST(Front, CancellationEndsTheRequestInTheEngine) {
  FakeOptions slow;
  slow.step = milliseconds(20), slow.context = 100'000;
  TestServer server(slow);
  TestFront front({entry(server.port())});
  ASSERT_TRUE(front.wait_for(1));
  for (const char* stream : {"true", "false"}) {
    Connection client(front.port());
    client.send(post("/v1/completions", std::string(R"({"prompt":"abc","max_tokens":50000,"stream":)") + stream + "}"));
    ASSERT_TRUE(TestServer::eventually([&] { return server.engine().metrics().core.scheduler.running == 1; }));
    client.close();
    EXPECT_TRUE(TestServer::eventually([&] { return server.engine().metrics().core.scheduler.running == 0; }));
  }
  EXPECT_EQ(server.engine().metrics().requests.cancelled, 2);
}

TEST(Front, AShutdownLetsAnswersFinish) {
  FakeOptions slow;
  slow.step = milliseconds(10);
  TestServer server(slow);
  auto front = std::make_unique<TestFront>(std::vector{entry(server.port())});
  ASSERT_TRUE(front->wait_for(1));
  Connection running(front->port());
  running.send(post("/v1/completions", R"({"prompt":"abc","max_tokens":60,"stream":true})"));
  running.read_bytes(10);
  front.reset();
  EXPECT_NE(running.read_bytes(1'000'000).find("[DONE]"), std::string::npos);
}

// A client that does not read ends with its stream, and so does the server's work for it.
TEST(Front, AClientThatDoesNotReadIsLeft) {
  StubAnswer endless{{kStreamHead}};
  for (int i = 0; i < 400; ++i) endless.pieces.push_back(chunk("data: " + std::string(65536, 'x') + "\n\n"));
  endless.wait_for_client = true;
  Upstream server([&](auto&, auto&) { return endless; });
  FrontOptions options;
  options.limits.unsent_bytes = 200'000, options.limits.write = milliseconds(300);
  TestFront front({entry(server.port())}, options);
  ASSERT_TRUE(front.wait_for(1));
  Connection client(front.port());
  client.small_receive_buffer();
  client.send(completion(",\"stream\":true"));
  EXPECT_TRUE(TestServer::eventually([&] { return server.calls() == 1 && front.status(0).requests == 1; }));
  EXPECT_TRUE(TestServer::eventually([&] { return front.status(0).in_flight == 0; }));
  client.reset();
}

// ---- choosing

TEST(Front, ServersOfAnotherModelAreNotUsed) {
  FakeOptions other;
  other.identity = "something else";
  TestServer a, b, stranger(other);
  TestFront front({entry(a.port()), entry(stranger.port()), entry(b.port())});
  ASSERT_TRUE(TestServer::eventually([&] { return front.status(1).state == ServerState::differs; }));
  ASSERT_TRUE(front.wait_for(2));
  for (int i = 0; i < 6; ++i) EXPECT_EQ(front.ask(completion()).status, 200);
  EXPECT_EQ(stranger.engine().metrics().requests.entered, 0);
  EXPECT_EQ(a.engine().metrics().requests.entered + b.engine().metrics().requests.entered, 6);
  const Json info = front.ask(get("/cluster_info")).json();
  const Json& server = info.find("servers")->items().at(1);
  EXPECT_EQ(server.find("state")->as_string(), "differs");
  EXPECT_NE(server.find("reason")->as_string().find("identity something el"), std::string::npos);
}

// A prompt goes where its beginning was computed, as the servers' events tell.
TEST(Front, PromptsGoWhereTheyAreCached) {
  EngineOptions engine;
  engine.tokens_per_block = 4, engine.kv_cache_events = 1000;
  TestServer a({}, {}, true, engine), b({}, {}, true, engine);
  FrontOptions options;
  options.generation_router = RouterKind::kv_cache_aware;
  TestFront front({entry(a.port()), entry(b.port())}, options);
  ASSERT_TRUE(front.wait_for(2));
  const auto ask = [&](const std::string& prompt) {
    EXPECT_EQ(front.ask(post("/v1/completions", R"({"max_tokens":1,"prompt":")" + prompt + "\"}")).status, 200);
  };
  const std::string first(80, 'x'), second(80, 'y');
  EXPECT_EQ(a.ask(post("/v1/completions", R"({"max_tokens":1,"prompt":")" + first + "\"}")).status, 200);
  EXPECT_EQ(b.ask(post("/v1/completions", R"({"max_tokens":1,"prompt":")" + second + "\"}")).status, 200);
  ASSERT_TRUE(TestServer::eventually(
      [&] { return front.status(0).cached_blocks == 20 && front.status(1).cached_blocks == 20; }));
  // The front knows that these two have ended: a request of others counts as more work than such a prompt.
  ASSERT_TRUE(TestServer::eventually([&] { return front.status(0).load + front.status(1).load == 0; }));
  for (int i = 0; i < 5; ++i) ask(second + std::to_string(i));
  EXPECT_EQ(b.engine().metrics().requests.entered, 6);
  for (int i = 0; i < 5; ++i) ask(first + std::to_string(i));
  EXPECT_EQ(a.engine().metrics().requests.entered, 6);
  EXPECT_TRUE(front.has_metric("weft_front_routed_prompts_total 10"));
  EXPECT_TRUE(front.has_metric("weft_front_routed_cached_tokens_total 800"));
}

TEST(Front, MetricsOfAllServers) {
  TestServer a, b;
  TestFront front({entry(a.port()), entry(b.port())});
  ASSERT_TRUE(front.wait_for(2));
  const Reply reply = front.ask(get("/metrics/servers"));
  EXPECT_TRUE(reply.has_header("Content-Type: text/plain"));
  for (const int port : {a.port(), b.port()})
    EXPECT_NE(reply.body.find("weft_num_requests_running{server=\"" + url(port) + "\"} 0\n"), std::string::npos);
  front.front().servers().set_members({});
  EXPECT_EQ(front.ask(get("/metrics/servers")).status, 200);
}

TEST(Front, RunningAnswersOfALeavingServerGoOn) {
  FakeOptions slow;
  slow.step = milliseconds(10);
  TestServer server(slow);
  TestFront front({entry(server.port())});
  ASSERT_TRUE(front.wait_for(1));
  Connection running(front.port());
  running.send(post("/v1/completions", R"({"prompt":"abc","max_tokens":60,"stream":true})", "Connection: close\r\n"));
  running.read_bytes(10);
  front.front().servers().set_members({});
  EXPECT_EQ(front.ask(completion()).status, 503);
  EXPECT_NE(running.read_bytes(1'000'000).find("[DONE]"), std::string::npos);
  EXPECT_EQ(server.engine().metrics().requests.finished, 1);
}

}  // namespace
}  // namespace weft
