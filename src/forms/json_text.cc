// See the header.
#include "forms/json_text.h"

#include <algorithm>
#include <utility>

#include "forms/held_text.h"

namespace weft {

// ---- values

// Moves next_ behind the string that it stands in; false: the string goes on.
bool ValueReader::end_string(std::string_view text) {
  while (next_ < text.size()) {
    const char c = text[next_++];
    if (c == '\\') ++next_;
    else if (c == '"') return true;
  }
  return false;
}

Found ValueReader::skip_string(std::string_view text, size_t& at) {
  if (next_ == 0) next_ = at + 1;
  if (!end_string(text)) return Found::more;
  at = std::exchange(next_, 0);
  return Found::yes;
}

Found ValueReader::skip_word(std::string_view text, size_t& at) {
  const size_t end = text.find_first_of(",]} \t\r\n", std::max(next_, at));
  next_ = end == std::string_view::npos ? text.size() : 0;
  if (end == std::string_view::npos) return Found::more;
  if (end == at) return Found::no;
  at = end;
  return Found::yes;
}

Found ValueReader::skip_brackets(std::string_view text, size_t& at) {
  if (depth_ == 0) next_ = at;
  while (next_ < text.size()) {
    if (quoted_) {
      quoted_ = !end_string(text);
      continue;
    }
    const char c = text[next_++];
    if (c == '"') quoted_ = true;
    else if (c == '{' || c == '[') ++depth_;
    else if ((c == '}' || c == ']') && --depth_ == 0) {
      at = std::exchange(next_, 0);
      return Found::yes;
    }
  }
  return Found::more;
}

Found ValueReader::skip_value(std::string_view text, size_t& at) {
  if (at >= text.size()) return Found::more;
  if (text[at] == '"') return skip_string(text, at);
  return text[at] == '{' || text[at] == '[' ? skip_brackets(text, at) : skip_word(text, at);
}

Found ValueReader::read_string(std::string_view text, size_t& at, std::string& out) {
  if (at >= text.size()) return Found::more;
  if (text[at] != '"') return Found::no;
  const size_t begin = at;
  if (skip_string(text, at) == Found::more) return Found::more;
  const auto parsed = parse_json(text.substr(begin, at - begin));
  if (!parsed.ok() || !parsed->is_string()) return Found::no;
  out = parsed->as_string();
  return Found::yes;
}

Found MemberReader::skip_member(std::string_view text, size_t& at) {
  if (step_ == Step::key) {
    std::string key;
    at = skip_blanks(text, at);
    if (const Found found = value_.read_string(text, at, key); found != Found::yes) return found;
    step_ = Step::colon;
  }
  if (step_ == Step::colon) {
    at = skip_blanks(text, at);
    if (at == text.size()) return Found::more;
    if (text[at++] != ':') return Found::no;
    step_ = Step::value;
  }
  at = skip_blanks(text, at);
  return value_.skip_value(text, at);
}

// ---- heads

namespace {

bool one_of(std::string_view key, std::initializer_list<std::string_view> keys) {
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

}  // namespace

Found CallHeadReader::read(std::string_view text, size_t at, const std::vector<std::string>& names) {
  if (!begun_) at_ = at;
  begun_ = true;
  Found found = Found::yes;
  while (found == Found::yes && step_ != Step::done) found = step(text, names);
  return found;
}

Found CallHeadReader::go_on(Step next) {
  step_ = next;
  return Found::yes;
}

// The members of the call object, one by one.
Found CallHeadReader::step(std::string_view text, const std::vector<std::string>& names) {
  if (step_ == Step::open) return enter(text);
  if (step_ == Step::object) return read_object(text);
  // Within a value that is not complete, at_ is its beginning.
  at_ = skip_blanks(text, at_);
  if (at_ == text.size()) return Found::more;
  switch (step_) {
    case Step::member:
      if (text[at_] == ',') ++at_;
      return go_on(Step::key);
    case Step::key: return text[at_] == '}' ? end_of_object() : read_key(text);
    case Step::colon:
      if (text[at_++] != ':') return Found::no;
      return go_on(Step::value);
    default: return read_member(text, names);
  }
}

Found CallHeadReader::enter(std::string_view text) {
  if (at_ >= text.size()) return Found::more;
  if (text[at_] != '{') return Found::no;
  ++at_;
  ++head_.braces;
  return go_on(Step::member);
}

// Of a function without arguments, or one whose arguments came before its name.
Found CallHeadReader::end_of_object() {
  if (head_.name.empty()) return Found::no;
  if (!head_.arguments) head_.arguments = "{}";
  head_.at = at_;
  return go_on(Step::done);
}

// An answer in JSON that is no call goes through from its first key on.
Found CallHeadReader::read_key(std::string_view text) {
  std::string key;
  if (const Found found = value_.read_string(text, at_, key); found != Found::yes) return found;
  if (key == "name") key_ = Key::name;
  else if (one_of(key, {"arguments", "parameters"})) key_ = Key::arguments;
  else if (key == "function") key_ = Key::function;
  else if (one_of(key, {"type", "id", "index"})) key_ = Key::other;
  else return Found::no;
  return go_on(Step::colon);
}

Found CallHeadReader::read_member(std::string_view text, const std::vector<std::string>& names) {
  if (key_ == Key::arguments) return read_arguments(text);
  if (key_ == Key::function && text[at_] == '{') return enter(text);
  const Found found = key_ == Key::name ? value_.read_string(text, at_, head_.name) : value_.skip_value(text, at_);
  if (found != Found::yes) return found;
  if (key_ == Key::name && std::ranges::find(names, head_.name) == names.end()) return Found::no;
  return go_on(Step::member);
}

Found CallHeadReader::read_arguments(std::string_view text) {
  if (text[at_] == '{' && !head_.name.empty()) {
    head_.at = at_;
    return go_on(Step::done);
  }
  return text[at_] == '{' ? go_on(Step::object) : read_spelled_arguments(text);
}

Found CallHeadReader::end_arguments(std::string object) {
  head_.arguments = std::move(object);
  head_.at = at_;
  return go_on(head_.name.empty() ? Step::member : Step::done);
}

// An object that is read to its end.
Found CallHeadReader::read_object(std::string_view text) {
  at_ += object_.read(text.substr(at_), object_text_);
  if (!object_.done()) return object_.wrong() ? Found::no : Found::more;
  object_ = {};
  return end_arguments(std::exchange(object_text_, {}));
}

// An object in a string, or nothing at all in some spelling.
Found CallHeadReader::read_spelled_arguments(std::string_view text) {
  const size_t begin = at_;
  std::string value;
  const bool quoted = text[at_] == '"';
  const Found found = quoted ? value_.read_string(text, at_, value) : value_.skip_value(text, at_);
  if (found != Found::yes) return found;
  if (!quoted) value = text.substr(begin, at_ - begin);
  const bool nothing = skip_blanks(value, 0) == value.size() || one_of(value, {"null", "None", "[]"});
  std::string object = nothing ? "{}" : whole_object(value);
  return object.empty() ? Found::no : end_arguments(std::move(object));
}

}  // namespace weft
