// What a model writes, token by token: a client can steer it to write anything, so the readers of tool calls and of
// thoughts may look at each byte a bounded number of times, whatever it is. Texts come in small pieces, as tokens do,
// and in one, as what was held back does.
#include "forms/reasoning.h"
#include "forms/tool_calls.h"
#include "linear.h"

namespace weft {
namespace {

constexpr size_t kBytes = 3000, kToken = 4;

struct How {
  const char* name;
  ToolMode mode = ToolMode::automatic;
  bool strict = false;
  size_t piece = kToken;
};

void read(const std::string& form, const How& how, const std::string& text) {
  static const Json parameters = parse_json(R"({"f": {"properties": {"a": {"type": "string"}}}})").value();
  ToolCallFinder finder({how.mode, find_tool_form(form), {"f"}, how.strict, parameters});
  ReasoningSplitter splitter(Thinking::may_open);
  std::vector<ToolCall> calls;
  const auto take = [&](const ToolOutput& output) {
    for (const ToolDelta& delta : output.deltas) add_delta(delta, calls);
  };
  for (size_t at = 0; at < text.size(); at += how.piece)
    take(finder.push(splitter.push(std::string_view(text).substr(at, how.piece)).content));
  take(finder.push(splitter.finish().content));
  take(finder.finish());
}

std::string repeated(const std::string& unit, size_t bytes) {
  std::string text;
  while (text.size() < bytes) text += unit;
  return text;
}

// What a call begins with, by form.
const std::pair<const char*, std::string> kOpenings[] = {
    {"llama3_json", R"(<|python_tag|>{"name": "f", "parameters": )"},
    {"llama4_pythonic", "<|python_start|>[f(a="},
    {"mistral", R"([TOOL_CALLS][{"name": "f", "arguments": )"},
    {"mistral", "[TOOL_CALLS]f[ARGS]"},
    {"hermes", R"(<tool_call>{"name": "f", "arguments": )"},
    {"qwen3_coder", "<tool_call><function=f><parameter=a>"},
    {"deepseek", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n"},
    {"nemotron", R"(<TOOLCALL>[{"name": "f", "arguments": )"},
    {"generic", R"(<tool_call>{"name": "f", "arguments": )"},
};

// Texts of about n bytes that stand behind the beginning of a call, or alone.
const Shape kBodies[] = {
    {"a long string", [](size_t n) { return R"({"a": ")" + std::string(n, 'x') + R"("})"; }},
    {"a string without end", [](size_t n) { return R"({"a": ")" + std::string(n, 'x'); }},
    {"a string of escapes", [](size_t n) { return R"({"a": ")" + repeated(R"(\u00e9\n)", n); }},
    {"a string of halves of pairs", [](size_t n) { return R"({"a": ")" + repeated(R"(\ud83d)", n); }},
    {"a long key", [](size_t n) { return R"({")" + std::string(n, 'x') + R"(": 1})"; }},
    {"white space in an object", [](size_t n) { return "{" + std::string(n, ' ') + R"("a": 1})"; }},
    {"numbers", [](size_t n) { return R"({"a": )" + std::string(n, '1'); }},
    {"hexadecimal numbers", [](size_t n) { return R"({"a": [)" + repeated("0x" + std::string(200, 'f') + ", ", n); }},
    {"many values",
     [](size_t n) { return R"({"a": )" + list_of(n / 4, [](size_t) { return std::string("1"); }) + "}"; }},
    {"many members", [](size_t n) { return object_of(n / 16, numbered, [](size_t) { return std::string("1"); }); }},
    {"objects in objects", [](size_t n) { return repeated(R"({"a": )", n); }},
    {"an object and surplus braces", [](size_t n) { return R"({"a": 1})" + std::string(n, '}'); }},
    {"an object and braces with spaces", [](size_t n) { return R"({"a": 1})" + repeated("} ", n); }},
    {"an object and spaces", [](size_t n) { return R"({"a": 1})" + std::string(n, ' ') + "x"; }},
    {"an object and members", [](size_t n) { return R"({"a": 1})" + repeated(R"(, "id": 1)", n); }},
    {"an object and a long member", [](size_t n) { return R"({"a": 1}, "id": )" + std::string(n, '['); }},
    {"an object and a long word", [](size_t n) { return R"({"a": 1}, "id": )" + std::string(n, 'x'); }},
    {"an object and a long string", [](size_t n) { return R"({"a": 1}, "id": ")" + std::string(n, 'x'); }},
    {"an object and separators", [](size_t n) { return R"({"a": 1}})" + std::string(n, ';'); }},
    {"a Python string", [](size_t n) { return "'" + std::string(n, 'x') + "')]"; }},
    {"a Python string of escapes", [](size_t n) { return "'" + repeated(R"(\U0001F600\x41\12)", n) + "')]"; }},
    {"a Python string in three quotes", [](size_t n) { return "\"\"\"" + repeated("\"\" \n", n) + "\"\"\")]"; }},
    {"a raw Python string", [](size_t n) { return "r'" + repeated("\\'", n); }},
    {"Python strings side by side", [](size_t n) { return repeated("'x' \"y\" ", n); }},
    {"Python strings, one after the other", [](size_t n) { return "[" + repeated("'x', ", n); }},
    {"Python values in parentheses", [](size_t n) { return "[" + repeated("(1), ", n); }},
    {"Python members", [](size_t n) { return "{" + repeated("'k': (1, None), ", n); }},
    {"Python arguments", [](size_t n) { return "1" + repeated(", a=1", n) + ")]"; }},
    {"a long Python key", [](size_t n) { return "1, " + std::string(n, 'k') + "=1)]"; }},
    {"Python calls", [](size_t n) { return "1)" + repeated(", f(a=1)", n) + "]"; }},
    {"parameters", [](size_t n) { return "1</parameter>" + repeated("<parameter=b>1</parameter>", n); }},
    {"parameters without ends", [](size_t n) { return repeated("1<parameter=zz>", n); }},
    {"parameters of the schema without ends", [](size_t n) { return repeated("1<parameter=a>", n); }},
    {"ends of functions in a value", [](size_t n) { return repeated("</function> x ", n); }},
    {"an end of a function and spaces", [](size_t n) { return "x</function>" + std::string(n, ' '); }},
    {"a long name of a parameter", [](size_t n) { return "1</parameter><parameter=" + std::string(n, 'x'); }},
};

// Pieces of marks and of values. Each is repeated alone, behind the beginning of a call, and with it again and again.
const char* const kUnits[] = {
    "x",
    "\"",
    "[",
    "{",
    "}",
    "]",
    "<",
    "(",
    ",",
    ";",
    ":",
    " ",
    "\n",
    "\\",
    "'",
    "''''",
    "''''\"",
    "-",
    "- ",
    "1, ",
    "# x\n",
    "é",
    "</",
    "</t",
    "</thin",
    "</think",
    "</think>",
    "<think>",
    "<tool_cal",
    "<|python_start|",
    "<｜tool▁call▁",
    "[TOOL_CALL",
    "<TOOLCAL",
    "<function",
    "<tool_call>",
    "</tool_call>",
    "<function=",
    "<function=f>",
    "</function>",
    "</function>  ",
    "<parameter=",
    "<parameter=zz>1",
    "</parameter>",
    "</tool_call> x <tool_call><function=f><parameter=z>1",
    "<|python_tag|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|python_start|><|python_end|>",
    "<|python_start|>[f(a=",
    "<|python_start|>[f(a=[",
    "<|python_start|>[f(a=['''',",
    "[TOOL_CALLS]",
    "[TOOL_CALLS]f[",
    "[TOOL_CALLS]f[CALL_ID]",
    "[TOOL_CALLS]f[ARGS]",
    "[TOOL_CALLS]f[ARGS]{}",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁begin｜>f<｜tool▁sep｜>",
    "<｜tool▁call▁begin｜>f<｜tool▁sep｜>\n",
    "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜>",
    "<｜tool▁calls▁begin｜>",
    "```",
    "<TOOLCALL>",
    "<toolcall>{\"name\": \"f\"}</toolcall>",
    "<tool_call>{\"name\": \"f\"}</tool_call>",
    "<tool_call>{\"id\":",
    "<tool_call>{\"id\":[",
    "<tool_call>{\"id\":\"",
    "<tool_call>{\"arguments\":{\"a\":",
    "<tool_call>{\"name\":\"f\",\"arguments\":{\"",
    "<tool_call><function=f><parameter=a>1</parameter></function></tool_call>",
    "{\"name\": \"f\", \"parameters\": {}}; ",
    "{\"name\": \"f\", \"id\": 1, ",
    "{\"function\": ",
};

void check(const std::string& form, const std::string& opening, const How& how) {
  const std::string what = form + ", " + how.name + ": ";
  const auto linear = [&](const std::string& name, const std::function<std::string(size_t)>& text) {
    expect_linear(what + name, [&](size_t n) { read(form, how, text(n)); }, kBytes);
  };
  for (const Shape& body : kBodies) {
    linear(body.name, [&](size_t n) { return opening + body.make(n); });
    linear(std::string("without a call, ") + body.name, body.make);
  }
  for (const std::string unit : kUnits) {
    linear("many " + unit, [&](size_t n) { return opening + repeated(unit, n); });
    linear("without a call, many " + unit, [&](size_t n) { return repeated(unit, n); });
    linear("calls that begin with " + unit, [&](size_t n) { return repeated(opening + unit, n); });
    // Marks are read again behind the place where a long head turned out to be none.
    linear("a head and many " + unit, [&](size_t n) { return R"(<tool_call>{"id": [)" + repeated(unit, n); });
  }
}

TEST(Work, AnswersWithToolCalls) {
  for (const auto& [form, opening] : kOpenings) {
    check(form, opening, {"token by token"});
    check(form, opening, {"in one piece", ToolMode::automatic, false, 1000000});
  }
}

TEST(Work, AnswersWithStrictCalls) {
  for (const auto& [form, opening] : kOpenings)
    if (form != std::string("qwen3_coder")) check(form, opening, {"strict", ToolMode::automatic, true});
}

TEST(Work, AnswersWithForcedCalls) {
  check("hermes", R"([{"name": "f", "arguments": )", {"required", ToolMode::any});
  check("hermes", "", {"named", ToolMode::named});
}

TEST(Work, AnswersWithThoughts) {
  for (const Thinking thinking : {Thinking::none, Thinking::may_open, Thinking::open})
    for (const std::string opening : {"", "<think>", "<think>x", "<think>x</think>"})
      for (const std::string unit : {" ", "\n", "<", "<<", "</", "</thin", "</thin ", "</think", "<think>", "</think>",
                                     " <", "x ", " </think> ", "<thin"})
        expect_linear(
            "thoughts: " + opening + " many " + unit,
            [&](size_t n) {
              ReasoningSplitter splitter(thinking);
              const std::string text = opening + repeated(unit, n);
              size_t bytes = 0;
              for (size_t at = 0; at < text.size(); at += 3)
                bytes += splitter.push(std::string_view(text).substr(at, 3)).content.size();
              EXPECT_LE(bytes + splitter.finish().content.size(), text.size());
            },
            kBytes);
}

}  // namespace
}  // namespace weft
