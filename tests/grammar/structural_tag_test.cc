// Structural tags in both spellings: what is an answer and what is not, and the masks at the borders of text and tags.
#include "test_vocabulary.h"

namespace weft {
namespace {

using Kind = GrammarSpec::Kind;

std::unique_ptr<Grammar> compile(const std::string& text) {
  static const std::unique_ptr<GrammarFactory> factory = Vocabulary::get().factory();
  auto grammar = factory->compile(spec(Kind::structural_tag, text));
  EXPECT_TRUE(grammar.ok()) << text << ": " << grammar.error().message();
  return grammar.ok() ? std::move(grammar).value() : nullptr;
}
std::unique_ptr<Grammar> format(const std::string& text) {
  return compile(R"({"type": "structural_tag", "format": )" + text + "}");
}

struct Matches {
  std::vector<std::string> right, wrong;
};
void expect_matches(const Grammar& grammar, const Matches& test) {
  for (const std::string& text : test.right) EXPECT_TRUE(Vocabulary::get().matches(grammar, text)) << text;
  for (const std::string& text : test.wrong) EXPECT_FALSE(Vocabulary::get().matches(grammar, text)) << text;
}

void expect_error(const std::string& text, Code code, const std::string& named) {
  const auto grammar = Vocabulary::get().factory()->compile(spec(Kind::structural_tag, text));
  ASSERT_FALSE(grammar.ok()) << text;
  EXPECT_EQ(grammar.error().code(), code) << grammar.error().message();
  EXPECT_NE(grammar.error().message().find(named), std::string::npos) << grammar.error().message();
}

const std::string kTag =
    R"({"type": "tag", "begin": "<f>", "content": {"type": "json_schema", "json_schema": {"type": "integer"}}, "end": "</f>"})";

TEST(StructuralTag, OlderSpelling) {
  const auto grammar = compile(R"({"type": "structural_tag", "triggers": ["<function="], "structures": [
      {"begin": "<function=a>", "schema": {"type": "integer"}, "end": "</function>"},
      {"begin": "<function=b>", "schema": {"enum": ["x", "y"]}, "end": "</function>"}]})");
  expect_matches(*grammar, {{"", "only text <f", "<function=a>12</function>",
                             "Now <function=b>\"x\"</function> and <function=a>-1</function>."},
                            {"<function=", "<function=c>1</function>", "<function=a>\"x\"</function>", "<function=a>1",
                             "<function= a>1</function>"}});
  Vocabulary::get().accept(*grammar, "Now <function=");
  Vocabulary::get().expect_mask(
      *grammar, [](const std::string& t) { return t == "a" || t == "b" || t == "a>" || t == "b>"; }, false);
}

TEST(StructuralTag, TriggeredTags) {
  const std::string tags = R"({"type": "triggered_tags", "triggers": ["<f"], "tags": [)" + kTag + "]";
  expect_matches(*format(tags + "}"), {{"", "a", "a<f>1</f>b", "<f>1</f><f>2</f>"}, {"<f>1</f", "<f>a</f>"}});
  expect_matches(*format(tags + R"(, "at_least_one": true})"), {{"a<f>1</f>b", "<f>1</f><f>2</f>"}, {"", "a"}});
  expect_matches(*format(tags + R"(, "stop_after_first": true})"), {{"", "a", "a<f>1</f>"}, {"a<f>1</f>b"}});
  expect_matches(*format(tags + R"(, "at_least_one": true, "stop_after_first": true})"),
                 {{"a<f>1</f>"}, {"", "a", "a<f>1</f>b"}});
}

TEST(StructuralTag, TagsWithSeparator) {
  const std::string tags = R"({"type": "tags_with_separator", "separator": ", ", "tags": [)" + kTag + "]";
  expect_matches(*format(tags + "}"),
                 {{"", "<f>1</f>", "<f>1</f>, <f>2</f>"}, {"<f>1</f>,<f>2</f>", "<f>1</f>, ", "a"}});
  expect_matches(*format(tags + R"(, "at_least_one": true})"), {{"<f>1</f>"}, {""}});
  expect_matches(*format(tags + R"(, "stop_after_first": true})"), {{"", "<f>1</f>"}, {"<f>1</f>, <f>2</f>"}});
}

