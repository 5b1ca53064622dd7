// Which form of tool calls a chat template shows, and whether it thinks: on the lines of real templates that tell.
#include "text/answer_format.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

ToolFormat tools(std::string_view source) { return detect_answer_format("", source).tools; }

TEST(AnswerFormat, Tools) {
  EXPECT_EQ(tools(R"({{- "For each function call, return a json object within <tool_call></tool_call> XML tags" }})"),
            ToolFormat::hermes);
  EXPECT_EQ(tools(R"({{- '<tool_call>\n<function=' + tool_call.name + '>\n' }})"), ToolFormat::xml);
  EXPECT_EQ(tools(R"({{- ' [TOOL_CALLS] [' }})"), ToolFormat::mistral);
  EXPECT_EQ(tools(R"({{- '<TOOLCALL>[' -}})"), ToolFormat::nemotron);
  EXPECT_EQ(tools(R"({{ '\n<tool> ' + tool|tojson + ' </tool>' }}{{ '<extra_id_1>User\n' }})"), ToolFormat::nemotron);
  EXPECT_EQ(tools("{{'<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>'}}"),
            ToolFormat::deepseek);
  EXPECT_EQ(tools(R"({{- '<|python_start|>' }}{{- '"parameters": ' }}ipython)"), ToolFormat::pythonic);
  EXPECT_EQ(tools(R"({{- "<|python_tag|>" + tool_call.name + ".call(" }})"), ToolFormat::llama_json);
  EXPECT_EQ(tools(R"({{- "Environment: ipython\n" }}{{- '"parameters": ' }})"), ToolFormat::llama_json);
  EXPECT_EQ(tools(R"({{ '<start_of_turn>' + role }})"), ToolFormat::generic);
}

TEST(AnswerFormat, Names) {
  EXPECT_EQ(tool_format_of_name("hermes"), ToolFormat::hermes);
  EXPECT_EQ(tool_format_of_name("deepseek_v31"), ToolFormat::deepseek);
  EXPECT_FALSE(tool_format_of_name("auto"));
  EXPECT_FALSE(tool_format_of_name("Hermes"));
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
