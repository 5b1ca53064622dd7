// The transport's contract: errors, limits, disconnects, back pressure, shutdown. Times are only ever upper bounds of
// waits.
#include <gtest/gtest.h>

#include "http_client.h"

namespace weft {
namespace {

using std::chrono::milliseconds;

const std::string kHi = R"("model":"tiny","messages":[{"role":"user","content":"hi"}])";
std::string chat(const std::string& members) {
  return post("/v1/chat/completions", "{" + kHi + (members.empty() ? "" : ",") + members + "}");
}

FakeOptions slow() {
  FakeOptions fake;
  fake.step = milliseconds(20);
  fake.context = 100'000;
  return fake;
}

// Ranks in other processes are lost.
TEST(Server, AnEngineThatCannotComputeIsNotHealthy) {
  TestServer server;
  EXPECT_EQ(server.ask(get("/health")).status, 200);
  EXPECT_EQ(server.ask(get("/ready")).status, 200);
  server.engine().lose_ranks("nothing heard from rank 1");
  for (const char* path : {"/health", "/ready"}) {
    const Reply reply = server.ask(get(path));
    EXPECT_EQ(reply.status, 503);
    EXPECT_NE(reply.body.find("nothing heard from rank 1"), std::string::npos) << reply.body;
  }
}

EngineOptions with_loading() {
  EngineOptions options;
  options.lora.allow_loading = true;
  return options;
}

TEST(Server, AdaptersAreLoadedListedChosenAndUnloaded) {
  TestServer server({}, {}, true, with_loading());
  const auto load = [&](const char* body) { return server.ask(post("/v1/load_lora_adapter", body)); };
  EXPECT_EQ(load(R"({"lora_name": "law", "lora_path": "/adapters/law"})").status, 200);
  EXPECT_EQ(load(R"({"lora_name": "law", "lora_path": "/adapters/law"})").status, 400);
  EXPECT_EQ(load(R"({"lora_name": "tiny", "lora_path": "/adapters/tiny"})").status, 400);  // the model's name
  EXPECT_EQ(load(R"({"lora_name": "x", "lora_path": "/elsewhere"})").status, 404);
  EXPECT_EQ(load(R"({"lora_name": "x"})").status, 400);
  EXPECT_EQ(load(R"({"lora_path": "/adapters/law", "lora_name": 3})").status, 400);

  const Reply list = server.ask(get("/v1/models"));
  const Json models = list.json();
  ASSERT_EQ(models.find("data")->items().size(), 2u) << list.body;
  const Json& card = models.find("data")->items()[1];
  EXPECT_EQ(card.find("id")->as_string(), "law");
  EXPECT_EQ(card.find("parent")->as_string(), "tiny");
  EXPECT_EQ(list.body.find("/adapters"), std::string::npos);  // where it lies is nobody's business
  EXPECT_EQ(server.ask(get("/v1/models/law")).json().find("id")->as_string(), "law");

  const std::string messages = R"("messages":[{"role":"user","content":"hi"}],"max_tokens":2})";
  const Reply by_model = server.ask(post("/v1/chat/completions", R"({"model":"law",)" + messages));
  EXPECT_EQ(by_model.status, 200) << by_model.body;
  EXPECT_EQ(by_model.json().find("model")->as_string(), "law");
  EXPECT_EQ(server.engine().last_lora(), "law");
  EXPECT_EQ(server.ask(post("/v1/chat/completions", R"({"model":"tiny",)" + messages)).status, 200);
  EXPECT_EQ(server.engine().last_lora(), "");
  EXPECT_EQ(server.ask(post("/v1/chat/completions", R"({"model":"tiny","lora":"law",)" + messages)).status, 200);
  EXPECT_EQ(server.engine().last_lora(), "law");
  EXPECT_EQ(server.ask(post("/v1/chat/completions", R"({"model":"law","lora":"other",)" + messages)).status, 400);

  EXPECT_EQ(server.ask(post("/v1/unload_lora_adapter", R"({"lora_name": "law"})")).status, 200);
  EXPECT_EQ(server.ask(post("/v1/unload_lora_adapter", R"({"lora_name": "law"})")).status, 404);
  EXPECT_EQ(server.ask(post("/v1/chat/completions", R"({"model":"law",)" + messages)).status, 404);
}

TEST(Server, AdaptersAreNotLoadedUnlessThatIsAllowed) {
  TestServer server;
  const Reply reply = server.ask(post("/v1/load_lora_adapter", R"({"lora_name": "a", "lora_path": "/adapters/a"})"));
  EXPECT_EQ(reply.status, 400) << reply.body;
  EXPECT_EQ(server.ask(post("/v1/unload_lora_adapter", R"({"lora_name": "a"})")).status, 400);
}

TEST(Server, ErrorsAreObjects) {
  TestServer server;
  struct Row {
    std::string request;
    int status;
    const char* param;
  };
  for (const Row& row : std::initializer_list<Row>{
           {chat(R"("temperature":3)"), 400, "temperature"},
           {chat(R"("max_tokens":"4")"), 400, "max_tokens"},
           {post("/v1/chat/completions", "{"), 400, nullptr},
           {post("/v1/chat/completions", ""), 400, nullptr},
           {post("/v1/chat/completions", "[]"), 400, nullptr},
           {post("/v1/chat/completions", "{" + kHi + "}" + std::string(1, '\0') + "{this is no JSON"), 400, nullptr},
           {post("/v1/chat/completions", R"({"model":"nope","messages":[{"role":"user","content":"hi"}]})"), 404,
            "model"},
           {post("/nowhere", "{}"), 404, nullptr},
           {get("/v1/chat/completions"), 405, nullptr},
           {post("/v1/chat/completions", "{}", "Content-Encoding: gzip\r\n"), 415, nullptr},
           {"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}", 415,
            nullptr},
           {"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", 413, nullptr},
           {"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400, nullptr},
           {"POST /v1/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 400, nullptr},
           {"POST /v1/completions HTTP/1.1\r\nHost: a/b\r\nContent-Length: 2\r\n\r\n{}", 400, nullptr},
           {"POST /v1/completions HTTP/2.0\r\nHost: x\r\n\r\n", 505, nullptr},
           {"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501,
            nullptr},
           {"POST /v1/completions HTTP/1.1\r\nHost: x\r\nExpect: 200-ok\r\nContent-Length: 2\r\n\r\n{}", 417, nullptr},
           {"GET /" + std::string(100'000, 'a') + " HTTP/1.1\r\nHost: x\r\n\r\n", 414, nullptr},
           {get("/health", "X-Big: " + std::string(100'000, 'a') + "\r\n"), 431, nullptr},
           {"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\nabc",
            400, nullptr},
           {"GET /health HTTP/1.1\nHost: x\n\n", 400, nullptr},
           {"GARBAGE\r\n\r\n", 400, nullptr}}) {
    const Reply reply = server.ask(row.request);
    EXPECT_EQ(reply.status, row.status) << row.request.substr(0, 200) << reply.body;
    const Json body = reply.json();
    const Json* error = body.find("error");
    ASSERT_NE(error, nullptr) << row.request.substr(0, 200);
    EXPECT_TRUE(error->find("message")->is_string());
    EXPECT_TRUE(error->find("type")->is_string());
    ASSERT_NE(error->find("code"), nullptr);
    if (row.param) EXPECT_EQ(error->find("param")->as_string(), row.param);
    else EXPECT_TRUE(error->find("param")->is_null());
  }
  EXPECT_EQ(server.ask(chat(R"("max_tokens":2)")).status, 200);
  EXPECT_TRUE(server.ask(get("/v1/completions")).has_header("Allow: POST"));
}

TEST(Server, KvCacheEvents) {
  TestServer off;
  EXPECT_EQ(off.ask(post("/kv_cache_events", "")).status, 400);
  FakeOptions fake;
  fake.cache_events = true;
  TestServer server(fake);
  EXPECT_EQ(server.ask(get("/kv_cache_events")).status, 405);
  const Reply reply = server.ask(post("/kv_cache_events", ""));
  EXPECT_EQ(reply.status, 200);
  const std::string a(64, 'a'), b(64, 'b');
  EXPECT_EQ(reply.body, R"({"events":[{"event_id":1,"type":"stored","group":0,"block_hash":")" + a +
                            R"(","parent_hash":")" + b +
                            R"(","token_ids":[5,6]},{"event_id":2,"type":"removed","group":1,"block_hash":")" + a +
                            R"("}],"lost":1,"next_event_id":3})");
  fake.cache_homes = 4;
  TestServer several(fake);
  const std::string body = several.ask(post("/kv_cache_events", "")).body;
  EXPECT_NE(body.find(R"("block_hash":")" + a + R"(","home":0,"parent_hash")"), std::string::npos) << body;
  EXPECT_NE(body.find(R"("block_hash":")" + a + R"(","home":3}],"lost")"), std::string::npos) << body;
}

TEST(Server, Keys) {
  ServerOptions options;
  options.api_key = "secret";
  TestServer server({}, options);
  EXPECT_EQ(server.ask(chat("")).status, 401);
  EXPECT_EQ(server.ask(get("/v1/models", "Authorization: Bearer secre\r\n")).status, 401);
  EXPECT_EQ(server.ask(get("/v1/models", "Authorization: Bearer secretx\r\n")).status, 401);
  EXPECT_EQ(server.ask(get("/v1/models", "Authorization: Bearer secret\r\n")).status, 200);
  EXPECT_EQ(server.ask(get("/health")).status, 200);
  for (const char* good : {"Authorization: bearer secret", "authorization: BEARER   secret", "x-api-key: secret",
                           "X-API-Key: secret\r\nAuthorization: Bearer other"})
    EXPECT_EQ(server.ask(get("/v1/models", std::string(good) + "\r\n")).status, 200) << good;
  for (const char* bad : {"Authorization: secret", "Authorization: Basic secret", "Authorization: Bearer",
                          "Authorization: Bearersecret", "x-api-key: secre", "x-api-key: Bearer secret"})
    EXPECT_EQ(server.ask(get("/v1/models", std::string(bad) + "\r\n")).status, 401) << bad;
}

TEST(Server, PathsAreDecoded) {
  ServerOptions options;
  options.served_model_name = "org/one two%";
  TestServer server({}, options);
  EXPECT_EQ(server.ask(get("/v1/models/org%2Fone%20two%25")).status, 200);
  EXPECT_EQ(server.ask(get("/v1/models/org/one%20two%")).status, 200) << "a % that begins no code stays";
  EXPECT_EQ(server.ask(get("/v1/models/org%2fone+two%25")).status, 404);
  EXPECT_EQ(server.ask(get("/%68ealth?a=%2F")).status, 200);
  EXPECT_EQ(server.ask(get("/v1/models%")).status, 404);
  EXPECT_EQ(server.ask(get("/v1/models%zz")).status, 404);
  EXPECT_EQ(server.ask(get("/v1/models%00")).status, 404);
}

// The words and the code that clients look for.
TEST(Server, ContextExceeded) {
  FakeOptions fake;
  fake.context = 20;
  TestServer server(fake);
  const Reply reply = server.ask(post("/v1/completions", R"({"prompt":"this is longer than twenty"})"));
  EXPECT_EQ(reply.status, 400);
  const Json body = reply.json();
  EXPECT_EQ(body.find("error")->find("code")->as_string(), "context_length_exceeded");
  EXPECT_EQ(body.find("error")->find("message")->as_string(),
            "This model's maximum context length is 20 tokens. However, your prompt resulted in 26 tokens. Please "
            "reduce the length of the prompt.");
}

TEST(Server, KeepAliveAndPipelining) {
  TestServer server;
  Connection connection(server.port());
  for (int i = 0; i < 20; ++i) {
    connection.send(chat(R"("max_tokens":1)"));
    EXPECT_EQ(connection.read_reply().status, 200);
  }
  connection.send(chat(R"("max_tokens":1)") + chat(R"("max_tokens":2,"stream":true)") + get("/health") +
                  "GARBAGE\r\n\r\n");
  EXPECT_EQ(connection.read_reply().json().find("usage")->find("completion_tokens")->as_integer(), 1);
  EXPECT_EQ(events(connection.read_reply().body).back(), "[DONE]");
  EXPECT_EQ(connection.read_reply().status, 200);
  EXPECT_EQ(connection.read_reply().status, 400);
  EXPECT_TRUE(connection.at_end());
}

TEST(Server, FormsOfRequests) {
  TestServer server;
  const std::string body = "{" + kHi + R"(,"max_tokens":2})";
  const std::string size = std::to_string(body.size());
  // HTTP/1.0: no chunks, the end of the connection ends the stream.
  Connection old(server.port());
  old.send("POST /v1/chat/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: " + size +
           "\r\n\r\n" + body);
  EXPECT_EQ(old.read_reply().status, 200);
  EXPECT_TRUE(old.at_end());
  Connection old_stream(server.port());
  const std::string streamed = "{" + kHi + R"(,"max_tokens":2,"stream":true})";
  old_stream.send("POST /v1/chat/completions HTTP/1.0\r\nContent-Length: " + std::to_string(streamed.size()) +
                  "\r\n\r\n" + streamed);
  const Reply reply = old_stream.read_reply();
  EXPECT_FALSE(reply.has_header("chunked"));
  EXPECT_EQ(events(reply.body).back(), "[DONE]");
  // Chunks, byte by byte.
  Connection chunked(server.port());
  std::string text = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (const char c : body) text += std::string("1\r\n") + c + "\r\n";
  for (const char c : text + "0\r\n\r\n") chunked.send(std::string(1, c));
  EXPECT_EQ(chunked.read_reply().status, 200);
  // The client waits for permission to send the body.
  Connection expecting(server.port());
  expecting.send("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: " + size +
                 "\r\n\r\n");
  EXPECT_EQ(expecting.read_reply().status, 100);
  expecting.send(body);
  EXPECT_EQ(expecting.read_reply().status, 200);
  // HEAD has no body.
  Connection head(server.port());
  head.send("HEAD /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  const std::string bytes = head.read_bytes(100'000);
  EXPECT_TRUE(bytes.starts_with("HTTP/1.1 200") && bytes.ends_with("\r\n\r\n"));
}

TEST(Server, TimesOut) {
  ServerOptions options;
  options.limits.head = milliseconds(200);
  options.limits.body = milliseconds(200);
  options.limits.idle = milliseconds(200);
  TestServer server({}, options);
  Connection quiet(server.port());
  EXPECT_TRUE(quiet.at_end());
  for (const char* text : {"POST /v1/", "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{"}) {
    Connection connection(server.port());
    connection.send(text);
    const Reply reply = connection.read_reply();
    EXPECT_EQ(reply.status, 408) << text;
    EXPECT_NE(reply.body.find("within 0.2 s"), std::string::npos) << reply.body;
    EXPECT_TRUE(connection.at_end()) << text;
  }
  EXPECT_TRUE(TestServer::eventually(
      [&] { return server.ask(get("/metrics")).body.find("weft_http_connections 1\n") != std::string::npos; }));
}

// However the client leaves, whether it streams or not, runs or waits: the request is cancelled.
TEST(Server, DisconnectCancels) {
  FakeOptions fake = slow();
  fake.batch = 1;
  for (const bool stream : {true, false}) {
    for (const bool reset : {true, false}) {
      for (const bool queued : {true, false}) {
        TestServer server(fake);
        std::optional<Connection> first;
        if (queued) {
          first.emplace(server.port());
          first->send(chat(R"("stream":true,"max_tokens":100000)"));
          first->read_bytes(10);
        }
        Connection connection(server.port());
        connection.send(chat(stream ? R"("max_tokens":100000,"stream":true)" : R"("max_tokens":100000)"));
        ASSERT_TRUE(TestServer::eventually([&] {
          const SchedulerMetrics now = server.engine().metrics().core.scheduler;
          return now.running + now.waiting == 1 + queued;
        }));
        if (stream && !queued) connection.read_bytes(1);
        if (reset) connection.reset();
        else connection.close();
        EXPECT_TRUE(TestServer::eventually([&] { return server.engine().metrics().requests.cancelled == 1; }))
            << "stream " << stream << " reset " << reset << " queued " << queued;
        if (first) first->reset();
      }
    }
  }
}

TEST(Server, HalfClosedClientGetsItsAnswer) {
  TestServer server(slow());
  for (const char* members : {R"("max_tokens":100)", R"("max_tokens":100,"stream":true)"}) {
    Connection connection(server.port());
    connection.send(chat(members));
    connection.close_sending();
    const Reply reply = connection.read_reply();
    EXPECT_EQ(reply.status, 200) << members;
    EXPECT_NE(reply.body.find("usage"), reply.body.find("[DONE]")) << members;
  }
  EXPECT_EQ(server.engine().metrics().requests.cancelled, 0);
}

TEST(Server, ClientThatDoesNotReadIsCutOff) {
  FakeOptions fake;
  fake.step = std::chrono::microseconds(0);
  fake.context = 10'000'000;
  ServerOptions options;
  options.limits.unsent_bytes = 64 * 1024;
  options.limits.write = milliseconds(500);
  TestServer server(fake, options);
  Connection connection(server.port());
  connection.small_receive_buffer();
  connection.send(chat(R"("max_tokens":10000000,"stream":true)"));
  EXPECT_EQ(server.ask(chat(R"("max_tokens":2)")).status, 200);
  EXPECT_TRUE(TestServer::eventually([&] { return server.engine().metrics().requests.cancelled == 1; }));
}

TEST(Server, FullQueueIsSaid) {
  FakeOptions fake = slow();
  fake.queue = 2;
  TestServer server(fake);
  server.engine().hold();
  std::vector<Connection> connections;
  for (int i = 0; i < 10; ++i) {
    connections.emplace_back(server.port());
    connections.back().send(chat(R"("max_tokens":5)"));
  }
  EXPECT_TRUE(TestServer::eventually([&] {
    return server.ask(get("/metrics"))
               .body.find("weft_http_requests_total{path=\"/v1/chat/completions\",status=\"429\"} 8\n") !=
           std::string::npos;
  }));
  server.engine().release();
  int answered = 0, refused = 0;
  for (Connection& connection : connections) {
    const Reply reply = connection.read_reply();
    answered += reply.status == 200;
    refused += reply.status == 429 && reply.has_header("Retry-After: ");
  }
  EXPECT_EQ(answered, 2);
  EXPECT_EQ(refused, 8);
}

TEST(Server, TooManyConnections) {
  ServerOptions options;
  options.limits.connections = 2;
  TestServer server({}, options);
  server.engine().hold();
  Connection a(server.port()), b(server.port());
  a.send(chat(R"("max_tokens":2)"));
  b.send(chat(R"("max_tokens":2)"));
  EXPECT_TRUE(TestServer::eventually([&] { return server.engine().metrics().core.scheduler.waiting == 2; }));
  const Reply refused = server.ask("");
  EXPECT_EQ(refused.status, 503);
  EXPECT_TRUE(refused.has_header("Retry-After: "));
  EXPECT_NE(refused.body.find("2 connections are open"), std::string::npos) << refused.body;
  server.engine().release();
  EXPECT_EQ(a.read_reply().status, 200);
  EXPECT_EQ(b.read_reply().status, 200);
  a.close();
  EXPECT_TRUE(TestServer::eventually([&] { return server.ask(get("/health")).status == 200; }));
}

TEST(Server, ShutdownLetsAnswersFinish) {
  TestServer server(slow());
  Connection running(server.port()), idle(server.port());
  running.send(chat(R"("max_tokens":50,"stream":true)"));
  running.read_bytes(10);
  idle.send(get("/health"));
  EXPECT_EQ(idle.read_reply().status, 200);
  server.server().stop();
  EXPECT_TRUE(idle.at_end());
  EXPECT_TRUE(TestServer::eventually([&] { return Connection(server.port()).at_end(); }));
  EXPECT_NE(running.read_bytes(1'000'000).find("[DONE]"), std::string::npos);
  EXPECT_TRUE(TestServer::eventually([&] { return server.ended(); }));
  EXPECT_EQ(server.engine().metrics().requests.cancelled, 0);
}

TEST(Server, ShutdownEndsLongAnswers) {
  ServerOptions options;
  options.limits.drain = milliseconds(300);
  TestServer server(slow(), options);
  Connection stream(server.port()), whole(server.port());
  stream.send(chat(R"("max_tokens":50000,"stream":true)"));
  stream.read_bytes(10);
  whole.send(chat(R"("max_tokens":50000)"));
  ASSERT_TRUE(TestServer::eventually([&] { return server.engine().metrics().core.scheduler.running == 2; }));
  server.server().stop();
  const std::string rest = stream.read_bytes(10'000'000);
  EXPECT_NE(rest.find("the server is shutting down"), std::string::npos);
  EXPECT_NE(rest.find("[DONE]"), std::string::npos);
  EXPECT_EQ(whole.read_reply().status, 503);
  EXPECT_TRUE(TestServer::eventually([&] { return server.ended(); }));
}

TEST(Server, PingsASilentStream) {
  ServerOptions options;
  options.limits.stream_head = milliseconds(50);
  options.limits.tick = milliseconds(20);
  options.limits.ping = milliseconds(50);
  FakeOptions fake = slow();
  TestServer server(fake, options);
  server.engine().hold();
  Connection connection(server.port());
  connection.send(chat(R"("max_tokens":2,"stream":true)"));
  const std::string bytes = connection.read_bytes(350);
  EXPECT_NE(bytes.find("text/event-stream"), std::string::npos);
  EXPECT_NE(bytes.find(": ping\n\n"), std::string::npos);
  server.engine().release();
  EXPECT_TRUE(TestServer::eventually([&] { return server.engine().metrics().requests.finished == 1; }));
}

TEST(Server, AnswersWhileTheModelLoads) {
  TestServer server({}, {}, false);
  EXPECT_EQ(server.ask(get("/health")).status, 200);
  EXPECT_EQ(server.ask(get("/ready")).status, 503);
  EXPECT_EQ(server.ask(get("/metrics")).status, 503);
  const Reply reply = server.ask(chat(""));
  EXPECT_EQ(reply.status, 503);
  EXPECT_TRUE(reply.has_header("Retry-After: "));
  server.server().attach(server.engine());
  EXPECT_EQ(server.ask(get("/ready")).status, 200);
  EXPECT_EQ(server.ask(chat(R"("max_tokens":2)")).status, 200);
}

TEST(Server, PortInUse) {
  TestServer server;
  ServerOptions options;
  options.port = server.port();
  const auto second = ApiServer::listen(options);
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.error().message().find("is in use"), std::string::npos);
}

}  // namespace
}  // namespace weft
