// Values written as bare text, read by the schema of their parameter. What a schema allows follows JSON schema; the
// order of choices is that of Qwen 3 Coder's reference parser: JSON, then Python's ast.literal_eval, then the text.
#include "forms/typed_value.h"

#include <gtest/gtest.h>

#include <array>

#include "forms/python_literal.h"

namespace weft {
namespace {

const Json& parameters() {
  static const Json parsed = parse_json(R"({
    "$defs": {"Zip": {"type": "string"}, "a/b %": {"enum": [1, "2"]}, "Loop": {"$ref": "#/$defs/Loop"}},
    "properties": {
      "text": {"type": "string"}, "integer": {"type": "integer"}, "number": {"type": "number"},
      "flag": {"anyOf": [{"type": "boolean"}, {"type": "null"}]}, "list": {"type": "array"}, "map": {"type": "object"},
      "optional": {"anyOf": [{"type": "string"}, {"type": "null"}]}, "either": {"type": ["string", "null"]},
      "zip": {"$ref": "#/$defs/Zip"}, "mixed": {"$ref": "#/$defs/a~1b%20%25"}, "loop": {"$ref": "#/$defs/Loop"},
      "size": {"enum": ["1", "2"]}, "seven": {"const": "7"}, "open": {"nullable": true, "type": "integer"},
      "all": {"allOf": [{"$ref": "#/$defs/Zip"}, {"maxLength": 9}]}, "count": {"oneOf": [{"type": "integer"}, {"type": "string"}]},
      "strings": {"type": ["integer", "string"]}, "same": {"$ref": "#/properties/text"}, "any": {}
    }})")
                                 .value();
  return parsed;
}

std::string read(std::string_view name, std::string_view text) {
  return typed_value(text, parameter_schema(parameters(), name), parameters());
}

TEST(TypedValue, FollowsTheWholeSchema) {
  const std::initializer_list<std::array<std::string_view, 3>> cases = {
      {"text", "12", "\"12\""},
      {"text", "null", "\"null\""},
      {"text", "{\"a\": 1}", "\"{\\\"a\\\": 1}\""},
      {"text", " \"x\"", "\" \\\"x\\\"\""},
      {"optional", "12", "\"12\""},
      {"optional", "null", "null"},
      {"either", "True", "\"True\""},
      {"zip", "90210", "\"90210\""},
      {"all", "90210", "\"90210\""},
      {"same", "1", "\"1\""},
      {"size", "2", "\"2\""},
      {"size", "\"2\"", "\"2\""},
      {"seven", "7", "\"7\""},
      {"mixed", "1", "1"},
      {"mixed", "2", "\"2\""},
      {"loop", "2", "2"},
      {"integer", "140.0", "140"},
      {"integer", "007", "7"},
      {"integer", "-3", "-3"},
      {"integer", "+5", "5"},
      {"integer", "1_000", "1000"},
      {"integer", "18446744073709551616", "18446744073709551616"},
      {"integer", "2026-01-15", "\"2026-01-15\""},
      {"open", "NULL", "null"},
      {"number", "9.5367431640625e-07", "9.5367431640625e-07"},
      {"number", "17592186044416.0", "17592186044416.0"},
      {"number", ".5", "0.5"},
      {"count", "12", "12"},
      {"strings", "1_0", "\"1_0\""},
      {"flag", "False", "false"},
      {"flag", "TRUE", "true"},
      {"flag", "None", "null"},
      {"map", "{'a': True, 'b': None, 1: ['x']}", "{\"a\":true,\"b\":null,\"1\":[\"x\"]}"},
      {"list", "('a', \"b\")", "[\"a\",\"b\"]"},
      {"any", "1.50", "1.50"},
      {"any", "\"x\"", "\"\\\"x\\\"\""},
      {"any", "(555)", "\"(555)\""},
      {"unknown", "[1, 2]", "[1,2]"},
      {"unknown", "", "\"\""},
  };
  for (const auto& [name, text, json] : cases) EXPECT_EQ(read(name, text), json) << name << ": " << text;
}

TEST(TypedValue, FindsParametersBehindCombinations) {
  const Json schema = parse_json(R"({"$ref": "#/$defs/A", "allOf": [{"properties": {"b": {"type": "string"}}}],
      "$defs": {"A": {"properties": {"a": {"type": "string"}}}}, "additionalProperties": {"type": "integer"}})")
                          .value();
  EXPECT_EQ(typed_value("1", parameter_schema(schema, "a"), schema), "\"1\"");
  EXPECT_EQ(typed_value("1", parameter_schema(schema, "b"), schema), "\"1\"");
  EXPECT_EQ(typed_value("1.0", parameter_schema(schema, "c"), schema), "1");
}

