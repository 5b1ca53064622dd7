// Masks and answers of every kind of grammar against right values written down by hand; errors name what is wrong.
#include "grammar/grammar.h"

#include <chrono>
#include <fstream>

#include "test_vocabulary.h"

namespace weft {
namespace {

using Kind = GrammarSpec::Kind;

std::unique_ptr<Grammar> compile(const GrammarSpec& wanted) {
  static const std::unique_ptr<GrammarFactory> factory = Vocabulary::get().factory();
  auto grammar = factory->compile(wanted);
  EXPECT_TRUE(grammar.ok()) << wanted.text << ": " << grammar.error().message();
  return grammar.ok() ? std::move(grammar).value() : nullptr;
}
std::unique_ptr<Grammar> compile(Kind kind, const std::string& text) { return compile(spec(kind, text)); }

void expect_error(const GrammarSpec& wanted, Code code, const std::string& named, GrammarLimits limits = {}) {
  const auto grammar = Vocabulary::get().factory(limits)->compile(wanted);
  ASSERT_FALSE(grammar.ok()) << wanted.text.substr(0, 200);
  EXPECT_EQ(grammar.error().code(), code) << grammar.error().message();
  EXPECT_NE(grammar.error().message().find(named), std::string::npos) << grammar.error().message();
}

bool begins_one_of(const std::string& text, std::initializer_list<std::string> words) {
  for (const std::string& word : words)
    if (word.starts_with(text)) return true;
  return false;
}
bool all_of(const std::string& text, std::string_view set) { return text.find_first_not_of(set) == std::string::npos; }

// Whether a token may be part of free text: it is UTF-8, or a part of it that may become UTF-8 with what follows.
bool words_are_text(const std::string& text) {
  for (size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const size_t size = byte < 0x80                   ? 1
                        : byte >= 0xc2 && byte < 0xe0 ? 2
                        : byte >= 0xe0 && byte < 0xf0 ? 3
                        : byte >= 0xf0 && byte < 0xf5 ? 4
                                                      : 0;
    if (size == 0) return false;
    i += size;  // the tokens of this vocabulary hold no more than a first byte of a longer character, or all of it
  }
  return true;
}

struct Matches {
  std::vector<std::string> right, wrong;
};
void expect_matches(const Grammar& grammar, const Matches& test) {
  for (const std::string& text : test.right) EXPECT_TRUE(Vocabulary::get().matches(grammar, text)) << text;
  for (const std::string& text : test.wrong) EXPECT_FALSE(Vocabulary::get().matches(grammar, text)) << text;
}

TEST(Grammar, Choice) {
  GrammarSpec wanted = spec(Kind::choice, "");
  wanted.choices = {"yes", "yesterday", "no \"way\""};
  const auto grammar = compile(wanted);
  const Vocabulary& words = Vocabulary::get();
  words.expect_mask(
      *grammar, [](const std::string& t) { return begins_one_of(t, {"yes", "yesterday", "no \"way\""}); }, false);
  ASSERT_TRUE(words.accept(*grammar, "yes"));
  words.expect_mask(*grammar, [](const std::string& t) { return begins_one_of(t, {"terday"}); }, true);
  EXPECT_FALSE(grammar->is_finished());
  ASSERT_TRUE(words.accept(*grammar, "terday"));
  EXPECT_TRUE(grammar->is_finished());
}

TEST(Grammar, Regex) {
  const Vocabulary& words = Vocabulary::get();
  const auto grammar = compile(Kind::regex, "[0-9]{2,3}(a|b)?");
  words.expect_mask(*grammar, [](const std::string& t) { return t.size() <= 3 && all_of(t, "0123456789"); }, false);
  ASSERT_TRUE(words.accept(*grammar, "12"));
  words.expect_mask(
      *grammar,
      [](const std::string& t) { return begins_one_of(t, {"a", "b"}) || (t.size() == 1 && all_of(t, "0123456789")); },
      true);
  expect_matches(*compile(Kind::regex, "[0-9]{2,3}(a|b)?"),
                 {{"12", "123", "12a", "999b"}, {"1", "1234", "12c", " 12", "12ab"}});
  // A dot is one character, not one byte, and no line break.
  expect_matches(*compile(Kind::regex, "a.c"), {{"abc",
                                                 "a\xc3\xa9"
                                                 "c",
                                                 "a\xf0\x9f\x98\x80"
                                                 "c"},
                                                {"ac", "a\nc", "abbc"}});
  expect_matches(*compile(Kind::regex, "/\"x\"/"), {{"/\"x\"/"}, {"x"}});
  expect_matches(*compile(Kind::regex, "[\\^$]+\\^?"), {{"^", "$^^"}, {"", "a"}});
}

// Whether `text` may follow "(1" in a sum of numbers and parentheses: a parser of its own for the language of the test
// below.
bool goes_on_in_sum(const std::string& text) {
  char last = '1';
  int open = 1;
  for (const char c : text) {
    const bool operand_before = last == '1' || last == ')';
    if (c >= '0' && c <= '9') {
      if (last == ')') return false;
      last = '1';
      continue;
    }
    if (c == '+' || c == ')' ? !operand_before : c == '(' ? operand_before : true) return false;
    open += (c == '(') - (c == ')');
    if (open < 0) return false;
    last = c;
  }
  return true;
}

TEST(Grammar, Lark) {
  const Vocabulary& words = Vocabulary::get();
  const std::string sums = "start: term (\"+\" term)*\nterm: NUMBER | \"(\" start \")\"\nNUMBER: /[0-9]+/";
  const auto grammar = compile(Kind::ebnf, sums);
  expect_matches(*grammar, {{"1", "1+2", "(1+(22))+3"}, {"", "1+", "(1", "1)", "+1", "1 + 2"}});
  ASSERT_TRUE(words.accept(*grammar, "(1"));
  words.expect_mask(*grammar, goes_on_in_sum, false);
}

TEST(Grammar, Gbnf) {
  const auto grammar = compile(Kind::ebnf, "root ::= item+\nitem ::= [a-c] \"=\" num \";\"\nnum ::= [0-9] | \"-\" num");
  expect_matches(*grammar, {{"a=1;", "a=1;b=--2;"}, {"", "a=1", "d=1;", "a=;"}});
}

TEST(Grammar, JsonSchema) {
  const Vocabulary& words = Vocabulary::get();
  const std::string schema = R"({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", null]}},
                                 "required": ["a"], "additionalProperties": false})";
  const auto grammar = compile(Kind::json_schema, schema);
  words.expect_mask(
      *grammar,
      [](const std::string& t) {
        return begins_one_of(t, {"{", "{\"", "{\"a", "{\"a\"", "{ ", "{ \"", "{\n", "{\n "}) ||
               (t.starts_with("{\n") && all_of(t.substr(2), " \t"));
      },
      false);
  expect_matches(*grammar, {{R"({"a":1})", R"({"a": -12, "b": "x"})", "{\n  \"a\": 0,\n  \"b\": null\n}"},
                            {R"({})", R"({"a":1.5})", R"({"b":"x","a":1})", R"({"a":1,"b":"y"})", R"({"a":01})",
                             R"({"a":1}  )", R"({  "a":1})", R"({"a":1,"c":2})"}});
  GrammarSpec compact = spec(Kind::json_schema, schema);
  compact.compact_json = true;
  expect_matches(*compile(compact), {{R"({"a":1,"b":null})"}, {R"({"a": 1})", "{\"a\":1\n}"}});
}

