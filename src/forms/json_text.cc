// See the header.
#include "forms/json_text.h"

#include <algorithm>

#include "forms/held_text.h"
#include "forms/json_object.h"

namespace weft {

namespace {

// The place behind a JSON string that begins at `at`; npos: it goes on.
size_t string_end(std::string_view text, size_t at) {
  for (size_t i = at + 1; i < text.size(); ++i) {
    if (text[i] == '\\') ++i;
    else if (text[i] == '"') return i + 1;
  }
  return std::string_view::npos;
}

bool one_of(std::string_view key, std::initializer_list<std::string_view> keys) {
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

}  // namespace

Found skip_value(std::string_view text, size_t& at) {
  if (at >= text.size()) return Found::more;
  if (text[at] == '"') {
    const size_t end = string_end(text, at);
    if (end == std::string_view::npos) return Found::more;
    at = end;
    return Found::yes;
  }
  if (text[at] != '{' && text[at] != '[') {
    const size_t end = text.find_first_of(",]} \t\r\n", at);
    if (end == std::string_view::npos) return Found::more;
    if (end == at) return Found::no;
    at = end;
    return Found::yes;
  }
  int depth = 0;
  for (size_t i = at; i < text.size(); ++i) {
    if (text[i] == '"') {
      const size_t end = string_end(text, i);
      if (end == std::string_view::npos) return Found::more;
      i = end - 1;
    } else if (text[i] == '{' || text[i] == '[') {
      ++depth;
    } else if ((text[i] == '}' || text[i] == ']') && --depth == 0) {
      at = i + 1;
      return Found::yes;
    }
  }
  return Found::more;
}

Found read_string(std::string_view text, size_t& at, std::string& out) {
  if (at >= text.size()) return Found::more;
  if (text[at] != '"') return Found::no;
  const size_t end = string_end(text, at);
  if (end == std::string_view::npos) return Found::more;
  const auto parsed = parse_json(text.substr(at, end - at));
  if (!parsed.ok() || !parsed->is_string()) return Found::no;
  out = parsed->as_string();
  at = end;
  return Found::yes;
}

namespace {

// The members of the call object, one by one.
class HeadReader {
 public:
  HeadReader(std::string_view text, size_t at, const std::vector<std::string>& names, CallHead& out)
      : text_(text), at_(at), names_(names), out_(out) {}

  Found read() {
    Found open = enter();
    while (open == Found::yes) {
      at_ = skip_blanks(text_, at_);
      if (at_ < text_.size() && text_[at_] == ',') at_ = skip_blanks(text_, at_ + 1);
      if (at_ >= text_.size()) return Found::more;
      if (text_[at_] == '}') return end_of_object();
      std::string key;
      if (const Found found = read_string(text_, at_, key); found != Found::yes) return found;
      // An answer in JSON that is no call goes through from its first key on.
      if (!one_of(key, {"name", "arguments", "parameters", "type", "id", "index", "function"})) return Found::no;
      at_ = skip_blanks(text_, at_);
      if (at_ >= text_.size()) return Found::more;
      if (text_[at_++] != ':') return Found::no;
      at_ = skip_blanks(text_, at_);
      if (at_ >= text_.size()) return Found::more;
      bool complete = false;
      if (const Found found = member(key, complete); found != Found::yes || complete) return found;
    }
    return open;
  }

 private:
  Found enter() {
    if (at_ >= text_.size()) return Found::more;
    if (text_[at_] != '{') return Found::no;
    ++at_;
    ++out_.braces;
    return Found::yes;
  }

  // Of a function without arguments, or one whose arguments came before its name.
  Found end_of_object() {
    if (out_.name.empty()) return Found::no;
    if (!out_.arguments) out_.arguments = "{}";
    out_.at = at_;
    return Found::yes;
  }

  Found member(const std::string& key, bool& complete) {
    if (key == "name") {
      const Found found = read_string(text_, at_, out_.name);
      if (found != Found::yes) return found;
      return std::find(names_.begin(), names_.end(), out_.name) == names_.end() ? Found::no : Found::yes;
    }
    if (one_of(key, {"arguments", "parameters"})) return arguments(complete);
    if (key == "function" && text_[at_] == '{') return enter();
    return skip_value(text_, at_);
  }

  Found arguments(bool& complete) {
    if (text_[at_] == '{' && !out_.name.empty()) {
      out_.at = at_;
      complete = true;
      return Found::yes;
    }
    std::string object;
    if (const Found found = whole_arguments(object); found != Found::yes) return found;
    out_.arguments = std::move(object);
    out_.at = at_;
    complete = !out_.name.empty();
    return Found::yes;
  }

  // Arguments that are read to their end: an object, an object in a string, or nothing at all in some spelling.
  Found whole_arguments(std::string& object) {
    if (text_[at_] == '{') {
      ObjectReader reader;
      at_ += reader.read(text_.substr(at_), object);
      return reader.done() ? Found::yes : reader.wrong() ? Found::no : Found::more;
    }
    std::string text;
    if (text_[at_] == '"') {
      if (const Found found = read_string(text_, at_, text); found != Found::yes) return found;
    } else {
      const size_t begin = at_;
      if (const Found found = skip_value(text_, at_); found != Found::yes) return found;
      text = text_.substr(begin, at_ - begin);
    }
    const bool nothing = skip_blanks(text, 0) == text.size() || one_of(text, {"null", "None", "[]"});
    object = nothing ? "{}" : whole_object(text);
    return object.empty() ? Found::no : Found::yes;
  }

  std::string_view text_;
  size_t at_;
  const std::vector<std::string>& names_;
  CallHead& out_;
};

}  // namespace

Found read_call_head(std::string_view text, size_t at, const std::vector<std::string>& names, CallHead& out) {
  out = {};
  return HeadReader(text, at, names, out).read();
}

}  // namespace weft
