// Tool calls in the forms that models write, in one piece and cut at every place. The texts follow the models' chat
// templates and cards.
#include "forms/tool_calls.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace weft {
namespace {

// The forms by short names.
const ToolForm* const generic = find_tool_form("generic");
const ToolForm* const llama_json = find_tool_form("llama3_json");
const ToolForm* const pythonic = find_tool_form("llama4_pythonic");
const ToolForm* const mistral = find_tool_form("mistral");
const ToolForm* const hermes = find_tool_form("hermes");
const ToolForm* const xml = find_tool_form("qwen3_coder");
const ToolForm* const deepseek = find_tool_form("deepseek_v3");
const ToolForm* const nemotron = find_tool_form("nemotron");

struct Case {
  const ToolForm* form;
  std::string text;
  std::string content;
  std::vector<ToolCall> calls;
};

ToolCallFinder finder(ToolMode mode, const ToolForm* form,
                      std::vector<std::string> names = {"f", "g", "add", "multiply"}) {
  return ToolCallFinder(
      {mode, form, std::move(names), false,
       Json::object(
           {{"f", Json::object({{"properties", Json::object({{"s", Json::object({{"type", "string"}})},
                                                             {"n", Json::object({{"type", "integer"}})}})}})}})});
}

struct Answer {
  std::string content;
  std::vector<ToolCall> calls;
  bool operator==(const Answer&) const = default;
};

void add(const ToolOutput& output, Answer& answer) {
  answer.content += output.content;
  for (const ToolDelta& delta : output.deltas) {
    // A name comes with the first step of its call and alone.
    EXPECT_EQ(delta.name.empty(), delta.index < answer.calls.size());
    EXPECT_TRUE(delta.name.empty() || delta.arguments.empty());
    add_delta(delta, answer.calls);
  }
}

// `text` in pieces that end at `cuts`.
Answer find_in_pieces(ToolCallFinder finder, const std::string& text, std::initializer_list<size_t> cuts) {
  Answer answer;
  size_t from = 0;
  for (const size_t to : cuts) {
    add(finder.push(std::string_view(text).substr(from, to - from)), answer);
    from = to;
  }
  add(finder.push(std::string_view(text).substr(from)), answer);
  add(finder.finish(), answer);
  return answer;
}

Answer find(ToolCallFinder finder, const std::string& text, size_t piece) {
  Answer answer;
  for (size_t at = 0; at < text.size(); at += piece) add(finder.push(std::string_view(text).substr(at, piece)), answer);
  add(finder.finish(), answer);
  return answer;
}

void check(const Case& test) {
  for (const size_t piece : {size_t{1}, size_t{2}, size_t{3}, size_t{7}, size_t{13}, size_t{10000}}) {
    const Answer answer = find(finder(ToolMode::automatic, test.form), test.text, piece);
    EXPECT_EQ(answer.content, test.content) << test.text << " by " << piece;
    ASSERT_EQ(answer.calls.size(), test.calls.size()) << test.text << " by " << piece;
    for (size_t i = 0; i < test.calls.size(); ++i) {
      EXPECT_EQ(answer.calls[i].name, test.calls[i].name) << test.text << " by " << piece;
      EXPECT_EQ(answer.calls[i].arguments, test.calls[i].arguments) << test.text << " by " << piece;
    }
  }
}

TEST(ToolCalls, Hermes) {
  for (const ToolForm* form : {hermes, generic}) {
    check({form, "Just text, 3 < 4.", "Just text, 3 < 4.", {}});
    check({form, "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>", "", {{"f", "{\"x\": 1}"}}});
    check({form,
           "Let me see. <tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>\n<tool_call>{\"name\": \"g\", "
           "\"arguments\": "
           "{\"y\": {\"z\": \"}<\\\"\"}}}</tool_call>\n",
           "Let me see.",
           {{"f", "{}"}, {"g", "{\"y\": {\"z\": \"}<\\\"\"}}"}}});
    check(
        {form,
         "<tool_call>{\"type\": \"function\", \"function\": {\"name\": \"f\", \"arguments\": {\"x\": 1}}}</tool_call>",
         "",
         {{"f", "{\"x\": 1}"}}});
    check({form, "<tool_call>{\"arguments\": {\"x\": 1}, \"name\": \"f\"}</tool_call>", "", {{"f", "{\"x\": 1}"}}});
    check({form, "<tool_call>{\"name\": \"f\"}</tool_call>", "", {{"f", "{}"}}});
    check({form,
           "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"x\\\": 1}\"}</tool_call>",
           "",
           {{"f", "{\"x\": 1}"}}});
    check({form, "<tool_call>broken</tool_call> after", "<tool_call>broken</tool_call> after", {}});
    check({form,
           "<tool_call>{\"name\": \"other\", \"arguments\": {}}</tool_call>",
           "<tool_call>{\"name\": \"other\", \"arguments\": {}}</tool_call>",
           {}});
    check({form, "<tool_call>{\"name\": \"f\"", "<tool_call>{\"name\": \"f\"", {}});
    check({form, "<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": \"cut", "", {{"f", "{\"x\": \"cut\"}"}}});
    check({form, "a <tool", "a <tool", {}});
    check({form, " \n", " \n", {}});
    check({form, "", "", {}});
  }
  // A JSON answer is no call, and other forms are text for this model.
  check({hermes, "{\"name\": \"f\", \"parameters\": {}}", "{\"name\": \"f\", \"parameters\": {}}", {}});
  check({hermes, "[TOOL_CALLS]f{}", "[TOOL_CALLS]f{}", {}});
}

// What stands between a text and a call is the template's, which writes it again: sent back with the text, it would be
// there twice.
TEST(ToolCalls, WhiteSpaceBeforeACallIsOfItsForm) {
  const std::string call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>";
  check({hermes, "I look.\n" + call, "I look.", {{"f", "{}"}}});
  check({hermes, "I look.\n\n" + call + "\n" + call + "\n", "I look.", {{"f", "{}"}, {"f", "{}"}}});
  check({hermes, " I \n look. \n" + call + "\nSo.\n", " I \n look.\nSo.\n", {{"f", "{}"}}});
  check({hermes, "I look.\n<tool_call> is a mark. \n", "I look.\n<tool_call> is a mark. \n", {}});
}

TEST(ToolCalls, Mistral) {
  check({mistral,
         "[TOOL_CALLS] [{\"name\": \"g\", \"arguments\": {\"a\": \"b\"}, \"id\": \"abcdefghi\"}, {\"name\": \"f\", "
         "\"arguments\": {}}] ",
         "",
         {{"g", "{\"a\": \"b\"}"}, {"f", "{}"}}});
  check({generic, "[TOOL_CALLS][{\"name\": \"g\", \"arguments\": {}}]", "", {{"g", "{}"}}});
  // vllm-project/vllm issue 48318: two calls in one piece.
  check({mistral,
         "I will help.[TOOL_CALLS]add{\"a\": 3.5, \"b\": 4}[TOOL_CALLS]multiply{\"a\": 3, \"b\": 6}",
         "I will help.",
         {{"add", "{\"a\": 3.5, \"b\": 4}"}, {"multiply", "{\"a\": 3, \"b\": 6}"}}});
  check({mistral,
         "[TOOL_CALLS]f[ARGS]{\"x\": 1}[TOOL_CALLS]g[CALL_ID]abcdefghi[ARGS]{}",
         "",
         {{"f", "{\"x\": 1}"}, {"g", "{}"}}});
  check({mistral, "[TOOL_CALLS]unknown{\"x\": 1}", "[TOOL_CALLS]unknown{\"x\": 1}", {}});
}

TEST(ToolCalls, Llama) {
  for (const ToolForm* form : {llama_json, pythonic, generic}) {
    check({form, "{\"name\": \"f\", \"parameters\": {\"x\": 1}}", "", {{"f", "{\"x\": 1}"}}});
    check({form,
           "<|python_tag|>{\"name\": \"f\", \"parameters\": {\"x\": 1}}; {\"name\": \"g\", \"parameters\": {}}",
           "",
           {{"f", "{\"x\": 1}"}, {"g", "{}"}}});
    check({form, "\n{\"type\": \"function\", \"name\": \"f\", \"parameters\": null}", "", {{"f", "{}"}}});
    check({form, "[{\"name\": \"f\", \"arguments\": \"{}\"}]", "", {{"f", "{}"}}});
    check({form, "{\"name\": \"unknown\", \"parameters\": {}}", "{\"name\": \"unknown\", \"parameters\": {}}", {}});
    check({form, "{\"city\": \"Paris\"}", "{\"city\": \"Paris\"}", {}});
    check({form, "[1, 2]", "[1, 2]", {}});
    check({form, "[f](http://a)", "[f](http://a)", {}});
  }
}

TEST(ToolCalls, Pythonic) {
  check({pythonic, "[f(a=1, b=\"x\"), g()]", "", {{"f", "{\"a\": 1, \"b\": \"x\"}"}, {"g", "{}"}}});
  check({pythonic,
         "<|python_start|>[f(s='it\\'s \\u00e9', l=[1, -2.5, True, None], d={'k': (1,), \"e\": {}})]<|python_end|>",
         "",
         {{"f", "{\"s\": \"it's \xc3\xa9\", \"l\": [1, -2.5, true, null], \"d\": {\"k\": [1], \"e\": {}}}"}}});
  check({pythonic, "[unknown(a=1)]", "[unknown(a=1)]", {}});
  // As the template writes earlier calls.
  const std::string empty = "<|python_start|><|python_end|>", json = "{\"name\": \"f\", \"parameters\": {\"a\": 1}}";
  check({pythonic, empty + json, "", {{"f", "{\"a\": 1}"}}});
  check({pythonic, empty + json + json, "", {{"f", "{\"a\": 1}"}, {"f", "{\"a\": 1}"}}});
  check({pythonic, "I look.\n" + empty + json, "I look.", {{"f", "{\"a\": 1}"}}});
  check({pythonic, "<|python_start|>I look.<|python_end|>" + json, "<|python_start|>I look.", {{"f", "{\"a\": 1}"}}});
  check({pythonic, empty + "text", empty + "text", {}});
  check({pythonic, "<|python_start|>", "<|python_start|>", {}});
  check({pythonic, "[f(a=1, b=\"cut", "", {{"f", "{\"a\": 1}"}}});
}

TEST(ToolCalls, Xml) {
  const std::string call =
      "<tool_call>\n<function=f>\n<parameter=s>\n12\nlines\n</parameter>\n<parameter=n>\n12\n</"
      "parameter>\n<parameter=o>\n{\"a\": "
      "[1]}\n</parameter>\n</function>\n</tool_call>";
  check({xml,
         call + "\n<tool_call>\n<function=g>\n</function>\n</tool_call>",
         "",
         {{"f", "{\"s\": \"12\\nlines\", \"n\": 12, \"o\": {\"a\":[1]}}"}, {"g", "{}"}}});
  check({xml, "Now: <function=f>\n<parameter=s>\n1\n</parameter>\n</function>", "Now:", {{"f", "{\"s\": \"1\"}"}}});
  check({xml, "<function=unknown>\n</function>", "<function=unknown>\n</function>", {}});
}

TEST(ToolCalls, DeepSeek) {
  check({deepseek,
         "Wait.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"x\": "
         "1}\n```<｜tool▁call▁end｜>\n"
         "<｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
         "Wait.",
         {{"f", "{\"x\": 1}"}, {"g", "{}"}}});
  check({deepseek,
         "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"x\": "
         "1}<｜tool▁call▁end｜><｜tool▁call▁begin｜>g<｜tool▁sep｜>{}"
         "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
         "",
         {{"f", "{\"x\": 1}"}, {"g", "{}"}}});
}

TEST(ToolCalls, Nemotron) {
  check({nemotron,
         "<TOOLCALL>[{\"name\": \"g\", \"arguments\": {}}, {\"name\": \"f\", \"arguments\": {\"x\": 1}}]</TOOLCALL>",
         "",
         {{"g", "{}"}, {"f", "{\"x\": 1}"}}});
  check({nemotron,
         "<toolcall> {\"type\": \"function\", \"arguments\": {\"x\": 1}, \"name\": \"f\"} </toolcall>",
         "",
         {{"f", "{\"x\": 1}"}}});
}

// Arguments that are almost JSON. Right values: Python's json.loads or ast.literal_eval of what was meant.
TEST(ToolCalls, MendsArguments) {
  const std::initializer_list<std::pair<const char*, const char*>> cases = {
      {"{'a': True, \"b\": None, 'c': 'it\\'s \"x\"'}", "{\"a\": true, \"b\": null, \"c\": \"it's \\\"x\\\"\"}"},
      {"{\"a\": \"two\nlines\t\"}", "{\"a\": \"two\\nlines\\t\"}"},
      {"{\"a\": \"\\d+ \\x41 \\u12 \\'\"}", "{\"a\": \"\\\\d+ \\u0041 \\\\u12 '\"}"},
      {"{\"a\": [1, 2,], }", "{\"a\": [1, 2] }"},
      {"{\"a\": .5, \"b\": +1, \"c\": 1E-7, \"d\": 1.50, \"e\": NaN}",
       "{\"a\": 0.5, \"b\": 1, \"c\": 1E-7, \"d\": 1.50, \"e\": null}"},
      {"{\"a\": \"\\ud83dx\\ude00\\ud83d\\ud83d\\ude00\\ud83d\"}",
       "{\"a\": \"\\ufffdx\\ufffd\\ufffd\\ud83d\\ude00\\ufffd\"}"},
      {"{\"a\": \"\\ud83d\\ude00\", \"b\": 18446744073709551616}",
       "{\"a\": \"\\ud83d\\ude00\", \"b\": 18446744073709551616}"},
      {"\"\"", "{}"},
      {"\" \"", "{}"},
      {"null", "{}"},
      {"[]", "{}"},
      {"\"{'a': 1}\"", "{\"a\": 1}"},
  };
  for (const auto& [written, meant] : cases) {
    check({hermes,
           "<tool_call>{\"name\": \"f\", \"arguments\": " + std::string(written) + "}</tool_call>",
           "",
           {{"f", meant}}});
    EXPECT_TRUE(parse_json(meant).ok()) << meant;
  }
  // Braces that are missing or too many.
  check({hermes, "<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": 1}</tool_call>", "", {{"f", "{\"x\": 1}"}}});
  check({hermes, "<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": [1</tool_call>", "", {{"f", "{\"x\": [1]}"}}});
  check({hermes, "<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": 1}}}\n</tool_call>", "", {{"f", "{\"x\": 1}"}}});
  // What is no object is no call.
  for (const char* text : {"<tool_call>{\"name\": \"f\", \"arguments\": \"x\"}</tool_call>",
                           "<tool_call>{\"name\": \"f\", \"arguments\": 3}</tool_call>",
                           "<tool_call>{\"name\": \"f\", \"arguments\": {x}}</tool_call>"})
    check({hermes, text, text, {}});
}