TEST(Grammar, JsonObject) {
  expect_matches(*compile(Kind::json_object, ""), {{"{}", R"({"k": [1, {"l": null}]})"}, {"[]", "1", "{", R"({"k"})"}});
}

TEST(Grammar, LargeNumbers) {
  expect_matches(
      *compile(Kind::json_schema, R"({"type": "integer", "enum": [100000000000000000000, 9007199254740992]})"),
      {{"100000000000000000000", "9007199254740992"}, {"9223372036854775807", "9007199254740993", "1"}});
  const auto schema = [](const char* text) { return compile(Kind::json_schema, text); };
  // Constants are written as the schema writes them, in lists and objects too.
  expect_matches(*schema(R"({"const": 9007199254740993})"), {{"9007199254740993"}, {"9007199254740992"}});
  expect_matches(*schema(R"({"const": 9.5367431640625e-07})"), {{"9.5367431640625e-07"}, {"9.5367432e-07"}});
  expect_matches(*schema(R"({"enum": ["a", {"x": [1, 17592186044416.0]}]})"),
                 {{R"("a")", R"({"x": [1, 17592186044416.0]})"}, {R"({"x": [1, 17592186044416]})"}});
  expect_matches(*schema(R"({"oneOf": [{"const": 1}, {"const": 2}]})"), {{"1", "2"}, {"3"}});
  // Bounds hold to the last digit, in every notation.
  expect_matches(
      *schema(R"({"type": "integer", "minimum": -9223372036854775808, "maximum": 9223372036854775807})"),
      {{"-9223372036854775808", "9223372036854775807", "0"}, {"-9223372036854775809", "9223372036854775808"}});
  expect_matches(*schema(R"({"type": "integer", "exclusiveMinimum": 1.8446744073709551614e19})"),
                 {{"18446744073709551615", "18446744073709551616"}, {"18446744073709551614", "1"}});
  expect_matches(*schema(R"({"type": ["number", "null"], "minimum": 1E-1, "exclusiveMaximum": 0.25})"),
                 {{"0.1", "0.2499", "null"}, {"0.25", "0.09", "0", "\"a\""}});
  expect_matches(*schema(R"({"type": "number", "maximum": 3.4028234663852886e38, "multipleOf": 0.5})"),
                 {{"-1.5", "2"}, {"1.25"}});
  expect_error(spec(Kind::json_schema, R"({"type": "number", "minimum": 1e999})"), Code::unsupported,
               "minimum 1e999 is too large");
  // Where schemas meet, numbers are those of float64.
  expect_error(spec(Kind::json_schema, R"({"allOf": [{"minimum": 9007199254740993}, {"type": "integer"}]})"),
               Code::unsupported, "minimum 9007199254740993 is too large");
  expect_error(spec(Kind::json_schema, R"({"allOf": [{"const": 9007199254740993}, {"type": "integer"}]})"),
               Code::unsupported, "const 9007199254740993 is too large");
  expect_matches(*schema(R"({"allOf": [{"enum": [5, 11]}, {"maximum": 10}]})"), {{"5"}, {"11", "4611686018427389000"}});
  expect_matches(*schema(R"({"allOf": [{"minimum": 2, "type": "integer"}, {"maximum": 3}]})"),
                 {{"2", "3"}, {"1", "4"}});
}

