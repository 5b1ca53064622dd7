// See the header.
#include "forms/json_calls.h"

#include "forms/held_text.h"

namespace weft {

CallReader::Step JsonCalls::step(CallStream& stream) {
  Found found = Found::no;
  switch (state_) {
    case State::head: found = read_head(stream); break;
    case State::arguments: found = read_arguments(stream); break;
    case State::between: found = read_between(stream); break;
  }
  return found == Found::yes ? Step::on : found == Found::more ? Step::more : Step::over;
}

void JsonCalls::cut_off(CallStream& stream) {
  if (state_ != State::head) stream.drop(stream.text().size());
}

Found JsonCalls::go_on(CallStream& stream, size_t size, State next) {
  stream.drop(size);
  state_ = next;
  return Found::yes;
}

// ---- heads

Found JsonCalls::read_head(CallStream& stream) {
  const std::string& text = stream.text();
  size_t at = skip_blanks(text, 0);
  if (at == text.size()) return Found::more;
  bool in_list = in_list_;
  if (!in_list && text[at] == '[') {
    at = skip_blanks(text, at + 1);
    if (at == text.size()) return Found::more;
    in_list = true;
  }
  return text[at] == '{' ? read_json_head(stream, at, in_list) : read_other_head(stream, at, in_list);
}

Found JsonCalls::read_json_head(CallStream& stream, size_t at, bool in_list) {
  CallHead head;
  if (const Found found = read_call_head(stream.text(), at, stream.names(), head); found != Found::yes) return found;
  begin_call(stream, head.name, head.at, in_list);
  braces_ = head.braces;
  object_read_ = head.arguments.has_value();
  if (head.arguments) stream.add_arguments(*head.arguments);
  return Found::yes;
}

Found JsonCalls::begin_object(CallStream& stream, const std::string& name, size_t at) {
  if (!stream.declared(name)) return Found::no;
  if (at >= stream.text().size()) return Found::more;
  if (stream.text()[at] != '{') return Found::no;
  return begin_call(stream, name, at, in_list_);
}

Found JsonCalls::begin_call(CallStream& stream, const std::string& name, size_t at, bool in_list) {
  stream.begin_call(name);
  in_list_ = in_list;
  braces_ = 0;
  object_read_ = false;
  scanner_ = {};
  return go_on(stream, at, State::arguments);
}

// ---- arguments

Found JsonCalls::read_arguments(CallStream& stream) {
  return object_read_ ? read_end_of_head(stream) : read_object(stream);
}

Found JsonCalls::read_object(CallStream& stream) {
  if (stream.text().empty()) return Found::more;
  const size_t size = scanner_.scan(stream.text());
  stream.add_arguments(std::string_view(stream.text()).substr(0, size));
  stream.drop(size);
  object_read_ = scanner_.done();
  return object_read_ ? Found::yes : Found::more;
}

// Members behind the arguments, and the braces around them.
Found JsonCalls::read_end_of_head(CallStream& stream) {
  const std::string& text = stream.text();
  while (braces_ > 0) {
    size_t at = skip_blanks(text, 0);
    if (at == text.size()) return Found::more;
    if (text[at] == ',') {
      std::string key;
      at = skip_blanks(text, at + 1);
      if (const Found found = read_string(text, at, key); found != Found::yes) return found;
      at = skip_blanks(text, at);
      if (at == text.size()) return Found::more;
      if (text[at] != ':') return Found::no;
      at = skip_blanks(text, at + 1);
      if (const Found found = skip_value(text, at); found != Found::yes) return found;
      stream.drop(at);
      continue;
    }
    if (text[at] != '}') return Found::no;
    stream.drop(at + 1);
    --braces_;
  }
  return go_on(stream, 0, State::between);
}

// ---- between calls

Found JsonCalls::read_between(CallStream& stream) {
  const std::string& text = stream.text();
  const size_t at = skip_blanks(text, 0);
  if (at == text.size()) return Found::more;
  if (in_list_ && text[at] == ']') {
    in_list_ = false;
    return go_on(stream, at + 1, State::between);
  }
  if (in_list_) return text[at] == ',' ? go_on(stream, at + 1, State::head) : Found::no;
  if (!close_.empty()) {
    if (begins(text, at, close_)) {
      stream.drop(at + close_.size());
      return Found::no;
    }
    if (may_begin(text, at, close_)) return Found::more;
  }
  if (text[at] == ';' || text[at] == ',') return go_on(stream, at + 1, State::head);
  return call_follows(text, at) ? go_on(stream, at, State::head) : Found::no;
}

}  // namespace weft
