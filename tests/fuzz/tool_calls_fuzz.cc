// Answers of models through the readers of thoughts and of tool calls, in every form and mode: calls do not depend on
// where the pieces of the stream end, name declared functions, and have arguments that are JSON objects. The first byte
// says form and mode, the second where pieces end.
#include <algorithm>
#include <random>

#include "forms/reasoning.h"
#include "forms/tool_calls.h"
#include "target.h"

using namespace weft;

namespace {

ToolCallFinder::Rules rules(unsigned how) {
  const auto forms = tool_forms();
  ToolCallFinder::Rules rules;
  rules.form = &forms[how % forms.size()]();
  rules.mode = static_cast<ToolMode>(1 + how / forms.size() % 3);  // without tools nobody looks for calls
  rules.strict = how & 128;
  rules.names = rules.mode == ToolMode::named ? std::vector<std::string>{"f"}
                                              : std::vector<std::string>{"f", "get_weather", "g.h"};
  rules.parameters = *parse_json(
      R"({"f":{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"integer"},"c":{"type":"array"}}}})");
  return rules;
}

struct Read {
  std::string content;
  std::vector<ToolCall> calls;
  bool operator==(const Read&) const = default;
};

void take(ToolOutput out, Read& read) {
  read.content += out.content;
  for (const ToolDelta& delta : out.deltas) {
    require(delta.index <= read.calls.size(), "calls come in order");
    require(delta.name.empty() == (delta.index < read.calls.size()), "a call begins with its name, once");
    add_delta(delta, read.calls);
  }
}

// Pieces of at most `most` bytes, none of which ends inside a character.
template <class Push>
void in_pieces(std::string_view text, size_t most, unsigned seed, const Push& push) {
  std::minstd_rand random(seed + 1);
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.size(), at + 1 + random() % most);
    while (end < text.size() && (text[end] & 0xc0) == 0x80) ++end;
    push(text.substr(at, end - at));
    at = end;
  }
}

Read read_calls(const ToolCallFinder::Rules& rules, std::string_view text, size_t most, unsigned seed) {
  ToolCallFinder finder(rules);
  Read read;
  in_pieces(text, most, seed, [&](std::string_view piece) { take(finder.push(piece), read); });
  take(finder.finish(), read);
  return read;
}

ReasonedText read_thoughts(Thinking thinking, std::string_view text, size_t most, unsigned seed) {
  ReasoningSplitter splitter(thinking);
  ReasonedText all;
  const auto add = [&](const ReasonedText& piece) { all.reasoning += piece.reasoning, all.content += piece.content; };
  in_pieces(text, most, seed, [&](std::string_view piece) { add(splitter.push(piece)); });
  add(splitter.finish());
  return all;
}

