// Thoughts and tool calls in chat answers, whole and streamed: shapes follow OpenAI's API reference, and DeepSeek's and
// vLLM's reasoning_content. The fake engine writes the text that a model would.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>

#include "http_client.h"

namespace weft {
namespace {

const std::string kTools =
    R"("tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}},{"type":"function","function":{"name":"g"}}])";

std::string chat(const std::string& members) {
  return post("/v1/chat/completions", R"({"model":"tiny","messages":[{"role":"user","content":"hi"}])" +
                                          (members.empty() ? "" : "," + members) + "}");
}
const Json& choice(const Json& body) { return body.find("choices")->items().at(0); }
const Json& message(const Json& body) { return *choice(body).find("message"); }

// A stream's deltas put together, as a client does it.
struct Streamed {
  std::string content, reasoning, finish;
  std::vector<std::string> names, ids, arguments;
  int argument_pieces = 0, tokens = 0;
};

Streamed streamed(TestServer& server, const std::string& members) {
  Streamed all;
  const Reply reply = server.ask(chat(members + (members.empty() ? "" : ",") + R"("stream":true)"));
  EXPECT_EQ(reply.status, 200) << reply.body;
  for (const std::string& event : events(reply.body)) {
    if (event == "[DONE]") continue;
    const Json body = parse_json(event).value();
    if (body.find("choices")->items().empty()) continue;
    const Json& delta = *choice(body).find("delta");
    EXPECT_TRUE(all.finish.empty()) << "a chunk behind the last one: " << event;
    if (const Json* text = delta.find("content")) all.content += text->as_string();
    if (const Json* text = delta.find("reasoning_content")) all.reasoning += text->as_string();
    if (const Json* ids = choice(body).find("token_ids")) all.tokens += static_cast<int>(ids->items().size());
    if (const Json* calls = delta.find("tool_calls")) {
      EXPECT_EQ(calls->items().size(), 1u);
      const Json& call = calls->items()[0];
      const auto index = static_cast<size_t>(call.find("index")->as_integer());
      if (const Json* id = call.find("id")) {  // the first step of a call
        EXPECT_EQ(index, all.names.size());
        EXPECT_EQ(call.find("type")->as_string(), "function");
        all.ids.push_back(id->as_string());
        all.names.push_back(call.find("function")->find("name")->as_string());
        all.arguments.emplace_back();
      }
      EXPECT_EQ(index + 1, all.names.size());
      if (const std::string& piece = call.find("function")->find("arguments")->as_string(); !piece.empty()) {
        all.arguments.at(index) += piece;
        ++all.argument_pieces;
      }
    }
    if (!choice(body).find("finish_reason")->is_null()) all.finish = choice(body).find("finish_reason")->as_string();
  }
  return all;
}

TEST(ChatFormat, ToolCalls) {
  TestServer server;
  server.engine().answer_chats_with(
      "I look. <tool_call>{\"name\": \"f\", \"arguments\": {\"x\": [1, 2]}}</tool_call>\n<tool_call>{\"name\": \"g\", "
      "\"arguments\": {}}</tool_call>",
      {find_tool_form("hermes"), false});
  const Json body = server.ask(chat(kTools)).json();
  EXPECT_EQ(message(body).find("content")->as_string(), "I look.");
  const Json::Array& calls = message(body).find("tool_calls")->items();
  ASSERT_EQ(calls.size(), 2u);
  EXPECT_EQ(calls[0].find("function")->dump(), R"({"name":"f","arguments":"{\"x\": [1, 2]}"})");
  EXPECT_EQ(calls[1].find("function")->dump(), R"({"name":"g","arguments":"{}"})");
  EXPECT_NE(calls[0].find("id")->as_string(), calls[1].find("id")->as_string());
  for (const Json& call : calls) {  // Mistral's templates take no others
    const std::string& id = call.find("id")->as_string();
    EXPECT_EQ(id.size(), 9u);
    EXPECT_TRUE(std::ranges::all_of(id, [](unsigned char c) { return std::isalnum(c) != 0; })) << id;
  }
  EXPECT_EQ(choice(body).find("finish_reason")->as_string(), "tool_calls");

  const Streamed all = streamed(server, kTools + R"(,"return_token_ids":true)");
  EXPECT_EQ(all.content, "I look.");
  EXPECT_EQ(all.names, (std::vector<std::string>{"f", "g"}));
  EXPECT_EQ(all.arguments, (std::vector<std::string>{"{\"x\": [1, 2]}", "{}"}));
  EXPECT_EQ(all.finish, "tool_calls");
  EXPECT_EQ(all.argument_pieces, 5);  // as they are written, but numbers whole and a key with its value
  EXPECT_NE(all.ids[0], all.ids[1]);
  EXPECT_EQ(all.tokens, body.find("usage")->find("completion_tokens")->as_integer());
}

