// Which form of tool calls a chat template shows, and whether it thinks: on the lines of real templates that tell.
#include "forms/answer_format.h"

#include <gtest/gtest.h>

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

TEST(AnswerFormat, Names) {
  EXPECT_EQ(find_tool_form("hermes"), find_tool_form("hermes"));
  EXPECT_EQ(find_tool_form("deepseek_v31"), find_tool_form("deepseek_v3"));
  EXPECT_FALSE(find_tool_form("auto"));
  EXPECT_FALSE(find_tool_form("Hermes"));
}

TEST(AnswerFormat, Thinks) {
  EXPECT_TRUE(detect_answer_format("{% set content = content.split('</think>')[-1] %}", "").thinks);
  EXPECT_TRUE(detect_answer_format("{{- '<|im_start|>assistant\\n<think>\\n' }}", "").thinks);
  EXPECT_FALSE(detect_answer_format("{{ 'I think' }}", "").thinks);
}

TEST(AnswerFormat, WhereTheAnswerBegins) {
  const auto none = std::nullopt;
  EXPECT_EQ(thinking_after(true, "<|im_start|>assistant\n<think>\n", none), Thinking::open);
  EXPECT_EQ(thinking_after(true, "<|im_start|>assistant\n<think>\n\n</think>\n\n", none), Thinking::none);
  EXPECT_EQ(thinking_after(true, "what does <think> do?<|im_end|>\n<|im_start|>assistant\n", none), Thinking::may_open);
  EXPECT_EQ(thinking_after(false, "<think>", none), Thinking::none);
  EXPECT_EQ(thinking_after(true, "assistant\n<think>\nSo", "<think>\nSo"), Thinking::open);
  EXPECT_EQ(thinking_after(true, "assistant\nSo", "So"), Thinking::none);
  EXPECT_EQ(thinking_after(true, "assistant\n<think>a</think>So", "<think>a</think>So"), Thinking::none);
  EXPECT_EQ(thinking_after(true, "assistant\n", ""), Thinking::may_open);
}

}  // namespace
}  // namespace weft