TEST(StructuralTag, Formats) {
  expect_matches(*format(R"({"type": "const_string", "value": "a\"b"})"), {{"a\"b"}, {"a", "a\"bc"}});
  expect_matches(*format(R"({"type": "any_text"})"), {{"", "a\n\xc3\xa9"}, {"\xff"}});
  expect_matches(*format(R"({"type": "regex", "pattern": "[0-9]+"})"), {{"1", "23"}, {"", "a"}});
  expect_matches(*format(R"({"type": "grammar", "grammar": "root ::= \"a\" root | \"b\""})"),
                 {{"b", "aab"}, {"a", ""}});
  expect_matches(*format(R"({"type": "sequence", "elements": [{"type": "const_string", "value": "<t>"},
      {"type": "json_schema", "json_schema": {"type": "boolean"}}, {"type": "any_text"}]})"),
                 {{"<t>true", "<t>false!"}, {"<t>", "true"}});
  expect_matches(*format(R"({"type": "or", "elements": [{"type": "const_string", "value": "a"}, )" + kTag + "]}"),
                 {{"a", "<f>1</f>"}, {"", "a<f>1</f>"}});
  expect_matches(
      *format(
          R"({"type": "sequence", "elements": [{"type": "optional", "content": {"type": "const_string", "value": "a"}},
      {"type": "plus", "content": )" +
          kTag + R"(}, {"type": "star", "content": {"type": "const_string", "value": "b"}}]})"),
      {{"<f>1</f>", "a<f>1</f><f>2</f>bb"}, {"a", "aa<f>1</f>", "bb"}});
  // Free text inside of a tag ends at the first of its ends.
  expect_matches(
      *format(R"({"type": "sequence", "elements": [{"type": "tag", "begin": "<think>", "content": {"type": "any_text"},
      "end": ["</think>", "</t>"]},
      {"type": "json_schema", "json_schema": {"type": "integer"}}]})"),
      {{"<think>a < b</think>1", "<think></t>1"}, {"<think>a</think>", "<think>a</t>b</think>1", "1"}});
}

TEST(StructuralTag, SpecialTokens) {
  // A begin that names a special token stands for the token: its text by bytes is free text.
  const auto grammar = format(R"({"type": "triggered_tags", "triggers": ["<|im_start|>"], "tags": [
      {"type": "tag", "begin": "<|im_start|>", "content": {"type": "json_schema", "json_schema": {"type": "integer"}}, "end": "<|im_end|>"}]})");
  const Vocabulary& words = Vocabulary::get();
  const int start = *words.tokenizer().find_token("<|im_start|>"), end = *words.tokenizer().find_token("<|im_end|>");
  ASSERT_TRUE(words.accept(*grammar, "Go <|im_start|>"));
  ASSERT_TRUE(grammar->accept(start).ok());
  EXPECT_FALSE(grammar->may_end());
  EXPECT_FALSE(words.accept(*grammar, "a"));
  ASSERT_TRUE(words.accept(*grammar, "12"));
  ASSERT_TRUE(grammar->accept(end).ok());
  EXPECT_TRUE(grammar->may_end());
  EXPECT_FALSE(grammar->accept(end).ok());
  EXPECT_TRUE(words.accept(*grammar, " done"));
}

TEST(StructuralTag, Errors) {
  expect_error("{\"type\": \"structural_tag\"}", Code::invalid_argument, "\"format\"");
  expect_error(R"({"format": {"type": "nothing"}})", Code::unsupported, "format.type \"nothing\"");
  expect_error(R"({"format": {"type": "qwen_xml_parameter", "json_schema": {}}})", Code::unsupported,
               "qwen_xml_parameter");
  expect_error(R"({"format": {"type": "sequence", "elements": [{"type": "any_text"}, {"type": "const_string"}]}})",
               Code::unsupported, "format.elements[0] is any_text");
  expect_error(R"({"format": {"type": "sequence", "elements": [{"type": "const_string"}]}})", Code::invalid_argument,
               "format.elements[0].value is missing");
  expect_error(R"({"format": {"type": "json_schema", "json_schema": {}, "style": "xml"}})", Code::unsupported,
               "format.style \"xml\"");
  expect_error(R"({"format": {"type": "json_schema", "json_schema": {"type": "integre"}}})", Code::invalid_argument,
               "integre");
  expect_error(R"({"format": {"type": "triggered_tags", "triggers": ["<g"], "tags": [)" + kTag + "]}}",
               Code::invalid_argument, "format.tags[0].begin starts with none");
  expect_error(R"({"structures": [{"begin": "<a>", "schema": {}, "end": ""}]})", Code::invalid_argument,
               "triggers is missing");
  expect_error(R"({"structures": [], "triggers": ["<"]})", Code::invalid_argument, "structures must be a list");
}

}  // namespace
}  // namespace weft