// For those who want the text as the model wrote it, and the seed to have it again.
TEST(ChatFormat, CallsMayStayInTheContent) {
  TestServer server;
  const std::string text = "<think>why</think> <tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call> ";
  server.engine().answer_chats_with(text, {find_tool_form("hermes"), true});
  const std::string raw = kTools + R"(,"seed":77,"parse_tool_calls":false,"separate_reasoning":false)";
  const Json body = server.ask(chat(raw)).json();
  EXPECT_EQ(message(body).find("content")->as_string(), text);
  EXPECT_EQ(message(body).find("tool_calls"), nullptr);
  EXPECT_EQ(choice(body).find("finish_reason")->as_string(), "stop");
  EXPECT_EQ(choice(body).find("seed")->as_integer(), 77);
  EXPECT_EQ(streamed(server, raw).content, text);
}

TEST(ChatFormat, ContentIsNullBesideCalls) {
  TestServer server;
  server.engine().answer_chats_with("{\"name\": \"g\", \"parameters\": {}}", {find_tool_form("llama3_json"), false});
  const Json body = server.ask(chat(kTools)).json();
  EXPECT_TRUE(message(body).find("content")->is_null());
  EXPECT_EQ(message(body).find("tool_calls")->items().size(), 1u);
  // Without tools, or with tool_choice none, the same text is content.
  for (const std::string& members : {std::string(), kTools + R"(,"tool_choice":"none")"}) {
    const Json plain = server.ask(chat(members)).json();
    EXPECT_EQ(message(plain).find("content")->as_string(), "{\"name\": \"g\", \"parameters\": {}}");
    EXPECT_EQ(message(plain).find("tool_calls"), nullptr);
    EXPECT_EQ(choice(plain).find("finish_reason")->as_string(), "stop");
  }
}

TEST(ChatFormat, ForcedCalls) {
  TestServer server;
  server.engine().answer_chats_with("{\"x\": 1}", {find_tool_form("hermes"), false});
  const std::string named = kTools + R"(,"tool_choice":{"type":"function","function":{"name":"f"}})";
  const Json body = server.ask(chat(named)).json();
  EXPECT_EQ(message(body).find("tool_calls")->items().at(0).find("function")->dump(),
            R"({"name":"f","arguments":"{\"x\": 1}"})");
  Streamed all = streamed(server, named);
  EXPECT_EQ(all.names, std::vector<std::string>{"f"});
  EXPECT_EQ(all.arguments, std::vector<std::string>{"{\"x\": 1}"});
  server.engine().answer_chats_with("[{\"name\": \"g\", \"arguments\": {}}, {\"name\": \"f\", \"arguments\": {}}]",
                                    {find_tool_form("hermes"), false});
  all = streamed(server, kTools + R"(,"tool_choice":"required")");
  EXPECT_EQ(all.names, (std::vector<std::string>{"g", "f"}));
  all = streamed(server, kTools + R"(,"tool_choice":"required","parallel_tool_calls":false)");
  EXPECT_EQ(all.names, std::vector<std::string>{"g"});
}

