// Which form of tool calls a chat template shows, and whether it thinks: on the lines of real templates that tell.
#include "forms/answer_format.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace weft {
namespace {

std::string_view tools(std::string_view source) { return detect_answer_format("", source).tools->names.front(); }

TEST(AnswerFormat, Tools) {
  EXPECT_EQ(tools(R"({{- "For each function call, return a json object within <tool_call></tool_call> XML tags" }})"),
            "hermes");
  EXPECT_EQ(tools(R"({{- '<tool_call>\n<function=' + tool_call.name + '>\n' }})"), "qwen3_coder");
  EXPECT_EQ(tools(R"({{- ' [TOOL_CALLS] [' }})"), "mistral");
  EXPECT_EQ(tools(R"({{- '<TOOLCALL>[' -}})"), "nemotron");
  EXPECT_EQ(tools(R"({{ '\n<tool> ' + tool|tojson + ' </tool>' }}{{ '<extra_id_1>User\n' }})"), "nemotron");
  EXPECT_EQ(tools("{{'<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>'}}"),
            "deepseek_v3");
  EXPECT_EQ(tools(R"({{- '<|python_start|>' }}{{- '"parameters": ' }}ipython)"), "llama4_pythonic");
  EXPECT_EQ(tools(R"({{- "<|python_tag|>" + tool_call.name + ".call(" }})"), "llama3_json");
  EXPECT_EQ(tools(R"({{- "Environment: ipython\n" }}{{- '"parameters": ' }})"), "llama3_json");
  EXPECT_EQ(tools(R"({{ '<start_of_turn>' + role }})"), "generic");
}

TEST(AnswerFormat, OfSeveralFormsTheOneWithTheHighestPrecedenceCounts) {
  EXPECT_EQ(tools("<|python_start|><|python_tag|>"), "llama4_pythonic");
  EXPECT_EQ(tools("<|python_start|><｜tool▁call▁begin｜>"), "deepseek_v3");
  EXPECT_EQ(tools("<TOOLCALL><｜tool▁call▁begin｜>"), "nemotron");
  EXPECT_EQ(tools("[TOOL_CALLS]<TOOLCALL>"), "mistral");
  EXPECT_EQ(tools("[TOOL_CALLS]<tool_call>"), "hermes");
  EXPECT_EQ(tools("[TOOL_CALLS]<tool_call><function="), "qwen3_coder");
  std::set<int> precedences;
  for (const ToolFormFunction form : tool_forms()) precedences.insert(form().precedence);
  EXPECT_EQ(precedences.size(), tool_forms().size());
}

TEST(AnswerFormat, Names) {
  EXPECT_EQ(tool_form_names(),
            (std::vector<std::string>{"generic", "llama3_json", "llama4_pythonic", "pythonic", "mistral", "hermes",
                                      "qwen", "qwen3_coder", "deepseek_v3", "deepseek_v31", "deepseek", "nemotron"}));
  for (const std::string& name : tool_form_names()) {
    ASSERT_TRUE(find_tool_form(name)) << name;
    EXPECT_EQ(std::ranges::count(find_tool_form(name)->names, name), 1) << name;
  }
  EXPECT_FALSE(find_tool_form("auto"));
  EXPECT_FALSE(find_tool_form("Hermes"));
}

TEST(AnswerFormat, Thinks) {
  EXPECT_TRUE(detect_answer_format("{% set content = content.split('</think>')[-1] %}", "").thinks);
  EXPECT_TRUE(detect_answer_format("{{- '<|im_start|>assistant\\n<think>\\n' }}", "").thinks);
  EXPECT_FALSE(detect_answer_format("{{ 'I think' }}", "").thinks);
}

}  // namespace
}  // namespace weft
