// What a server of a deployment tells the front, and what it takes from it.
#include <gtest/gtest.h>

#include "base/hmac.h"
#include "http_client.h"
#include "server/context_servers.h"

namespace weft {
namespace {

std::string completion(const std::string& members, const std::string& headers = {}) {
  return post("/v1/completions", "{\"prompt\":\"abc\",\"max_tokens\":2" + members + "}", headers);
}
EngineOptions engine_options(ServerRole role = ServerRole::both) {
  EngineOptions options;
  options.role = role, options.tokens_per_block = 4, options.kv_cache_events = 8;
  return options;
}

TEST(Cluster, ServerInfo) {
  FakeOptions fake;
  fake.identity = "digest", fake.transfer = "10.0.0.7:91", fake.step = std::chrono::milliseconds(20);
  TestServer server(fake, {}, true, engine_options(ServerRole::generation));
  server.engine().hold();
  Connection waiting(server.port());
  waiting.send(completion(""));
  ASSERT_TRUE(TestServer::eventually([&] { return server.engine().metrics().core.scheduler.waiting == 1; }));
  Json info = server.ask(get("/server_info")).json();
  ASSERT_NE(info.find("instance"), nullptr);
  EXPECT_EQ(info.find("instance")->as_string().size(), 16u);
  EXPECT_NE(info.find("instance")->as_string(),
            TestServer().ask(get("/server_info")).json().find("instance")->as_string());
  info.set("instance", "");
  info.set("version", "");
  EXPECT_EQ(info.dump(),
            R"({"version":"","instance":"","role":"generation","model":"tiny","generative":true,"identity":"digest",)"
            R"("tokens_per_block":4,"kv_cache_events":8,"transfer":"10.0.0.7:91",)"
            R"("load":{"running":0,"waiting":1,"kv_used":0,"kv_total":1000}})");
  server.engine().release();
  EXPECT_EQ(waiting.read_reply().status, 200);
  TestServer plain;
  EXPECT_TRUE(plain.ask(get("/server_info")).json().find("transfer")->is_null());
  EXPECT_EQ(plain.ask(post("/server_info", "")).status, 405);
  plain.engine().lose_ranks("rank 1 is gone");
  EXPECT_EQ(plain.ask(get("/server_info")).status, 503);
  ServerOptions keyed;
  keyed.api_key = "k";
  EXPECT_EQ(TestServer({}, keyed).ask(get("/server_info")).status, 401);
  EXPECT_EQ(TestServer({}, {}, false).ask(get("/server_info")).status, 503) << "the model is not there yet";
}

// The fake's keys are digests of what is in front of a block's end.
TEST(Cluster, BlockKeys) {
  TestServer server({}, {}, true, engine_options());
  const auto key = [](const std::string& text) { return hex_of(sha256(std::as_bytes(std::span(text)))); };
  const auto keys = [&](const std::string& body) { return server.ask(post("/block_keys", body)); };
  const std::string first = key("|97,98,99,100,"), second = key("|97,98,99,100,101,102,103,104,");
  EXPECT_EQ(keys(R"({"prompt":"abcdefghi"})").body,
            R"({"tokens_per_block":4,"prompts":[{"tokens":9,"keys":[")" + first + R"(",")" + second + R"("]}]})");
  EXPECT_EQ(keys(R"({"prompt":["abcd","x"],"stream":true})").body,
            R"({"tokens_per_block":4,"prompts":[{"tokens":4,"keys":[")" + first + R"("]},{"tokens":1,"keys":[]}]})");
  EXPECT_EQ(keys(R"({"messages":[{"role":"user","content":"a"}]})").body,  // "user: a\n"
            R"({"tokens_per_block":4,"prompts":[{"tokens":8,"keys":[")" + key("|117,115,101,114,") + R"(",")" +
                key("|117,115,101,114,58,32,97,10,") + R"("]}]})");
  EXPECT_EQ(keys(R"({"prompt":"abcd","cache_salt":"s"})").json().find("prompts")->items()[0].find("keys")->dump(),
            "[\"" + key("s|97,98,99,100,") + "\"]");
  EXPECT_EQ(keys(R"({"prompt":5})").status, 400);
  EXPECT_EQ(keys("{").status, 400);
  EXPECT_EQ(keys(R"({"prompt":")" + std::string(1000, 'a') + "\"}").status, 400) << "longer than the context";
}