TEST(Grammar, DigitsAreBounded) {
  const std::string twenty(20, '7');
  const Matches numbers = {{"-" + twenty + "." + twenty + "e-99"}, {twenty + "7", "0." + twenty + "7", "1e100"}};
  expect_matches(*compile(Kind::json_schema, R"({"type": "number"})"), numbers);
  expect_matches(*compile(Kind::json_schema, "true"), numbers);
  expect_matches(*compile(Kind::json_object, ""), {{"{\"a\": " + twenty + "}"}, {"{\"a\": 1" + twenty + "}"}});
}

TEST(Grammar, ObjectsAreClosed) {
  const auto schema = [](const char* text) { return compile(Kind::json_schema, text); };
  expect_matches(*schema(R"({"properties": {"a": {"type": "null"}}, "type": "object"})"),
                 {{"{}", R"({"a": null})"}, {R"({"b": null})"}});
  expect_matches(*schema(R"({"properties": {"a": {"type": "null"}}, "type": "object", "additionalProperties": true})"),
                 {{"{}", R"({"a": null, "b": 1})"}, {R"({"a": null, "a": null})"}});
  expect_matches(*schema(R"({"type": "object", "required": ["b"], "properties": {"a": {"type": "null"}}})"),
                 {{R"({"b": 1})"}, {"{}"}});
  expect_matches(*schema(R"({"type": "object", "allOf": [{"properties": {"a": {"type": "null"}}, "required": ["a"]},
                                                         {"$ref": "#/$defs/b"}],
                             "$defs": {"b": {"properties": {"b": {"type": "null"}}, "required": ["b"]}}})"),
                 {{R"({"a": null, "b": null})"}, {R"({"a": null})"}});
}

TEST(Grammar, PropertyNames) {
  const auto schema = [](const char* text) { return compile(Kind::json_schema, text); };
  expect_matches(
      *schema(R"({"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "null"}})"),
      {{"{}", R"({"x y": null})"}, {R"({"x": 1})"}});
  expect_matches(
      *schema(R"({"type": "object", "propertyNames": {"$ref": "#/$defs/c"}, "additionalProperties": {"type": "null"},
                             "$defs": {"c": {"enum": ["x", "y"]}}})"),
      {{"{}", R"({"y": null})"}, {R"({"z": null})", R"({"x": 1})"}});
  expect_matches(*schema(R"({"type": "object", "propertyNames": {"pattern": "^[a-c]+$"}})"),
                 {{R"({"ab": 1})"}, {R"({"d": 1})"}});
  expect_matches(*schema(R"({"type": "object", "propertyNames": {"minLength": 2, "maxLength": 3}})"),
                 {{R"({"ab": 1})"}, {R"({"a": 1})", R"({"abcd": 1})"}});
}

