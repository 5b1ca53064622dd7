// See the header.
#include "forms/python_calls.h"

#include "forms/held_text.h"
#include "forms/python_literal.h"

namespace weft {

namespace {

// One of KEY=VALUE, up to what stands behind it, or the closing parenthesis, whose key is empty.
struct Argument {
  std::string key, value;
};

Found parse_argument(std::string_view text, size_t& at, bool first, Argument& out) {
  at = skip_blanks(text, at);
  if (at < text.size() && text[at] == ',' && !first) at = skip_blanks(text, at + 1);
  if (at == text.size()) return Found::more;
  if (text[at] == ')') {
    ++at;
    return Found::yes;
  }
  if (const Found found = read_identifier(text, at, out.key); found != Found::yes) return found;
  at = skip_blanks(text, at);
  if (at == text.size()) return Found::more;
  if (text[at] != '=') return Found::no;
  ++at;
  if (const Found found = read_python(text, at, out.value); found != Found::yes) return found;
  at = skip_blanks(text, at);
  if (at == text.size()) return Found::more;
  return text[at] == ',' || text[at] == ')' ? Found::yes : Found::no;
}

}  // namespace

// A call begins once its first argument is complete.
Found PythonCalls::read_other_head(CallStream& stream, size_t at, bool in_list) {
  if (list_only_ && !in_list) return Found::no;
  std::string name;
  if (const Found found = read_identifier(stream.text(), at, name); found != Found::yes) return found;
  if (stream.text()[at] != '(' || !stream.declared(name)) return Found::no;
  Argument argument;
  size_t behind = at + 1;
  if (const Found found = parse_argument(stream.text(), behind, true, argument); found != Found::yes) return found;
  python_ = true;
  return begin_call(stream, name, at + 1, in_list);
}

Found PythonCalls::read_arguments(CallStream& stream) {
  return python_ ? read_argument(stream) : JsonCalls::read_arguments(stream);
}

Found PythonCalls::read_argument(CallStream& stream) {
  Argument argument;
  size_t at = 0;
  const Found found = parse_argument(stream.text(), at, !stream.has_argument(), argument);
  if (found != Found::yes) return found;
  if (!argument.key.empty()) {
    stream.add_argument(argument.key, argument.value);
    return go_on(stream, at, State::arguments);
  }
  close_call(stream);
  return go_on(stream, at, State::between);
}

void PythonCalls::close_call(CallStream& stream) {
  if (!python_) return JsonCalls::close_call(stream);
  python_ = false;
  stream.end_arguments();
}

}  // namespace weft
