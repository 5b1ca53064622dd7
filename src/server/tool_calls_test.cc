// Tool calls in the forms that models write, in one piece and byte by byte.
#include "server/tool_calls.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

struct Case {
  const char* text;
  const char* content;
  std::vector<ToolCall> calls;
};

ToolAnswer find(const std::string& text, size_t piece) {
  ToolCallFinder finder(ToolMode::automatic, {"f", "g"});
  std::string content;
  for (size_t at = 0; at < text.size(); at += piece) content += finder.push(std::string_view(text).substr(at, piece));
  ToolAnswer answer = finder.finish();
  answer.content = content + answer.content;
  return answer;
}

TEST(ToolCalls, Forms) {
  const Case cases[] = {
      {"Just text, 3 < 4.", "Just text, 3 < 4.", {}},
      {"<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>", "", {{"f", "{\"x\":1}"}}},
      {"Let me see. <tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>\n<tool_call>{\"name\": \"g\", \"arguments\": "
       "{\"y\": 2}}</tool_call>",
       "Let me see. ",
       {{"f", "{}"}, {"g", "{\"y\":2}"}}},
      {"[TOOL_CALLS][{\"name\": \"g\", \"arguments\": {\"a\": \"b\"}}]", "", {{"g", "{\"a\":\"b\"}"}}},
      {"<TOOLCALL>[{\"name\": \"g\", \"arguments\": {}}]</TOOLCALL>", "", {{"g", "{}"}}},
      {"{\"name\": \"f\", \"parameters\": {\"x\": 1}}", "", {{"f", "{\"x\":1}"}}},
      {"[{\"name\": \"f\", \"arguments\": \"{}\"}]", "", {{"f", "{}"}}},
      {"{\"name\": \"unknown\", \"parameters\": {}}", "{\"name\": \"unknown\", \"parameters\": {}}", {}},
      {"<tool_call>broken</tool_call> after", "<tool_call>broken</tool_call> after", {}},
      {"<tool_call>{\"name\": \"f\"", "<tool_call>{\"name\": \"f\"", {}},
      {"a <tool", "a <tool", {}},
      {"", "", {}},
  };
  for (const Case& test : cases) {
    for (const size_t piece : {size_t{1}, size_t{3}, size_t{1000}}) {
      const ToolAnswer answer = find(test.text, piece);
      EXPECT_EQ(answer.content, test.content) << test.text << " by " << piece;
      ASSERT_EQ(answer.calls.size(), test.calls.size()) << test.text << " by " << piece;
      for (size_t i = 0; i < test.calls.size(); ++i) {
        EXPECT_EQ(answer.calls[i].name, test.calls[i].name);
        EXPECT_EQ(answer.calls[i].arguments, test.calls[i].arguments);
      }
    }
  }
}

TEST(ToolCalls, TextGoesThroughAtOnce) {
  ToolCallFinder finder(ToolMode::automatic, {"f"});
  EXPECT_EQ(finder.push("Hello <"), "Hello ");
  EXPECT_EQ(finder.push("b> and"), "<b> and");
}

TEST(ToolCalls, Forced) {
  ToolCallFinder named(ToolMode::named, {"f"});
  EXPECT_EQ(named.push("{\"x\":"), "");
  EXPECT_EQ(named.push("1}"), "");
  const ToolAnswer one = named.finish();
  ASSERT_EQ(one.calls.size(), 1u);
  EXPECT_EQ(one.calls[0].arguments, "{\"x\":1}");
  ToolCallFinder any(ToolMode::any, {"f", "g"});
  EXPECT_EQ(any.push("[{\"name\":\"g\",\"arguments\":{}}]"), "");
  EXPECT_EQ(any.finish().calls.at(0).name, "g");
}

}  // namespace
}  // namespace weft