TEST(Grammar, UniqueItemsAndWarnings) {
  const auto three = compile(
      Kind::json_schema, R"({"type": "array", "items": {"enum": ["a", 1, 2.5]}, "uniqueItems": true, "minItems": 2})");
  expect_matches(*three, {{R"(["a", 1])", R"([2.5, "a", 1])"}, {R"(["a"])", R"(["a", "a"])", R"([1, 2.5, 1])"}});
  EXPECT_TRUE(three->warnings().empty());
  const std::string tags = R"({"type": "object", "properties": {"tags": {"type": "array", "uniqueItems": true}}})";
  EXPECT_EQ(compile(Kind::json_schema, tags)->warnings(),
            (std::vector<std::string>{"uniqueItems at #/properties/tags is not enforced"}));
  GrammarSpec strict = spec(Kind::json_schema, tags);
  strict.strict_schemas = true;
  expect_error(strict, Code::unsupported, "uniqueItems at #/properties/tags is not enforced");
}

TEST(Grammar, FormatsAndLookaheads) {
  const auto schema = [](const char* text) { return compile(Kind::json_schema, text); };
  expect_matches(*schema(R"({"type": "string", "format": "cuid2"})"), {{R"("")", R"("x")"}, {"1"}});
  expect_matches(*schema(R"({"type": "integer", "format": "int32"})"), {{"1"}, {"\"1\""}});
  expect_matches(*schema(R"({"type": "string", "pattern": "^(?=.*[0-9])(?=.*[a-z])[0-9a-z]+$"})"),
                 {{R"("a1")", R"("1a")"}, {R"("a")", R"("1")", R"("A1a")"}});
  expect_matches(*schema(R"({"type": "object", "properties": {"pattern": {"type": "null"}, "a": {"not": {}}}})"),
                 {{R"({"pattern": null})", "{}"}, {R"({"a": 1})"}});
}

