// Strict functions from end to end: the constraint that the request parser makes, compiled, allows calls in the model's
// form with arguments that match and no others; and what it allows is found again by the reader of answers.
#include "api/request_json.h"
#include "forms/tool_calls.h"
#include "test_vocabulary.h"

namespace weft {
namespace {

struct Form {
  const ToolForm* form;
  std::vector<std::string> one;   // texts with the call f({"x": 1})
  std::string two;                // a text with the calls f({"x": 1}) and g({})
  std::vector<std::string> text;  // answers without calls
};

std::unique_ptr<Grammar> strict_grammar(const ToolForm* form) {
  const auto body = parse_json(R"({"messages": [{"role": "user", "content": "hi"}], "tools": [
      {"type": "function", "function": {"name": "f", "strict": true, "parameters": {"type": "object", "properties": {"x": {"type": "integer"}},
                                        "required": ["x"], "additionalProperties": false}}},
      {"type": "function", "function": {"name": "g"}}]})");
  RequestRules rules;
  rules.tool_form = form;
  const auto call = parse_request(*body, RequestKind::chat, rules);
  EXPECT_TRUE(call.ok());
  auto grammar =
      Vocabulary::get().factory()->compile(spec(GrammarSpec::Kind::structural_tag, call->requests.at(0).guide.text));
  EXPECT_TRUE(grammar.ok()) << grammar.error().message();
  return std::move(grammar).value();
}

std::vector<ToolCall> calls_in(const ToolForm* form, const std::string& text) {
  ToolCallFinder finder({ToolMode::automatic, form, {"f", "g"}, true, {}});
  std::vector<ToolCall> calls;
  for (const ToolDelta& delta : finder.push(text).deltas) add_delta(delta, calls);
  for (const ToolDelta& delta : finder.finish().deltas) add_delta(delta, calls);
  return calls;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << text;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

TEST(ToolGuide, Strict) {
  const std::string x = "{\"x\": 1}";
  const std::string deepseek_f =
      "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n" + x + "\n```<｜tool▁call▁end｜>";
  const std::string deepseek_g = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n{}\n```<｜tool▁call▁end｜>";
  const std::string v31_f = "<｜tool▁call▁begin｜>f<｜tool▁sep｜>" + x + "<｜tool▁call▁end｜>";
  const std::string begin = "<｜tool▁calls▁begin｜>", end = "<｜tool▁calls▁end｜>";
  const std::vector<Form> forms = {
      {find_tool_form("hermes"),
       {"<tool_call>\n{\"name\": \"f\", \"arguments\": " + x + "}\n</tool_call>",
        "Hm. <tool_call>\n{\"name\": \"f\", \"arguments\": " + x + "}\n</tool_call>"},
       "<tool_call>\n{\"name\": \"f\", \"arguments\": " + x +
           "}\n</tool_call>\n<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>",
       {"", "No call. {\"name\": \"f\"}"}},
      {find_tool_form("nemotron"),
       {"<TOOLCALL>[{\"name\": \"f\", \"arguments\": " + x + "}]</TOOLCALL>",
        "<toolcall> {\"name\": \"f\", \"arguments\": " + x + "} </toolcall>"},
       "<TOOLCALL>[{\"name\": \"f\", \"arguments\": " + x + "}, {\"name\": \"g\", \"arguments\": {}}]</TOOLCALL>",
       {"No call."}},
      {find_tool_form("mistral"),
       {"[TOOL_CALLS][{\"name\": \"f\", \"arguments\": " + x + "}]",
        "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": " + x + "}]", "Hm.[TOOL_CALLS]f[ARGS]" + x},
       "[TOOL_CALLS]f[ARGS]" + x + "[TOOL_CALLS]g[ARGS]{}",
       {"No call."}},
      {find_tool_form("deepseek_v3"),
       {begin + deepseek_f + end, "Hm." + begin + v31_f + end},
       begin + deepseek_f + "\n" + deepseek_g + end,
       {"No call."}},
      {find_tool_form("llama3_json"),
       {"{\"name\": \"f\", \"parameters\": " + x + "}"},
       "{\"name\": \"f\", \"parameters\": " + x + "}; {\"name\": \"g\", \"parameters\": {}}",
       {"", "No call.", "x {\"name\": 1}"}},
  };
  for (const Form& form : forms) {
    const auto grammar = strict_grammar(form.form);
    const auto matches = [&](const std::string& text) { return Vocabulary::get().matches(*grammar, text); };
    for (const std::string& text : form.text) {
      EXPECT_TRUE(matches(text)) << text;
      EXPECT_TRUE(calls_in(form.form, text).empty()) << text;
    }
    for (const std::string& text : form.one) {
      EXPECT_TRUE(matches(text)) << text;
      const std::vector<ToolCall> calls = calls_in(form.form, text);
      ASSERT_EQ(calls.size(), 1u) << text;
      EXPECT_EQ(calls[0].name, "f");
      EXPECT_EQ(calls[0].arguments, x);
      EXPECT_FALSE(matches(replaced(text, x, "{\"x\": \"a\"}"))) << text;
      EXPECT_FALSE(matches(replaced(text, x, "{}"))) << text;
      EXPECT_FALSE(matches(text.substr(0, text.find(x)))) << text;
    }
    EXPECT_TRUE(matches(form.two)) << form.two;
    EXPECT_EQ(calls_in(form.form, form.two).size(), 2u);
    EXPECT_EQ(calls_in(form.form, form.two).at(1).name, "g");
  }
}

}  // namespace
}  // namespace weft