// Each of these would be looked at 2^32 times: one that refers to itself twice, as deep as references are followed.
TEST(TypedValue, CombinationsThatReferToThemselvesEnd) {
  const Json schema = parse_json(R"({"anyOf": [{"$ref": "#"}, {"$ref": "#"}], "properties": {
      "a": {"allOf": [{"$ref": "#/properties/a"}, {"$ref": "#/properties/a"}]}}})")
                          .value();
  EXPECT_EQ(parameter_schema(schema, "none"), nullptr);
  EXPECT_EQ(typed_value("1", parameter_schema(schema, "a"), schema), "1");
}

// By Python 3: json.dumps(ast.literal_eval(text)), with numbers that are JSON as they stand.
TEST(PythonLiteral, IsReadAsPythonReadsIt) {
  const std::initializer_list<std::pair<const char*, const char*>> cases = {
      {".5", "0.5"},
      {"-.5", "-0.5"},
      {"5.", "5.0"},
      {"+5", "5"},
      {"- 5", "-5"},
      {"1_000", "1000"},
      {"0x10", "16"},
      {"-0xFFFFFFFFFFFFFFFFFF", "-4722366482869645213695"},
      {"0o17", "15"},
      {"0b101", "5"},
      {"1e-7", "1e-7"},
      {"100000000000000000000", "100000000000000000000"},
      {"\"x\" 'y'", "\"xy\""},
      {"(\"x\"\n  \"y\")", "\"xy\""},
      {"(1)", "1"},
      {"(1,)", "[1]"},
      {"()", "[]"},
      {"r\"C:\\temp\"", "\"C:\\\\temp\""},
      {"r'\\''", "\"\\\\'\""},
      {"u'x'", "\"x\""},
      {"\"\"\"a \"b\" c\nd\"\"\"", "\"a \\\"b\\\" c\\nd\""},
      {"''", "\"\""},
      {"'\\101\\0\\x41'", "\"A\\u0000A\""},
      {"'a\\\nb'", "\"ab\""},
      {"'\\d'", "\"\\\\d\""},
      {"'\\ud83d\\ude00\\U0001F600'", "\"\xf0\x9f\x98\x80\xf0\x9f\x98\x80\""},
      {"{1: 2, True: 'x', None: []}", "{\"1\": 2, \"true\": \"x\", \"null\": []}"},
  };
  for (const auto& [text, json] : cases) {
    const std::string behind = std::string(text) + ", ";
    std::string read;
    size_t at = 0;
    ASSERT_EQ(read_python(behind, at, read), Found::yes) << text;
    EXPECT_EQ(read, json) << text;
    EXPECT_EQ(behind.substr(at), ", ") << text;
    for (size_t size = 0; size < std::string_view(text).size(); ++size) {
      std::string part;
      at = 0;
      ASSERT_NE(read_python(std::string_view(text).substr(0, size), at, part), Found::no) << text << " up to " << size;
    }
  }
  for (const char* text : {"1__0,", "_1,", "0xG,", "0x@,", "--5,", "007,", "x,", "1e400,", "+True,"}) {
    std::string read;
    size_t at = 0;
    EXPECT_EQ(read_python(text, at, read), Found::no) << text;
  }
}

}  // namespace
}  // namespace weft