TEST(Grammar, StringLengthsCountCharacters) {
  expect_matches(*compile(Kind::json_schema, R"({"type": "string", "minLength": 2, "maxLength": 2})"),
                 {{R"("ab")", "\"\xc3\xa9\xf0\x9f\x98\x80\"", R"("\n\"")"}, {R"("a")", R"("abc")", R"("\n")"}});
}

TEST(Grammar, EndsAndRollback) {
  const Vocabulary& words = Vocabulary::get();
  const auto grammar = compile(Kind::regex, "ab?");
  ASSERT_TRUE(words.accept(*grammar, "a"));
  ASSERT_TRUE(grammar->accept(Vocabulary::kOtherEnd).ok());
  EXPECT_TRUE(grammar->is_finished());
  words.expect_mask(*grammar, [](const std::string&) { return false; }, true);
  ASSERT_TRUE(grammar->rollback(1).ok());
  EXPECT_FALSE(grammar->is_finished());
  words.expect_mask(*grammar, [](const std::string& t) { return t == "b"; }, true);
  ASSERT_TRUE(grammar->rollback(1).ok());
  words.expect_mask(*grammar, [](const std::string& t) { return t == "a" || t == "ab"; }, false);
  const auto copy = grammar->clone();
  ASSERT_TRUE(words.accept(*copy, "ab"));
  EXPECT_TRUE(copy->is_finished());
  EXPECT_FALSE(grammar->may_end());
  const Status refused = grammar->accept(-1);
  EXPECT_FALSE(refused.ok());
}

TEST(Grammar, AfterThinking) {
  const Vocabulary& words = Vocabulary::get();
  const auto open = compile(spec(Kind::json_schema, R"({"type": "integer"})", Thinking::open));
  EXPECT_FALSE(open->may_end());
  expect_matches(*open, {{"</think>1", "So {\"a\" 1?\n</think>\n\n12", "</thin </think>3"},
                         {"1", "a", "</think>", "</think>a", "</think>\n\n\n\n\n1"}});
  ASSERT_TRUE(words.accept(*open, "Hm"));
  words.expect_mask(*open, [](const std::string& text) { return words_are_text(text); }, false);
  const auto optional = compile(spec(Kind::regex, "[0-9]+", Thinking::may_open));
  expect_matches(*optional,
                 {{"12", "<think>a</think>12", "<think>\n\n</think>\n\n1"}, {"<think>12", "<thin", "a", "</think>1"}});
}

TEST(Grammar, Errors) {
  expect_error(spec(Kind::json_schema, "{\"type\": 1"), Code::invalid_argument, "not JSON");
  expect_error(spec(Kind::json_schema, R"({"type": "integre"})"), Code::invalid_argument, "integre");
  expect_error(spec(Kind::json_schema, R"({"$ref": "#/$defs/none"})"), Code::invalid_argument, "none");
  expect_error(spec(Kind::json_schema, R"({"type": "string", "pattern": "^+[a-z]$"})"), Code::invalid_argument,
               "nothing to repeat at byte 1");
  expect_error(spec(Kind::json_schema, R"({"patternProperties": {"a\\b{2}": {}}})"), Code::invalid_argument,
               "nothing to repeat at byte 3");
  expect_error(spec(Kind::regex, "a$?"), Code::invalid_argument, "nothing to repeat at byte 2");
  expect_error(spec(Kind::json_schema, R"({"type": "integer", "minimum": 3, "maximum": 1})"), Code::invalid_argument,
               "minimum");
  expect_error(spec(Kind::regex, "[a-"), Code::invalid_argument, "class");
  expect_error(spec(Kind::regex, "(a)\\1"), Code::invalid_argument, "backreference");
  expect_error(spec(Kind::ebnf, "start: missing"), Code::invalid_argument, "missing");
  expect_error(spec(Kind::ebnf, "root ::= missing"), Code::invalid_argument, "missing");
  expect_error(spec(Kind::ebnf, "root ::= \"a"), Code::invalid_argument, "open \" at character 9");
  expect_error(spec(Kind::choice, ""), Code::invalid_argument, "at least one choice");
  expect_error(spec(Kind::ebnf, "start: A\nA: /a/ & /b/"), Code::invalid_argument,
               "no token of the model's vocabulary can come next");
}

// Schemas with what may be done with them; scripts/check_schemas samples answers under the accepted ones.
TEST(Grammar, SchemaCases) {
  std::ifstream file(WEFT_TEST_DATA "/schemas/cases.jsonl");
  const std::unique_ptr<GrammarFactory> factory = Vocabulary::get().factory();
  int accepted = 0, rejected = 0;
  for (std::string line; std::getline(file, line);) {
    const Json test = parse_json(line).value();
    const std::string& expect = test.find("expect")->as_string();
    const auto begin = std::chrono::steady_clock::now();
    const auto grammar = factory->compile(spec(Kind::json_schema, test.find("schema")->dump()));
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5)) << line;
    const std::string message = grammar.ok() ? "" : grammar.error().message();
    EXPECT_TRUE(expect != "accept" || grammar.ok()) << line << "\n" << message;
    EXPECT_TRUE(expect != "reject" || !grammar.ok()) << line;
    EXPECT_TRUE(grammar.ok() || message.size() > 10) << line << "\n" << message;
    ++(grammar.ok() ? accepted : rejected);
  }
  EXPECT_GT(accepted, 20);
  EXPECT_GT(rejected, 10);
}

TEST(Grammar, Limits) {
  std::string deep = "1";
  for (int i = 0; i < 200; ++i) deep = "{\"items\":" + deep + "}";
  expect_error(spec(Kind::json_schema, deep), Code::invalid_argument, "nested deeper than 128");
  expect_error(spec(Kind::regex, std::string(60'000, '(') + std::string(60'000, ')')), Code::invalid_argument,
               "nested deeper");
  GrammarLimits small;
  small.text_bytes = 10;
  expect_error(spec(Kind::regex, "[a-z]{3}[0-9]"), Code::invalid_argument, "13 bytes, more than 10", small);
  small = {};
  small.memory = 1000;
  expect_error(spec(Kind::regex, "[a-z]{3}[0-9]"), Code::resource_exhausted, "more than 1000", small);
  EXPECT_GT(compile(Kind::regex, "[a-z]{3}")->bytes(), 1000u);
}

}  // namespace
}  // namespace weft
