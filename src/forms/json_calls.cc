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
  head_ = {};
  value_ = {};
  value_read_ = member_at_ = braces_end_ = in_vain_ = 0;
  member_ = {};
  forget();
  return Found::yes;
}

// ---- heads

// The first value of the object at `at` begins, or there is none.
Found JsonCalls::value_begins(CallStream& stream, size_t at) {
  const std::string_view text = stream.text();
  std::string out;
  for (; at + value_read_ < text.size() && out.empty() && !value_.wrong(); ++value_read_)
    value_.read(text.substr(at + value_read_, 1), out);
  return read_to(at + value_read_, !out.empty() ? Found::yes : value_.wrong() ? Found::no : Found::more);
}

Found JsonCalls::read_head(CallStream& stream) {
  const std::string_view text = stream.text();
  size_t at = stream.skip_blanks(0);
  if (at == text.size()) return Found::more;
  bool in_list = in_list_;
  if (!in_list && text[at] == '[') {
    at = stream.skip_blanks(at + 1);
    if (at == text.size()) return Found::more;
    in_list = true;
  }
  return text[at] == '{' ? read_json_head(stream, at, in_list) : read_other_head(stream, at, in_list);
}

Found JsonCalls::read_json_head(CallStream& stream, size_t at, bool in_list) {
  if (const Found found = head_.read(stream.text(), at, stream.names()); found != Found::yes)
    return read_to(head_.at(), found);
  if (!head_.head().arguments)
    if (const Found found = value_begins(stream, head_.head().at); found != Found::yes) return found;
  const CallHead head = head_.head();
  begin_call(stream, head.name, head.at, in_list);
  braces_ = head.braces;
  object_read_ = head.arguments.has_value();
  if (head.arguments) stream.add_arguments(*head.arguments);
  return Found::yes;
}

Found JsonCalls::begin_object(CallStream& stream, std::string_view name, size_t at) {
  if (!stream.declared(name)) return read_to(at, Found::no);
  if (at >= stream.text().size()) return Found::more;
  if (const Found found = value_begins(stream, at); found != Found::yes) return found;
  return begin_call(stream, name, at, in_list_);
}

Found JsonCalls::begin_call(CallStream& stream, std::string_view name, size_t at, bool in_list) {
  stream.begin_call(std::string(name));
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
  while (braces_ > 0) {
    const std::string_view text = stream.text();
    const size_t at = stream.skip_blanks(0);
    if (at == text.size()) return Found::more;
    if (text[at] == ',') {
      if (member_at_ == 0) member_at_ = at + 1;
      if (const Found found = member_.skip_member(text, member_at_); found != Found::yes)
        return read_to(member_at_, found);
      stream.drop(member_at_);
      member_ = {};
      member_at_ = 0;
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
  const std::string_view text = stream.text();
  const size_t at = stream.skip_blanks(0);
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
size_t JsonCalls::surplus_braces(std::string_view text, size_t at) {
  if (braces_end_ > 0) at = braces_end_ = skip_blanks(text, braces_end_);
  while (at < text.size() && text[at] == '}') at = braces_end_ = skip_blanks(text, at + 1);
  return at;
}

}  // namespace weft