TEST(ChatFormat, Reasoning) {
  TestServer server;
  server.engine().answer_chats_with("<think>\nLet me < see.\n</think>\n\nYes.", {find_tool_form("generic"), true});
  const Json body = server.ask(chat("")).json();
  EXPECT_EQ(message(body).find("reasoning_content")->as_string(), "Let me < see.");
  EXPECT_EQ(message(body).find("content")->as_string(), "Yes.");
  EXPECT_EQ(choice(body).find("finish_reason")->as_string(), "stop");
  // Bytes are tokens here; those behind "<think>" up to "</think>".
  EXPECT_EQ(body.find("usage")->find("completion_tokens_details")->find("reasoning_tokens")->as_integer(), 23);
  const Streamed all = streamed(server, "");
  EXPECT_EQ(all.reasoning, "Let me < see.");
  EXPECT_EQ(all.content, "Yes.");
  EXPECT_EQ(all.finish, "stop");
}

TEST(ChatFormat, ReasoningThatTheTemplateOpens) {
  TestServer server;
  server.engine().open_answers_with("<think>\n");
  server.engine().answer_chats_with("I think.</think>Yes.", {find_tool_form("generic"), true});
  const Json body = server.ask(chat("")).json();
  EXPECT_EQ(message(body).find("reasoning_content")->as_string(), "I think.");
  EXPECT_EQ(message(body).find("content")->as_string(), "Yes.");
  const Json cut = server.ask(chat(R"("max_tokens":4)")).json();
  EXPECT_EQ(message(cut).find("reasoning_content")->as_string(), "I th");
  EXPECT_TRUE(message(cut).find("content")->is_null());
  // Closed by the template: thinking is off.
  server.engine().open_answers_with("<think>\n\n</think>\n\n");
  server.engine().answer_chats_with("Yes.", {find_tool_form("generic"), true});
  const Json off = server.ask(chat("")).json();
  EXPECT_EQ(message(off).find("reasoning_content"), nullptr);
  EXPECT_EQ(message(off).find("content")->as_string(), "Yes.");
}

TEST(ChatFormat, ReasoningOptions) {
  TestServer server;
  const std::string text = "<think>a</think>Yes.";
  server.engine().answer_chats_with(text, {find_tool_form("generic"), true});
  for (const char* members : {R"("separate_reasoning":false)", R"("reasoning_format":"none")"}) {
    const Json together = server.ask(chat(members)).json();
    EXPECT_EQ(message(together).find("content")->as_string(), text);
    EXPECT_EQ(message(together).find("reasoning_content"), nullptr);
  }
  const Json hidden = server.ask(chat(R"("include_reasoning":false)")).json();
  EXPECT_EQ(message(hidden).find("content")->as_string(), "Yes.");
  EXPECT_EQ(message(hidden).find("reasoning_content"), nullptr);
  EXPECT_EQ(streamed(server, R"("include_reasoning":false)").reasoning, "");
  EXPECT_EQ(server.ask(chat(R"("reasoning_format":"other")")).status, 400);
  // A model that does not think: the marks are text.
  server.engine().answer_chats_with(text, {find_tool_form("generic"), false});
  EXPECT_EQ(message(server.ask(chat("")).json()).find("content")->as_string(), text);
}

TEST(ChatFormat, ReasoningThenCalls) {
  TestServer server;
  server.engine().answer_chats_with(
      "<think>Shall I write <tool_call>?</think>\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": "
      "1}}\n</tool_call>",
      {find_tool_form("hermes"), true});
  const Json body = server.ask(chat(kTools)).json();
  EXPECT_EQ(message(body).find("reasoning_content")->as_string(), "Shall I write <tool_call>?");
  EXPECT_TRUE(message(body).find("content")->is_null());
  EXPECT_EQ(message(body).find("tool_calls")->items().size(), 1u);
  const Streamed all = streamed(server, kTools);
  EXPECT_EQ(all.reasoning, "Shall I write <tool_call>?");
  EXPECT_EQ(all.content, "");
  EXPECT_EQ(all.arguments, std::vector<std::string>{"{\"x\": 1}"});
  EXPECT_EQ(all.finish, "tool_calls");
}

}  // namespace
}  // namespace weft
