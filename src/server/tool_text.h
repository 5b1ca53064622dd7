// The pieces that tool calls are made of, read from text that may still be growing (tool_calls.cc). Every reader says
// whether the text is enough; places are byte offsets into the text given.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace weft::tool_text {

enum class Found : unsigned char { yes, no, more };  // more: the text ends too early to tell

// The first place from `at` on that is no white space (the text's size if there is none).
size_t skip_blanks(std::string_view text, size_t at);

// Moves `at` behind a JSON value. Strings and brackets only are looked at, so that slightly wrong JSON passes.
Found skip_value(std::string_view text, size_t& at);
// Reads a JSON string and moves `at` behind it.
Found read_string(std::string_view text, size_t& at, std::string& out);

// The beginning of a call object: {"name": NAME, "arguments": ..., with other members and {"function": {...}} around it
// allowed.
struct CallHead {
  std::string name;
  // The arguments: an object that begins at `at` and goes on, or text that is complete, `at` behind it.
  std::optional<std::string> arguments;
  size_t at = 0;
  int braces = 0;  // to be closed behind the arguments
};
// `names`: the functions that count. `at` is the place of the opening brace.
Found read_call_head(std::string_view text, size_t at, const std::vector<std::string>& names, CallHead& out);

// Reads a Python literal (string, number, True, False, None, list, tuple, dict) as JSON text and moves `at` behind it.
// A number at the end of the text may go on.
Found read_python(std::string_view text, size_t& at, std::string& json, int depth = 0);
// An identifier, with dots: the name of a function.
Found read_identifier(std::string_view text, size_t& at, std::string& out);

// A value of the XML form as JSON: a string where the schema says so or where it is no JSON.
std::string xml_value(std::string_view text, const Json* schema);

// Follows a JSON object through its pieces.
class ObjectScanner {
 public:
  // How much of `text` belongs to the object; `done()` once it is closed. Text that cannot be JSON ("<" outside a
  // string) ends it too.
  size_t scan(std::string_view text);
  bool done() const { return done_; }

 private:
  int depth_ = 0;
  bool in_string_ = false, escaped_ = false, done_ = false;
};

}  // namespace weft::tool_text
