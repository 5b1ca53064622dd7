// From a request's messages to the prompt, over tests/data/templates: prompts that transformers renders
// (make_expected.py there), and a walk through each template with answers as weft itself gives them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <filesystem>

#include "api/request_json.h"
#include "base/files.h"
#include "text/chat_template.h"
#include "text/conversation.h"

namespace weft {
namespace {

const std::string kFolder = std::string(WEFT_TEST_DATA) + "/templates/";

std::shared_ptr<const ChatTemplate> compiled(const std::string& name) {
  auto made = ChatTemplate::from_source(read_file(kFolder + name + ".jinja").value(),
                                        Json::object({{"bos_token", "<s>"}, {"eos_token", "</s>"}}));
  EXPECT_TRUE(made.ok()) << made.error().to_string();
  return std::move(made).value();
}

// The prompt of a chat request, as the engine makes it.
Result<std::string> prompt(const ChatTemplate& chat, Json messages, const Json& tools) {
  Json body = Json::object({{"messages", std::move(messages)}});
  if (!tools.is_null()) body.set("tools", tools);
  const RequestRules rules{.images = true};
  WEFT_TRY(const ClientRequest call, parse_request(body, RequestKind::chat, rules));
  const Request& request = call.requests.front();
  const Json kwargs = Json::object({{"date_string", "26 Jul 2024"}, {"reasoning_effort", "medium"}});
  return chat.render(chat.adapted(*request.messages, request.tools), request.tools, kwargs, {.now_unix_s = 1795910400});
}

TEST(Conversations, PromptsAreTheReferences) {
  const Json cases = read_json_file(kFolder + "expected.json").value();
  ASSERT_GE(cases.items().size(), 35u);
  for (const Json& one : cases.items()) {
    const auto chat = compiled(one.find("template")->as_string());
    const auto text = prompt(*chat, *one.find("messages"), *one.find("tools"));
    EXPECT_EQ(text.ok() ? *text : text.error().to_string(), one.find("rendered")->as_string())
        << one.find("template")->as_string() << ", " << one.find("case")->as_string();
  }
}

Json parsed(const std::string& text) { return parse_json(text).value(); }

const Json kTools = parsed(
    R"([{"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}])");

struct Turn {
  const char* name;
  std::string answer;                // of the assistant
  std::vector<std::string> results;  // of its calls
  std::vector<std::string> shown;    // all must be in the prompt
};

std::string call(const std::string& id, const std::string& city) {
  return R"({"id": ")" + id +
         R"(", "type": "function", "function": {"name": "get_weather", "arguments": "{\"city\": \")" + city +
         R"(\"}"}})";
}

std::string answered(const std::string& members) {
  return R"({"role": "assistant", "refusal": null, )" + members + "}";
}
std::string result(const std::string& id, const std::string& text) {
  return R"({"role": "tool", "tool_call_id": ")" + id + R"(", "content": ")" + text + R"("})";
}

const Turn kTurns[] = {
    {"a call",
     answered(R"("content": null, "tool_calls": [)" + call("a1b2c3d4e", "Quito") + "]"),
     {result("a1b2c3d4e", "warm17")},
     {"Quito", "warm17"}},
    {"text and a call",
     answered(R"("content": "I look.", "tool_calls": [)" + call("a1b2c3d4e", "Quito") + "]"),
     {result("a1b2c3d4e", "warm17")},
     {"Quito", "warm17"}},
    {"thoughts and a call",
     answered(R"("content": null, "reasoning_content": "Hm.", "tool_calls": [)" + call("a1b2c3d4e", "Quito") + "]"),
     {result("a1b2c3d4e", "warm17")},
     {"Quito", "warm17"}},
    {"an id of another server",
     answered(R"("content": "", "tool_calls": [)" + call("call_0123456789", "Quito") + "]"),
     {result("call_0123456789", "warm17")},
     {"Quito", "warm17"}},
    {"two calls",
     answered(R"("content": null, "tool_calls": [)" + call("a1b2c3d4e", "Quito") + "," + call("f1b2c3d4e", "Turin") +
              "]"),
     {result("a1b2c3d4e", "warm17"), result("f1b2c3d4e", "cold03")},
     {"Quito", "Turin", "warm17", "cold03"}},
    {"cut arguments",
     answered(
         R"("content": null, "tool_calls": [{"id": "a1b2c3d4e", "type": "function", "function": {"name": "get_weather", "arguments": "{\"city\": \"Quito"}}])"),
     {result("a1b2c3d4e", "warm17")},
     {"Quito", "warm17"}},
    {"thoughts alone", answered(R"("content": null, "reasoning_content": "Hm.")"), {}, {}},
    {"a refusal", R"({"role": "assistant", "content": null, "refusal": "I must not."})", {}, {"I must not."}},
};

// A question, the turn, what came of it, and the next question.
Json conversation(const Turn& turn) {
  Json messages = Json::array({parsed(R"({"role": "user", "content": "First question"})"), parsed(turn.answer)});
  for (const std::string& text : turn.results) messages.push_back(parsed(text));
  if (!turn.results.empty()) messages.push_back(parsed(R"({"role": "assistant", "content": "So it is."})"));
  messages.push_back(parsed(R"({"role": "user", "content": "Second question"})"));
  return messages;
}

class Walk : public testing::TestWithParam<std::string> {};

