// The shape of answers: whole and streamed, chats and completions. Shapes follow OpenAI's API reference.
#include <gtest/gtest.h>

#include "http_client.h"

namespace weft {
namespace {

const std::string kHi =
    R"("model":"tiny","messages":[{"role":"user","content":"hi"}])";  // the fake answers "user: hi\n" over and over

std::string chat(const std::string& members) { return post("/v1/chat/completions", "{" + kHi + "," + members + "}"); }
std::string completion(const std::string& members) {
  return post("/v1/completions", "{\"model\":\"tiny\"," + members + "}");
}

std::vector<Json> chunks(const Reply& reply) {
  std::vector<Json> list;
  for (const std::string& event : events(reply.body))
    if (event != "[DONE]") list.push_back(parse_json(event).value());
  return list;
}
const Json& choice(const Json& body, size_t index = 0) { return body.find("choices")->items().at(index); }

TEST(Answers, WholeChat) {
  TestServer server;
  const Reply reply = server.ask(chat(R"("max_tokens":4)"));
  ASSERT_EQ(reply.status, 200) << reply.body;
  const Json body = reply.json();
  EXPECT_EQ(body.find("object")->as_string(), "chat.completion");
  EXPECT_TRUE(body.find("id")->as_string().starts_with("chatcmpl-"));
  EXPECT_EQ(body.find("model")->as_string(), "tiny");
  EXPECT_GT(body.find("created")->as_integer(), 1'600'000'000);
  EXPECT_EQ(choice(body).find("message")->find("role")->as_string(), "assistant");
  EXPECT_EQ(choice(body).find("message")->find("content")->as_string(), "user");
  EXPECT_EQ(choice(body).find("finish_reason")->as_string(), "length");
  EXPECT_TRUE(choice(body).find("logprobs")->is_null());
  const Json& usage = *body.find("usage");
  EXPECT_EQ(usage.find("prompt_tokens")->as_integer(), 9);
  EXPECT_EQ(usage.find("completion_tokens")->as_integer(), 4);
  EXPECT_EQ(usage.find("total_tokens")->as_integer(), 13);
}

TEST(Answers, StreamedChat) {
  TestServer server;
  const Reply reply = server.ask(chat(R"("max_tokens":4,"stream":true,"stream_options":{"include_usage":true})"));
  ASSERT_EQ(reply.status, 200);
  EXPECT_TRUE(reply.has_header("Content-Type: text/event-stream"));
  EXPECT_EQ(events(reply.body).back(), "[DONE]");
  const std::vector<Json> list = chunks(reply);
  ASSERT_GE(list.size(), 4u);
  EXPECT_EQ(choice(list[0]).find("delta")->find("role")->as_string(), "assistant");
  std::string text;
  for (size_t i = 0; i + 1 < list.size(); ++i) {
    EXPECT_EQ(list[i].find("object")->as_string(), "chat.completion.chunk");
    EXPECT_EQ(list[i].find("id")->as_string(), list[0].find("id")->as_string());
    const bool last = i + 2 == list.size();
    EXPECT_EQ(choice(list[i]).find("finish_reason")->is_null(), !last);
    if (const Json* content = choice(list[i]).find("delta")->find("content")) text += content->as_string();
    EXPECT_EQ(list[i].find("usage"), nullptr);
  }
  EXPECT_EQ(text, "user");
  EXPECT_EQ(choice(list[list.size() - 2]).find("finish_reason")->as_string(), "length");
  EXPECT_TRUE(list.back().find("choices")->items().empty());
  EXPECT_EQ(list.back().find("usage")->find("completion_tokens")->as_integer(), 4);
}

TEST(Answers, StreamsSeveralChoicesAndPrompts) {
  TestServer server;
  const Reply reply = server.ask(completion(
      R"("prompt":["ab","xyz"],"n":2,"max_tokens":3,"stream":true,
          "stream_options":{"include_usage":true,"continuous_usage_stats":true})"));
  std::map<int64_t, std::string> texts;
  std::map<int64_t, int> ends;
  std::vector<Json> list = chunks(reply);
  // Usage grows to that of the whole answer, which comes once more at the end.
  EXPECT_EQ(list.back().find("usage")->dump(), list[list.size() - 2].find("usage")->dump());
  EXPECT_EQ(list.back().find("usage")->find("completion_tokens")->as_integer(), 12);
  EXPECT_EQ(list.back().find("usage")->find("prompt_tokens")->as_integer(), 5);
  EXPECT_TRUE(list.back().find("choices")->items().empty());
  list.pop_back();
  for (const Json& chunk : list) {
    const Json& one = choice(chunk);
    texts[one.find("index")->as_integer()] += one.find("text")->as_string();
    ends[one.find("index")->as_integer()] += !one.find("finish_reason")->is_null();
    EXPECT_GT(chunk.find("usage")->find("completion_tokens")->as_integer(), 0);
  }
  EXPECT_EQ(texts, (std::map<int64_t, std::string>{{0, "aba"}, {1, "aba"}, {2, "xyz"}, {3, "xyz"}}));
  EXPECT_EQ(ends, (std::map<int64_t, int>{{0, 1}, {1, 1}, {2, 1}, {3, 1}}));
}

// continuous_usage_stats says how, include_usage whether.
TEST(Answers, UsageOnlyWhereAsked) {
  TestServer server;
  for (const char* options : {R"({"continuous_usage_stats":true})", R"({"include_usage":false})", "{}"})
    for (const Json& chunk :
         chunks(server.ask(chat(R"("max_tokens":2,"stream":true,"stream_options":)" + std::string(options))))) {
      EXPECT_EQ(chunk.find("usage"), nullptr) << options;
      EXPECT_FALSE(chunk.find("choices")->items().empty()) << options;
    }
}

// token_ids are those of the answer, prompt_token_ids those of the prompt: once in a whole answer, in a stream with a
// choice's first chunk. Echo changes the text and the logprobs only.
TEST(Answers, TokenIdsOfEchoes) {
  TestServer server;
  for (const bool echo : {false, true}) {
    const std::string members = R"("prompt":"hi","max_tokens":3,"return_token_ids":true,"logprobs":0,"echo":)" +
                                std::string(echo ? "true" : "false");
    const Json whole = server.ask(completion(members)).json();
    EXPECT_EQ(choice(whole).find("token_ids")->dump(), "[104,105,104]");
    EXPECT_EQ(choice(whole).find("prompt_token_ids")->dump(), "[104,105]");
    std::vector<std::string> ids, of_prompt;
    size_t logprobs = 0;
    for (const Json& chunk : chunks(server.ask(completion(members + R"(,"stream":true)")))) {
      for (const Json& id : choice(chunk).find("token_ids")->items()) ids.push_back(id.dump());
      if (const Json* prompt = choice(chunk).find("prompt_token_ids")) of_prompt.push_back(prompt->dump());
      logprobs += choice(chunk).find("logprobs")->find("tokens")->items().size();
    }
    EXPECT_EQ(ids, (std::vector<std::string>{"104", "105", "104"})) << echo;
    EXPECT_EQ(of_prompt, std::vector<std::string>{"[104,105]"}) << echo;
    EXPECT_EQ(logprobs, echo ? 5u : 3u);
  }
  const std::vector<Json> list = chunks(server.ask(chat(R"("max_tokens":2,"return_token_ids":true,"stream":true)")));
  EXPECT_EQ(choice(list[0]).find("prompt_token_ids")->items().size(), 9u);
  EXPECT_EQ(choice(list[1]).find("prompt_token_ids"), nullptr);
}

TEST(Answers, CompletionWithEchoAndLogprobs) {
  TestServer server;
  Reply reply = server.ask(completion(R"("prompt":"hé","max_tokens":2,"echo":true,"logprobs":2)"));
  ASSERT_EQ(reply.status, 200) << reply.body;
  Json body = reply.json();
  EXPECT_EQ(body.find("object")->as_string(), "text_completion");
  EXPECT_EQ(choice(body).find("text")->as_string(), "héh");  // the second generated token is half a character
  const Json& logprobs = *choice(body).find("logprobs");
  EXPECT_EQ(logprobs.find("tokens")->dump(), R"(["h","bytes:\\xc3","bytes:\\xa9","h","bytes:\\xc3"])");
  EXPECT_EQ(logprobs.find("token_logprobs")->dump(), "[null,-0.25,-0.25,-0.25,-0.25]");
  EXPECT_EQ(logprobs.find("text_offset")->dump(), "[0,1,2,2,3]");
  EXPECT_TRUE(logprobs.find("top_logprobs")->items()[0].is_null());
  EXPECT_EQ(logprobs.find("top_logprobs")->items()[3].dump(), R"({"h":-0.25,"i":-0.75})");
  // Only the prompt's logprobs, as evaluation harnesses ask for them.
  body = server.ask(completion(R"("prompt":"hello","max_tokens":0,"echo":true,"logprobs":1)")).json();
  EXPECT_EQ(choice(body).find("text")->as_string(), "hello");
  EXPECT_EQ(choice(body).find("logprobs")->find("tokens")->items().size(), 5u);
  EXPECT_EQ(body.find("usage")->find("completion_tokens")->as_integer(), 0);
}

TEST(Answers, ChatLogprobsAndTokenIds) {
  TestServer server;
  Json body = server.ask(chat(R"("max_tokens":2,"logprobs":true,"top_logprobs":2,"return_token_ids":true)")).json();
  EXPECT_EQ(
      choice(body).find("logprobs")->find("content")->items()[0].dump(),
      R"({"token":"u","logprob":-0.25,"bytes":[117],"top_logprobs":[{"token":"u","logprob":-0.25,"bytes":[117]},{"token":"v","logprob":-0.75,"bytes":[118]}]})");
  EXPECT_EQ(choice(body).find("token_ids")->dump(), "[117,115]");
  EXPECT_EQ(choice(body).find("prompt_token_ids")->items().size(), 9u);
  body = server.ask(completion(R"("prompt":[104,105],"max_tokens":1,"prompt_logprobs":0)")).json();
  EXPECT_EQ(choice(body).find("prompt_logprobs")->dump(),
            R"([null,{"105":{"logprob":-0.25,"rank":2,"decoded_token":"i"}}])");
}

TEST(Answers, StopString) {
  TestServer server;
  const Json body = server.ask(completion(R"("prompt":"hello","max_tokens":50,"stop":["lo"])")).json();
  EXPECT_EQ(choice(body).find("finish_reason")->as_string(), "stop");
  EXPECT_EQ(choice(body).find("stop_reason")->as_string(), "lo");
}

TEST(Answers, ErrorInsideAStream) {
  TestServer server;
  server.engine().fail_after(3);
  const Reply reply = server.ask(chat(R"("max_tokens":10,"stream":true)"));
  EXPECT_EQ(reply.status, 200);
  const auto list = events(reply.body);
  ASSERT_GE(list.size(), 2u);
  EXPECT_EQ(list.back(), "[DONE]");
  EXPECT_EQ(parse_json(list[list.size() - 2])->find("error")->find("type")->as_string(), "server_error");
  const Reply whole = server.ask(chat(R"("max_tokens":10)"));
  EXPECT_EQ(whole.status, 500);
  EXPECT_EQ(whole.json().find("error")->find("message")->as_string(), "a number is not finite");
  EXPECT_EQ(whole.json().find("usage")->find("prompt_tokens")->as_integer(), 9) << "what had been spent";
}

TEST(Answers, OtherRoutes) {
  TestServer server;
  Json body = server.ask(get("/v1/models")).json();
  EXPECT_EQ(body.find("data")->items().at(0).find("id")->as_string(), "tiny");
  EXPECT_EQ(server.ask(get("/v1/models/tiny")).status, 200);
  EXPECT_EQ(server.ask(get("/v1/models/other")).status, 404);
  body = server.ask(post("/tokenize", R"({"prompt":"hi","return_token_strs":true})")).json();
  EXPECT_EQ(body.find("tokens")->dump(), "[104,105]");
  EXPECT_EQ(body.find("token_strs")->dump(), R"(["h","i"])");
  EXPECT_EQ(server.ask(post("/detokenize", R"({"tokens":[104,105]})")).json().find("prompt")->as_string(), "hi");
  EXPECT_EQ(server.ask(post("/detokenize", R"({"tokens":[9999]})")).status, 400);
  EXPECT_EQ(server.ask(get("/health")).status, 200);
  EXPECT_EQ(server.ask(get("/ready")).status, 200);
  EXPECT_TRUE(server.ask(get("/version")).json().find("version")->is_string());
  server.ask(chat(R"("max_tokens":2)"));
  // The answer is out before the engine has crossed its request off.
  EXPECT_TRUE(TestServer::eventually([&] { return server.engine().metrics().core.scheduler.running == 0; }));
  const std::string metrics = server.ask(get("/metrics")).body;
  for (const char* line :
       {"weft_generation_tokens_total 2\n", "weft_num_requests_running 0\n",
        "weft_request_success_total{finished_reason=\"length\"} 1\n", "weft_time_to_first_token_seconds_count 1\n",
        "weft_http_requests_total{path=\"/v1/chat/completions\",status=\"200\"} 1\n"})
    EXPECT_NE(metrics.find(line), std::string::npos) << line << metrics;
  // Every metric has a type and says what it is.
  for (size_t at = 0; (at = metrics.find("# TYPE ", at)) != std::string::npos; ++at) {
    const std::string name = metrics.substr(at + 7, metrics.find(' ', at + 7) - at - 7);
    EXPECT_NE(metrics.find("# HELP " + name + " "), std::string::npos) << name;
  }
}

}  // namespace
}  // namespace weft