TEST(Cluster, EventsCanBeReadByMany) {
  TestServer server({}, {}, true, engine_options());
  for (const char* prompt : {"abcdefgh", "abcdxxxx", "01234567"})
    EXPECT_EQ(server.ask(post("/v1/completions", std::string(R"({"max_tokens":1,"prompt":")") + prompt + "\"}")).status,
              200);
  const auto read = [&](const std::string& body) { return server.ask(post("/kv_cache_events", body)).json(); };
  const auto ids = [&](const std::string& body) {
    std::string text;
    const Json answer = read(body);
    for (const Json& event : answer.find("events")->items()) text += event.find("event_id")->dump() + " ";
    return text + "lost " + answer.find("lost")->dump() + " next " + answer.find("next_event_id")->dump();
  };
  for (int reader = 0; reader < 2; ++reader) {
    EXPECT_EQ(ids(R"({"after":0})"), "0 1 2 3 4 lost 0 next 5");
    EXPECT_EQ(ids(R"({"after":3,"limit":1})"), "3 lost 0 next 4");
    EXPECT_EQ(ids(R"({"after":5})"), "lost 0 next 5");
    EXPECT_EQ(ids(R"({"after":99})"), "lost 0 next 5") << "of a server that has started anew";
  }
  server.engine().forget_events_before(2);
  EXPECT_EQ(ids(R"({"after":0,"limit":2})"), "2 3 lost 2 next 4");
  const Json answer = read(R"({"after":4,"token_ids":false})");
  EXPECT_EQ(answer.find("events")->items()[0].find("token_ids"), nullptr);
  EXPECT_NE(answer.find("events")->items()[0].find("parent_hash"), nullptr);
  EXPECT_EQ(answer.find("instance")->dump(), server.ask(get("/server_info")).json().find("instance")->dump());
  for (const char* body : {"{}", "[1]", R"({"after":-1})", R"({"after":"0"})", R"({"after":0,"before":1})",
                           R"({"after":0,"limit":1.5})", R"({"after":0,"token_ids":1})"})
    EXPECT_EQ(server.ask(post("/kv_cache_events", body)).status, 400) << body;
}

TEST(Cluster, AContextServerGeneratesNothingForClients) {
  TestServer server({}, {}, true, engine_options(ServerRole::context));
  for (const char* path : {"/v1/completions", "/v1/chat/completions"}) {
    const Reply reply = server.ask(post(path, "{\"prompt\":\"a\"}"));
    EXPECT_EQ(reply.status, 400);
    EXPECT_NE(reply.body.find("--role context"), std::string::npos);
  }
  EXPECT_EQ(server.ask(post("/tokenize", R"({"prompt":"a"})")).status, 200);
  EXPECT_EQ(server.ask(get("/v1/models")).status, 200);
}

TEST(Cluster, ContextServersOfThisMachineAreTakenWithoutASecret) {
  using Servers = std::vector<std::string>;
  TestServer server({}, {}, true, engine_options(ServerRole::generation));
  const auto status = [&](const std::string& value) {
    return server.ask(completion("", "Weft-Context-Servers: " + value + "\r\n")).status;
  };
  EXPECT_EQ(status("127.0.0.1:7"), 200);
  EXPECT_EQ(server.engine().last_context_servers(), Servers{"127.0.0.1:7"});
  EXPECT_EQ(status("127.9.8.7:65535, [::1]:1,LocalHost:99"), 200);
  EXPECT_EQ(server.engine().last_context_servers(), (Servers{"127.9.8.7:65535", "[::1]:1", "LocalHost:99"}));
  EXPECT_EQ(server.ask(completion("")).status, 200);
  EXPECT_EQ(server.engine().last_context_servers(), Servers{});
  for (const char* elsewhere : {"10.0.0.1:7", "127.0.0.1:7,10.0.0.1:7", "localhost.example.org:7", "[::2]:7",
                                "128.0.0.1:1", "127.0.0.1.example.org:5"})
    EXPECT_EQ(status(elsewhere), 403) << elsewhere;
  for (const char* wrong : {"", "127.0.0.1", "127.0.0.1:", ":7", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:7x",
                            "::1:7", "[::1:7", "a/b:7", "127.0.0.1:7,", "127.0.0.1:7;127.0.0.1:8", "[localhost]:7"})
    EXPECT_EQ(status(wrong), 400) << wrong;
  std::string many = "127.0.0.1:1";
  for (int i = 2; i <= 8; ++i) many += ",127.0.0.1:" + std::to_string(i);
  EXPECT_EQ(status(many), 200);
  EXPECT_EQ(status(many + ",127.0.0.1:9"), 400);
  EXPECT_NE(server.ask(completion("", "Weft-Context-Servers: 10.0.0.1:7\r\n")).body.find("transfer secret"),
            std::string::npos);
}

TEST(Cluster, ASecretProvesContextServersOfAnywhere) {
  EngineOptions options = engine_options();
  options.kv_transfer_secret = "Jefe";
  TestServer server({}, {}, true, options);
  const std::string servers = "10.0.0.1:7,context-2.example.org:8";
  const auto status = [&](const std::string& proof) {
    return server
        .ask(completion("", "Weft-Context-Servers: " + servers + "\r\n" +
                                (proof.empty() ? "" : "Weft-Context-Proof: " + proof + "\r\n")))
        .status;
  };
  const std::string proof = hex_of(hmac_sha256("Jefe", "weft-context-servers\n" + servers));
  EXPECT_EQ(proof, context_proof("Jefe", servers));
  EXPECT_EQ(status(proof), 200);
  EXPECT_EQ(server.engine().last_context_servers(),
            (std::vector<std::string>{"10.0.0.1:7", "context-2.example.org:8"}));
  EXPECT_EQ(status(""), 403);
  EXPECT_EQ(status(context_proof("other", servers)), 403);
  EXPECT_EQ(status(context_proof("Jefe", servers + ",h:1")), 403);
  EXPECT_EQ(status(proof.substr(1)), 403);
}

}  // namespace
}  // namespace weft