// Wherever an answer ends, its calls have whole arguments, and a call without any is text.
TEST(ToolCalls, EndsAtEveryPlace) {
  const std::initializer_list<std::pair<const ToolForm*, std::string>> texts = {
      {hermes,
       "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": {\"b\": [1, \"x\\n\\ud83d\\ude00\", true]}, \"c\": "
       "-1.5e3}}</tool_call>"},
      {llama_json, "{\"name\": \"f\", \"parameters\": {\"a\": 1}}; {\"name\": \"g\", \"parameters\": {}}"},
      {pythonic, "[f(a=[1, 'x'], b={'k': None}), g(c=0x10)]"},
      {mistral, "[TOOL_CALLS]f[ARGS]{\"a\": [{}, \"b\"]}[TOOL_CALLS]g{}"},
      {xml,
       "<tool_call>\n<function=f>\n<parameter=s>\nab\n</parameter>\n<parameter=n>\n1\n</parameter>\n</function>\n</"
       "tool_call>"},
      {deepseek, "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"x\": \"y\"}\n```<｜tool▁call▁end｜>"},
      {nemotron,
       "<TOOLCALL>[{\"name\": \"f\", \"arguments\": {\"x\": 1}}, {\"name\": \"g\", \"arguments\": {}}]</TOOLCALL>"},
  };
  for (const auto& [form, text] : texts)
    for (size_t size = 0; size <= text.size(); ++size) {
      const std::string cut = text.substr(0, size);
      const Answer answer = find(finder(ToolMode::automatic, form), cut, 1);
      for (const ToolCall& call : answer.calls) {
        const auto arguments = parse_json(call.arguments);
        EXPECT_TRUE(arguments.ok() && arguments->is_object()) << cut << ": " << call.arguments;
      }
      if (answer.calls.empty()) {
        EXPECT_EQ(answer.content, cut);
      }
      EXPECT_EQ(find(finder(ToolMode::automatic, form), cut, 10000), answer) << cut;
    }
  const std::string arguments = "{\"x\": \"a\\n\", \"y\": [1, {}]}";
  for (size_t size = 0; size < arguments.size(); ++size) {
    const std::string cut = arguments.substr(0, size), list = "[{\"name\": \"f\", \"arguments\": " + cut;
    for (const size_t piece : {size_t{1}, size_t{1000}}) {
      for (const Answer& answer : {find(finder(ToolMode::named, hermes, {"f"}), cut, piece),
                                   find(finder(ToolMode::any, hermes), list, piece)}) {
        if (answer.calls.empty()) {
          EXPECT_TRUE(answer.content == cut || answer.content == list) << cut;
        } else {
          EXPECT_TRUE(parse_json(answer.calls[0].arguments).ok()) << cut << ": " << answer.calls[0].arguments;
        }
      }
    }
  }
}

TEST(ToolCalls, XmlWithTagsMissing) {
  const std::string open = "<tool_call>\n<function=f>\n", close = "</function>\n</tool_call>";
  check({xml, open + "<parameter=s>\n{\"a\": 1}\n" + close, "", {{"f", "{\"s\": \"{\\\"a\\\": 1}\"}"}}});
  check({xml, open + "<parameter=s>1<parameter=n>2" + close, "", {{"f", "{\"s\": \"1\", \"n\": 2}"}}});
  check({xml, open + "<parameter=o>\n1\n<parameter=p>\n2\n" + close, "", {{"f", "{\"o\": 1, \"p\": 2}"}}});
  check({xml, open + "<parameter=s>\nab\n</parameter>\n</parameter>\n" + close, "", {{"f", "{\"s\": \"ab\"}"}}});
  check({xml, open + "<parameter=s>\nab\n</tool_call>", "", {{"f", "{\"s\": \"ab\"}"}}});
  check({xml, open + "<parameter=s>\nab\n</parameter>\n</tool_call>\nDone", "\nDone", {{"f", "{\"s\": \"ab\"}"}}});
  check({xml, open + "<parameter=s>\nab\n", "", {{"f", "{\"s\": \"ab\"}"}}});
  check({xml, open + "</tool_call>", "", {{"f", "{}"}}});
  check({xml, open + "text" + close, open + "text" + close, {}});
  check({xml,
         "<function=f>\n<parameter=s>\nab\n</parameter>\n</function>\n</tool_call>",
         "",
         {{"f", "{\"s\": \"ab\"}"}}});
  // Text that speaks of tags.
  check({xml,
         open + "<parameter=s>\na </function> b <parameter=z> </tool_call> c\n</parameter>\n" + close,
         "",
         {{"f", "{\"s\": \"a </function> b <parameter=z> </tool_call> c\"}"}}});
  // Two functions in one call.
  const std::string two = open + "</function>\n<function=g>\n" + close;
  const Answer whole = find(finder(ToolMode::automatic, xml), two, 10000);
  ASSERT_EQ(whole.calls.size(), 2u);
  for (size_t cut = 0; cut < two.size(); ++cut)
    EXPECT_EQ(find_in_pieces(finder(ToolMode::automatic, xml), two, {cut}), whole) << cut;
}

TEST(ToolCalls, SeparatorsBeforeTextAreText) {
  const std::string call = "{\"name\": \"f\", \"parameters\": {}}";
  check({llama_json, call + "; and so on", "; and so on", {{"f", "{}"}}});
  check({llama_json, call + ", {\"a\": 1}", ", {\"a\": 1}", {{"f", "{}"}}});
  check({llama_json, call + ";", ";", {{"f", "{}"}}});
  check({pythonic, "[f(), 3]", ", 3]", {{"f", "{}"}}});
}

// Every form's own example, in up to three pieces that end anywhere, is read as in one piece.
TEST(ToolCalls, CutAtEveryPlace) {
  const std::string json = "{\"name\": \"f\", \"arguments\": {\"s\": \"}<\\\"\"}}";
  const std::map<std::string_view, std::string> examples = {
      {"generic", json},
      {"llama3_json", json + "; {\"name\": \"g\", \"parameters\": {}}"},
      {"llama4_pythonic", "<|python_start|>[f(s='it\\'s' r\"x\", n=[-.5, True]), g()]<|python_end|>"},
      {"mistral", "Hm.[TOOL_CALLS]f[CALL_ID]abc[ARGS]{\"x\": 1}[TOOL_CALLS]g{}"},
      {"hermes", "Hm.\n<tool_call>\n" + json + "\n</tool_call>\n<tool_call>{\"name\": \"g\"}</tool_call>"},
      {"qwen3_coder",
       "Hm.\n<tool_call>\n<function=f>\n<parameter=s>\n1\n</parameter>\n<parameter=n>\n2\n</parameter>\n"
       "</function>\n</tool_call>"},
      {"deepseek_v3",
       "Hm.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"x\": 1}\n"
       "```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"},
      {"nemotron", "Hm. <TOOLCALL>[" + json + ", {\"name\": \"g\", \"arguments\": {}}]</TOOLCALL>"},
  };
  for (const ToolFormFunction form : tool_forms()) {
    const std::string_view name = form().names.front();
    ASSERT_TRUE(examples.contains(name)) << name << " needs an example here";
    const std::string& text = examples.at(name);
    for (const ToolForm* reader : {&form(), generic}) {
      const Answer whole = find_in_pieces(finder(ToolMode::automatic, reader), text, {});
      ASSERT_FALSE(whole.calls.empty()) << name;
      EXPECT_EQ(whole.calls[0].name, "f") << name;
      for (size_t first = 0; first < text.size(); ++first)
        for (size_t second = first; second < text.size(); ++second)
          ASSERT_EQ(find_in_pieces(finder(ToolMode::automatic, reader), text, {first, second}), whole)
              << name << " cut at " << first << " and " << second;
    }
  }
}

// What answers are made of: marks, whole and half, and pieces of what stands behind them.
const std::string_view kFragments[] = {
    "<tool_call>",
    "</tool_call>",
    "<function=f>",
    "<function=g>",
    "<function=x>",
    "</function>",
    "<parameter=s>",
    "<parameter=n>",
    "<parameter=z>",
    "<parameter=",
    "</parameter>",
    "<|python_tag|>",
    "<|python_start|>",
    "<|python_end|>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "[CALL_ID]",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁calls▁begin｜>",
    "```json\n",
    "```",
    "<TOOLCALL>",
    "</TOOLCALL>",
    "<toolcall>",
    "</toolcall>",
    "<tool",
    "</",
    "<",
    "[TOOL",
    "<|py",
    "{\"name\": \"f\", \"arguments\": ",
    "{\"name\": \"g\", \"parameters\": {",
    "{\"arguments\": {\"a\": ",
    "\"name\": \"f\"",
    "\"function\": {",
    "\"id\": ",
    "[f(a=",
    "[g(",
    "f(",
    "b=",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    ",",
    ":",
    ";",
    "=",
    "\"",
    "'",
    "\"\"\"",
    "''''",
    "\\",
    "\\u00e9",
    "\\ud83d\\ude00",
    "\\x41",
    "\\12",
    "\\'",
    "r'",
    "rb",
    "True",
    "null",
    "NaN",
    "1",
    "-",
    "0x1F",
    "1_0.5e3",
    "{'k': (1,), \"e\": {}}",
    "\"s\": \"x\"",
    "(1)",
    "f",
    "x",
    " ",
    "\n",
    " \n\t ",
    "é",
    "\x01",
};

const std::string_view kBeginnings[] = {
    "",
    "<tool_call>{\"name\": \"f\", \"arguments\": ",
    "<tool_call>\n<function=f>\n<parameter=s>",
    "<|python_start|>[f(a=",
    "[f(a=1, ",
    "[TOOL_CALLS]f{",
    "[TOOL_CALLS][{\"name\": \"g\", \"arguments\": {",
    "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{",
    "<TOOLCALL>[{\"name\": \"f\", \"arguments\": {",
    "{\"name\": \"f\", \"parameters\": {\"a\": ",
    "{\"arguments\": {",
};

std::string random_text(std::mt19937& random) {
  const auto pick = [&](const auto& list) { return std::string(list[random() % std::size(list)]); };
  std::string text = pick(kBeginnings);
  const std::string often[] = {pick(kFragments), pick(kFragments), pick(kFragments)};
  for (size_t left = random() % 20; left > 0; --left) text += random() % 2 ? pick(often) : pick(kFragments);
  return text;
}

// Readers go on where they stopped. After every piece, what has come out must be what one reader makes of the text so
// far in one piece: nothing later and nothing else.
TEST(ToolCalls, RandomTextsInRandomPieces) {
  std::mt19937 random(19);
  size_t calls = 0;
  for (int round = 0; round < 2000; ++round) {
    const std::string text = random_text(random);
    const ToolForm* const form = &tool_forms()[random() % tool_forms().size()]();
    const ToolMode mode = round % 8 == 0 ? ToolMode::any : round % 8 == 1 ? ToolMode::named : ToolMode::automatic;
    const size_t longest = round % 3 == 0 ? 1 : 1 + random() % 20;
    ToolCallFinder pieces = finder(mode, form);
    Answer so_far;
    for (size_t at = 0; at < text.size();) {
      const size_t size = 1 + random() % longest;
      add(pieces.push(std::string_view(text).substr(at, size)), so_far);
      at = std::min(at + size, text.size());
      Answer whole;
      add(finder(mode, form).push(std::string_view(text).substr(0, at)), whole);
      ASSERT_EQ(so_far, whole) << form->names.front() << ", the first " << at << " bytes of: " << text;
    }
    add(pieces.finish(), so_far);
    ASSERT_EQ(so_far, find(finder(mode, form), text, text.size() + 1)) << form->names.front() << ": " << text;
    calls += so_far.calls.size();
  }
  EXPECT_GT(calls, 150u);
}

// A head that turns out to be none is text, and marks in it count, unless that would read the text n times.
TEST(ToolCalls, HeadsWithinHeads) {
  const std::string call = "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
  const std::string head = "<tool_call>{\"id\": [";
  check({hermes, head + head + call, head + head, {{"f", "{}"}}});
  std::string heads;
  for (int i = 0; i < 5000; ++i) heads += head;
  const Answer many = find(finder(ToolMode::automatic, hermes), heads + call, 100000);
  EXPECT_TRUE(many.content == heads + call);
  EXPECT_TRUE(many.calls.empty());
  EXPECT_TRUE(find(finder(ToolMode::automatic, hermes), heads + call, 7) == many);
}

TEST(ToolCalls, TextGoesThroughAtOnce) {
  ToolCallFinder hello = finder(ToolMode::automatic, generic);
  EXPECT_EQ(hello.push("Hello <").content, "Hello");
  EXPECT_EQ(hello.push("b> and").content, " <b> and");
  ToolCallFinder json = finder(ToolMode::automatic, llama_json);
  EXPECT_EQ(json.push("{\"city\":").content, "{\"city\":");
}

TEST(ToolCalls, ArgumentsGoThroughAtOnce) {
  ToolCallFinder call = finder(ToolMode::automatic, hermes);
  EXPECT_TRUE(call.push("<tool_call>{\"name\": \"f\", \"arguments\"").deltas.empty());
  EXPECT_TRUE(call.push(": {\"x\"").deltas.empty());  // a call begins with its first value
  ToolOutput output = call.push(": [1");
  ASSERT_EQ(output.deltas.size(), 2u);
  EXPECT_EQ(output.deltas[0].name, "f");
  EXPECT_EQ(output.deltas[1].arguments, "{\"x\": [");
  output = call.push(", \"te");
  ASSERT_EQ(output.deltas.size(), 1u);
  EXPECT_EQ(output.deltas[0].arguments, "1, \"te");
  output = call.push("xt\"]}}</tool");
  ASSERT_EQ(output.deltas.size(), 1u);
  EXPECT_EQ(output.deltas[0].arguments, "xt\"]}");
}

TEST(ToolCalls, StrictCountsOneForm) {
  const std::string text = "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
  EXPECT_EQ(find(ToolCallFinder({ToolMode::automatic, generic, {"f"}, true, {}}), text, 1).content, text);
  EXPECT_EQ(find(ToolCallFinder({ToolMode::automatic, hermes, {"f"}, true, {}}), text, 1).calls.size(), 1u);
  EXPECT_EQ(
      find(ToolCallFinder({ToolMode::automatic, generic, {"f"}, true, {}}), "{\"name\": \"f\", \"parameters\": {}}", 1)
          .calls.size(),
      1u);
}

TEST(ToolCalls, Forced) {
  const Answer named = find(finder(ToolMode::named, hermes, {"f"}), "{\"x\":1}", 3);
  ASSERT_EQ(named.calls.size(), 1u);
  EXPECT_EQ(named.calls[0].name, "f");
  EXPECT_EQ(named.calls[0].arguments, "{\"x\":1}");
  EXPECT_EQ(find(finder(ToolMode::named, hermes, {"f"}), "", 1).calls.size(), 0u);
  for (const size_t piece : {size_t{1}, size_t{100}}) {
    const Answer any = find(finder(ToolMode::any, hermes),
                            "[{\"name\":\"g\",\"arguments\":{}}, {\"name\":\"f\",\"arguments\":{\"x\":[]}}]", piece);
    ASSERT_EQ(any.calls.size(), 2u);
    EXPECT_EQ(any.calls[0].name, "g");
    EXPECT_EQ(any.calls[1].arguments, "{\"x\":[]}");
    EXPECT_EQ(any.content, "");
  }
}

}  // namespace
}  // namespace weft
