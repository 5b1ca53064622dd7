// See the header.
#include "forms/json_calls.h"

#include <utility>

#include "forms/held_text.h"

namespace weft {

CallReader::Step JsonCalls::step(CallStream& stream) {
  Found found = Found::no;
  switch (state_) {
    case State::head: found = read_head(stream); break;
    case State::arguments: found = read_arguments(stream); break;
    case State::between: found = read_between(stream); break;
  }
  if (found == Found::no && state_ == State::arguments) close_call(stream);
  if (found == Found::no && state_ == State::head) stream.add_content(std::exchange(separator_, {}));
  return found == Found::yes ? Step::on : found == Found::more ? Step::more : Step::over;
}

void JsonCalls::cut_off(CallStream& stream) {
  if (state_ == State::head) return stream.add_content(std::exchange(separator_, {}));
  if (state_ == State::arguments) close_call(stream);
  stream.drop(stream.text().size());
}

void JsonCalls::close_call(CallStream& stream) {
  if (!object_read_) stream.add_arguments(reader_.close());
}

Found JsonCalls::go_on(CallStream& stream, size_t size, State next) {
  stream.drop(size);
  state_ = next;
  return Found::yes;
}

// ---- heads

namespace {

// The first value of the object at `at` begins, or there is none.
Found value_begins(std::string_view text, size_t at) {
  ObjectReader reader;
  std::string out;
  reader.read(text.substr(at), out);
  return !out.empty() ? Found::yes : reader.wrong() ? Found::no : Found::more;
}

}  // namespace

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
  if (!head.arguments)
    if (const Found found = value_begins(stream.text(), head.at); found != Found::yes) return found;
  begin_call(stream, head.name, head.at, in_list);
  braces_ = head.braces;
  object_read_ = head.arguments.has_value();
  if (head.arguments) stream.add_arguments(*head.arguments);
  return Found::yes;
}

Found JsonCalls::begin_object(CallStream& stream, const std::string& name, size_t at) {
  if (!stream.declared(name)) return Found::no;
  if (at >= stream.text().size()) return Found::more;
  if (const Found found = value_begins(stream.text(), at); found != Found::yes) return found;
  return begin_call(stream, name, at, in_list_);
}

Found JsonCalls::begin_call(CallStream& stream, const std::string& name, size_t at, bool in_list) {
  stream.begin_call(name);
  in_list_ = in_list;
  braces_ = 0;
  object_read_ = false;
  reader_ = {};
  separator_.clear();
  return go_on(stream, at, State::arguments);
}

// ---- arguments

Found JsonCalls::read_arguments(CallStream& stream) {
  return object_read_ ? read_end_of_head(stream) : read_object(stream);
}

Found JsonCalls::read_object(CallStream& stream) {
  if (stream.text().empty()) return Found::more;
  std::string object;
  const size_t size = reader_.read(stream.text(), object);
  stream.add_arguments(object);
  stream.drop(size);
  if (reader_.wrong()) stream.add_arguments(reader_.close());
  object_read_ = reader_.done();
  return object_read_ ? Found::yes : Found::more;
}

// Members behind the arguments, and the braces around them, of which some may be missing.
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
    if (text[at] != '}') break;
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
  if (!in_list_ && !close_.empty()) {
    const size_t close = surplus_braces(text, at);
    if (begins(text, close, close_)) {
      stream.drop(close + close_.size());
      return Found::no;
    }
    if (may_begin(text, close, close_)) return Found::more;
  }
  if (text[at] == ',' || (text[at] == ';' && !in_list_)) {
    separator_ = text.substr(0, at + 1);
    return go_on(stream, at + 1, State::head);
  }
  if (in_list_) return Found::no;
  const Found next = call_follows(text, at);
  return next == Found::yes ? go_on(stream, at, State::head) : next;
}

// The place behind braces that are one too many.
size_t JsonCalls::surplus_braces(std::string_view text, size_t at) const {
  while (at < text.size() && text[at] == '}') at = skip_blanks(text, at + 1);
  return at;
}

}  // namespace weft