void check(const ToolCallFinder::Rules& rules, const std::string& text, unsigned seed) {
  const Read whole = read_calls(rules, text, text.size() + 1, seed);
  for (const size_t most : {size_t{1}, size_t{7}})
    require(read_calls(rules, text, most, seed) == whole, "calls do not depend on where pieces end");
  for (const ToolCall& call : whole.calls) {
    require(std::ranges::find(rules.names, call.name) != rules.names.end(), "only declared functions are called");
    const auto arguments = parse_json(call.arguments, {.max_depth = 100'000});
    require(arguments.ok() && arguments->is_object(), "arguments are a JSON object");
  }
  require(whole.content.size() <= text.size(), "no content is made up");
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  const std::vector<std::string> texts = {
      "Sure.<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"x\\n\", \"b\": 2}}\n</tool_call>\n<tool_call>\n"
      "{\"name\": \"get_weather\", \"arguments\": {}}\n</tool_call> Done.",
      "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"b\": 1}, \"id\": \"abcdefghi\"}]",
      "[TOOL_CALLS]f[ARGS]{\"a\": \"\xc3\xbc\"}",
      "<|python_tag|>{\"type\": \"function\", \"name\": \"f\", \"parameters\": {\"a\": \"y\"}}<|eom_id|>",
      "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Rome\", \"x\": [1, {\"y\": null}]}}; {\"name\": \"f\"}",
      "<|python_start|>[f(a='it''s', b=-3, c=[True, None, {'k': 1.5}]), g.h(x=(1, 2))]<|python_end|>",
      "<\xef\xbd\x9ctool\xe2\x96\x81"
      "calls\xe2\x96\x81"
      "begin\xef\xbd\x9c><\xef\xbd\x9ctool\xe2\x96\x81"
      "call\xe2\x96\x81"
      "begin\xef\xbd\x9c>function<\xef\xbd\x9ctool\xe2\x96\x81sep\xef\xbd\x9c>f\n```json\n{\"a\": \"z\"}\n```"
      "<\xef\xbd\x9ctool\xe2\x96\x81"
      "call\xe2\x96\x81"
      "end\xef\xbd\x9c>",
      "<TOOLCALL>[{\"name\": \"f\", \"arguments\": {\"b\": 7}}]</TOOLCALL>",
      "<tool_call>\n<function=f>\n<parameter=a>\nline 1\nline "
      "2\n</parameter>\n<parameter=b>\n12\n</parameter>\n</function>\n"
      "</tool_call>",
      "<think>\nwhy {\"name\": \"f\"}?\n</think>\n\n[{\"name\": \"f\", \"arguments\": {\"a\": \"q\"}}, {\"name\": "
      "\"g.h\"}]",
      "{\"a\": \"cut off in the mid",
      "{\"name\": \"f\", \"parameters\": {\"a\": \"\\ud83dx\\ude00\"}}",
  };
  std::vector<std::string> seeds;
  for (unsigned how = 0; how < 32; ++how)
    seeds.push_back(std::string{static_cast<char>(how), '\3'} + texts[how % texts.size()]);
  for (size_t i = 0; i < texts.size(); ++i) seeds.push_back(std::string{static_cast<char>(i % 9), '\0'} + texts[i]);
  return seeds;
}
std::vector<std::string> fuzz_words() {
  std::vector<std::string> words = {"<think>",
                                    "</think>",
                                    "\"name\": \"f\"",
                                    "\"arguments\": {",
                                    "\"parameters\": ",
                                    "f(",
                                    "a='",
                                    "\\u00e9",
                                    "\\ud83d",
                                    "```json\n",
                                    "</function>",
                                    "<parameter=a>",
                                    "{",
                                    "}",
                                    "[",
                                    "]",
                                    "(",
                                    ")",
                                    ",",
                                    "'",
                                    "\"",
                                    "\\",
                                    "None",
                                    "1e5",
                                    "0x1f",
                                    "\n",
                                    ";",
                                    "g.h"};
  for (const ToolFormFunction form : tool_forms())
    for (const CallMark& mark : form().marks) words.emplace_back(mark.open);
  std::erase(words, "");
  return words;
}
void mend(std::string&) {}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string text = copy_of(data, size);
  const unsigned how = take_choice(text, 256), seed = take_choice(text, 256);
  const auto literal = parse_json(json_quote(text));
  if (literal->as_string() != text) return 0;  // detokenizers give UTF-8
  check(rules(how), text, seed);
  for (const Thinking thinking : {Thinking::none, Thinking::may_open, Thinking::open}) {
    const ReasonedText whole = read_thoughts(thinking, text, text.size() + 1, seed);
    const ReasonedText pieces = read_thoughts(thinking, text, 1, seed);
    require(pieces.reasoning == whole.reasoning && pieces.content == whole.content,
            "thoughts do not depend on where pieces end");
    require(thinking != Thinking::none || whole.reasoning.empty(), "who does not think has no thoughts");
    require(whole.reasoning.size() + whole.content.size() <= text.size(), "no text is made up");
  }
  return 0;
}
