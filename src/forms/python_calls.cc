// See the header.
#include "forms/python_calls.h"

#include "forms/held_text.h"
#include "forms/python_literal.h"

namespace weft {

Found PythonCalls::read_other_head(CallStream& stream, size_t at, bool in_list) {
  if (list_only_ && !in_list) return Found::no;
  std::string name;
  if (const Found found = read_identifier(stream.text(), at, name); found != Found::yes) return found;
  if (stream.text()[at] != '(' || !stream.declared(name)) return Found::no;
  python_ = true;
  return begin_call(stream, name, at + 1, in_list);
}

Found PythonCalls::read_arguments(CallStream& stream) {
  return python_ ? read_argument(stream) : JsonCalls::read_arguments(stream);
}

// One of KEY=VALUE, or the closing parenthesis.
Found PythonCalls::read_argument(CallStream& stream) {
  const std::string& text = stream.text();
  size_t at = skip_blanks(text, 0);
  if (at < text.size() && text[at] == ',' && stream.has_argument()) at = skip_blanks(text, at + 1);
  if (at == text.size()) return Found::more;
  if (text[at] == ')') {
    python_ = false;
    stream.end_arguments();
    return go_on(stream, at + 1, State::between);
  }
  std::string key, value;
  if (const Found found = read_identifier(text, at, key); found != Found::yes) return found;
  at = skip_blanks(text, at);
  if (at == text.size()) return Found::more;
  if (text[at] != '=') return Found::no;
  ++at;
  if (const Found found = read_python(text, at, value); found != Found::yes) return found;
  at = skip_blanks(text, at);
  if (at == text.size()) return Found::more;
  if (text[at] != ',' && text[at] != ')') return Found::no;
  stream.add_argument(key, value);
  return go_on(stream, at, State::arguments);
}

}  // namespace weft
