// Thoughts and answers, in one piece and cut at every place; and where an answer begins.
#include "forms/reasoning.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

struct Case {
  Thinking thinking;
  const char* text;
  const char* reasoning;
  const char* content;
};

ReasonedText split(Thinking thinking, const std::string& text, size_t piece) {
  ReasoningSplitter splitter(thinking);
  ReasonedText all;
  const auto add = [&](const ReasonedText& part) { all.reasoning += part.reasoning, all.content += part.content; };
  for (size_t at = 0; at < text.size(); at += piece) add(splitter.push(std::string_view(text).substr(at, piece)));
  add(splitter.finish());
  return all;
}

TEST(Reasoning, Splits) {
  const Case cases[] = {
      {Thinking::open, "I see.\n</think>\n\nYes.", "I see.", "Yes."},
      {Thinking::may_open, "<think>\nI see.\n</think>\n\nYes.", "I see.", "Yes."},
      {Thinking::may_open, "\n <think>a</think>b ", "a", "b "},
      {Thinking::may_open, "No thought.", "", "No thought."},
      {Thinking::may_open, "  < think", "", "  < think"},
      {Thinking::may_open, "<thi", "", "<thi"},
      {Thinking::may_open, "<think>\n\n</think>\n\nYes.", "", "Yes."},
      {Thinking::none, "<think>a</think>b", "", "<think>a</think>b"},
      {Thinking::open, "a </thin b </think>c", "a </thin b", "c"},
      {Thinking::open, "a<</think></think>c", "a<", "</think>c"},
      {Thinking::open, "a  b \n c", "a  b \n c", ""},
      {Thinking::open, "cut off </thi", "cut off </thi", ""},
      {Thinking::open, "a</think>\n", "a", ""},
      {Thinking::open, "", "", ""},
  };
  for (const Case& test : cases)
    for (size_t piece = 1; piece < 12; ++piece) {
      const ReasonedText all = split(test.thinking, test.text, piece);
      EXPECT_EQ(all.reasoning, test.reasoning) << test.text << " by " << piece;
      EXPECT_EQ(all.content, test.content) << test.text << " by " << piece;
    }
}

TEST(Reasoning, GoesThroughAtOnce) {
  ReasoningSplitter splitter(Thinking::open);
  EXPECT_TRUE(splitter.thinking());
  EXPECT_EQ(splitter.push("\nI see").reasoning, "I see");
  EXPECT_EQ(splitter.push(" it <").reasoning, " it");
  EXPECT_EQ(splitter.push("b").reasoning, " <b");
  EXPECT_EQ(splitter.push("</think>").reasoning, "");
  EXPECT_FALSE(splitter.thinking());
  EXPECT_EQ(splitter.push("\nYes").content, "Yes");
  EXPECT_EQ(splitter.push(" </think>").content, " </think>");
}

TEST(Reasoning, WhereTheAnswerBegins) {
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
