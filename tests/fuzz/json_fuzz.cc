// JSON texts: what is read and written again reads as the same value; any bytes as a string literal are JSON.
#include "base/json.h"
#include "target.h"

using namespace weft;

std::vector<std::string> fuzz_seeds() {
  return {R"({"a":[1,-2.5e3,true,false,null,"x\n\u00e9\ud83d\ude00"],"b":{"c":{}},"a":0})", "[[[[[[]]]]]]",
          R"([0.1,1e308,-0,123456789012345678901234567890,9223372036854775807,-9223372036854775808,5e-324])", "\"\"",
          R"({"":"","\u0000":"\u001f","k":"\"\\\/\b\f"})"};
}
std::vector<std::string> fuzz_words() {
  return {"1e400",   "-0.0",
          "\\ud800", "\\u0000",
          "null",    "true",
          "[",       "]",
          "{",       "}",
          ",",       ":",
          "\"",      "\xef\xbb\xbf",
          "NaN",     "Infinity",
          "//",      "\xc3\x28",
          "0123",    "1.",
          ".5",      "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["};
}
void mend(std::string&) {}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text = copy_of(data, size);
  const auto literal = parse_json(json_quote(text));
  require(literal.ok() && literal->is_string(), "any bytes quoted are a JSON string");
  const auto read = parse_json(text);
  if (!read.ok()) return require_message(read.error()), 0;
  require(read->is_string() || *literal == Json(text), "JSON is UTF-8");
  const std::string written = read->dump();
  const auto again = parse_json(written);
  require(again.ok(), "what is written is JSON");
  require(*again == *read && again->dump() == written, "what is read again is the same");
  return 0;
}