TEST_P(Walk, AnswersCanBeSentBack) {
  const auto chat = compiled(GetParam());
  for (const Turn& turn : kTurns) {
    Json messages = conversation(turn);
    for (const bool whole : {false, true}) {  // after the results, and a turn later
      Json sent = Json::array();
      for (size_t i = 0; i + (whole ? 0 : 2) < messages.items().size(); ++i) sent.push_back(messages.items()[i]);
      if (!whole && turn.results.empty()) continue;
      const auto text = prompt(*chat, sent, kTools);
      ASSERT_TRUE(text.ok()) << turn.name << ": " << text.error().to_string();
      for (const std::string& word : turn.shown)
        EXPECT_NE(text->find(word), std::string::npos) << turn.name << " lacks " << word << ": " << *text;
      if (whole) {
        EXPECT_NE(text->find("Second question"), std::string::npos) << turn.name;
      }
    }
  }
}

std::vector<std::string> names() {
  std::vector<std::string> found;
  for (const auto& entry : std::filesystem::directory_iterator(kFolder))
    if (entry.path().extension() == ".jinja") found.push_back(entry.path().stem().string());
  std::ranges::sort(found);
  return found;
}

INSTANTIATE_TEST_SUITE_P(Templates, Walk, testing::ValuesIn(names()), [](const auto& info) {
  std::string name = info.param;
  std::ranges::replace_if(name, [](unsigned char c) { return !std::isalnum(c); }, '_');
  return name;
});

// Expected texts are Python's.
TEST(ChatTemplate, TextsAreFormattedAsInPython) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({{ "%05.1f" % 3.14159 }})", "003.1"},
      {R"({{ "%05.1f"|format(3.14159) }})", "003.1"},
      {R"({{ "%s is %d%%" % ("x", 42) }})", "x is 42%"},
      {R"({% set t = '%-5s|%5s|%.2s' % ('ab', 'cd', 'efg') %}{{ t }})", "ab   |   cd|ef"},
      {R"({{ "%(a)s-%(b)03d" % {"a": 1, "b": 2} }})", "1-002"},
      {R"({{ "%s"|format(none) }} {{ "%r" % "q" }} {{ "%+d" % 5 }} {{ "%#x" % 255 }} {{ "%06d" % -42 }})",
       "None 'q' +5 0xff -00042"},
      {R"({{ "%e %g %G" % (12345.678, 0.0001, 1e20) }} {{ "%d" % 3.9 }} {{ "%*d" % (4, 7) }})",
       "1.234568e+04 0.0001 1E+20 3    7"},
      {R"({{ 7 % 4 }} {{ "%d" % 7 ~ "!" }} {{ "%s" % [1, 2]|length }})", "3 7! 2"},
  };
  for (const auto& [source, wanted] : cases) {
    const auto text = ChatTemplate::from_source(source).value()->render(Json::array(), Json(), Json());
    EXPECT_EQ(text.ok() ? *text : text.error().to_string(), wanted) << source;
  }
  const auto text =
      ChatTemplate::from_source(R"({{ "%99999999d" % 1 }})").value()->render(Json::array(), Json(), Json());
  EXPECT_FALSE(text.ok());
}

TEST(ChatTemplate, OneThatDoesNotParseIsKept) {
  const auto kept =
      ChatTemplate::from_sources({{"default", "{% if x %}"}}, Json::object(), {}, ChatTemplate::Faults::keep);
  ASSERT_TRUE(kept.ok());
  ASSERT_TRUE((*kept)->fault());
  const Json messages = parsed(R"([{"role": "user", "content": "x"}])");
  const auto text = (*kept)->render((*kept)->adapted(messages, Json()), Json(), Json());
  ASSERT_FALSE(text.ok());
  EXPECT_EQ(text.error().message(), (*kept)->fault()->message());
}

// A template that shows no images among a tool's results gets them in the user message behind these, which is made if
// there is none.
TEST(Conversations, ImagesOfResultsGoToTheUser) {
  TemplateTraits traits;
  traits.calls = traits.results = true;
  traits.user.parts = traits.tool.parts = true;
  const Json messages = parsed(R"([
    {"role": "user", "content": "look"},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "abcdefghi", "type": "function",
      "function": {"name": "camera", "arguments": {}}}]},
    {"role": "tool", "tool_call_id": "abcdefghi", "content": [{"type": "text", "text": "taken"}, {"type": "image"}]},
    {"role": "user", "content": [{"type": "text", "text": "what is it?"}]}])");
  const Json adapted = adapt_conversation(messages, traits);
  ASSERT_EQ(adapted.items().size(), 4u);
  EXPECT_EQ(adapted.items()[2].find("content")->dump(), R"([{"type":"text","text":"taken"}])");
  EXPECT_EQ(adapted.items()[3].find("content")->dump(), R"([{"type":"image"},{"type":"text","text":"what is it?"}])");
  Json::Array without(messages.items().begin(), messages.items().end() - 1);
  const Json made = adapt_conversation(Json(std::move(without)), traits);
  ASSERT_EQ(made.items().size(), 4u);
  EXPECT_EQ(made.items()[3].dump(), R"({"role":"user","content":[{"type":"image"}]})");
  traits.images_in_results = true;
  EXPECT_EQ(adapt_conversation(messages, traits).items()[2].dump(), messages.items()[2].dump());
}

// GGUF files have `tokenizer.chat_template.tool_use` beside the default one; so do some folders.
TEST(Conversations, TheTemplateForToolsIsTakenWithTools) {
  const auto chat = ChatTemplate::from_sources({{"default", "plain {{ messages[0].content }}"},
                                                {"tool_use", "tools {{ tools | length }} {{ messages[0].content }}"}});
  ASSERT_TRUE(chat.ok()) << chat.error().to_string();
  const Json messages = parsed(R"([{"role": "user", "content": "hi"}])");
  EXPECT_EQ((*chat)->render(messages, Json(), Json()).value(), "plain hi");
  EXPECT_EQ((*chat)->render(messages, kTools, Json()).value(), "tools 1 hi");
}

}  // namespace
}  // namespace weft
