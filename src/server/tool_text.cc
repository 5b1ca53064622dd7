// See the header.
#include "server/tool_text.h"

#include <algorithm>

#include "server/held_text.h"

namespace weft::tool_text {

namespace {

constexpr int kMaxDepth = 64;

bool is_word(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_'; }

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

size_t skip_blanks(std::string_view text, size_t at) {
  const size_t found = text.find_first_not_of(kBlanks, at);
  return found == std::string_view::npos ? text.size() : found;
}

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
    const size_t begin = at_;
    std::string text;
    if (text_[at_] == '"') {
      if (const Found found = read_string(text_, at_, text); found != Found::yes) return found;
    } else {
      if (const Found found = skip_value(text_, at_); found != Found::yes) return found;
      text = text_.substr(begin, at_ - begin);
      if (text == "null") text = "{}";
    }
    out_.arguments = std::move(text);
    out_.at = at_;
    complete = !out_.name.empty();
    return Found::yes;
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

Found read_identifier(std::string_view text, size_t& at, std::string& out) {
  size_t end = at;
  while (end < text.size() && (is_word(text[end]) || text[end] == '.' || text[end] == '-')) ++end;
  if (end == text.size()) return Found::more;
  if (end == at || (text[at] >= '0' && text[at] <= '9')) return Found::no;
  out = text.substr(at, end - at);
  at = end;
  return Found::yes;
}

namespace {

void add_utf8(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xc0 | (code >> 6));
    out += static_cast<char>(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xe0 | (code >> 12));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3f));
    out += static_cast<char>(0x80 | (code & 0x3f));
  } else {
    out += static_cast<char>(0xf0 | (code >> 18));
    out += static_cast<char>(0x80 | ((code >> 12) & 0x3f));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3f));
    out += static_cast<char>(0x80 | (code & 0x3f));
  }
}

// An escape behind its backslash; `at` is moved behind it. Unknown escapes stay as they are, as in Python.
void add_escape(std::string_view text, size_t& at, std::string& out) {
  static constexpr std::string_view kFrom = "ntrbfva0\\'\"\n", kTo{"\n\t\r\b\f\v\a\0\\'\"\n", 12};
  const char c = text[at++];
  const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
  if (digits > 0 && at + digits <= text.size()) {
    uint32_t code = 0;
    bool valid = true;
    for (size_t i = 0; i < digits; ++i) {
      const char d = text[at + i];
      const int value = d >= '0' && d <= '9'   ? d - '0'
                        : d >= 'a' && d <= 'f' ? d - 'a' + 10
                        : d >= 'A' && d <= 'F' ? d - 'A' + 10
                                               : -1;
      valid = valid && value >= 0;
      code = code * 16 + static_cast<uint32_t>(std::max(value, 0));
    }
    if (valid && code < 0x110000) {
      at += digits;
      return add_utf8(out, code);
    }
  }
  const size_t found = kFrom.find(c);
  if (found == std::string_view::npos) (out += '\\') += c;
  else out += kTo[found];
}

Found read_python_string(std::string_view text, size_t& at, std::string& json) {
  const char quote = text[at];
  std::string value;
  for (size_t i = at + 1; i < text.size();) {
    if (text[i] == quote) {
      json += json_quote(value);
      at = i + 1;
      return Found::yes;
    }
    if (text[i] != '\\') {
      value += text[i++];
      continue;
    }
    if (i + 10 > text.size() && text.find(quote, i + 2) == std::string_view::npos) return Found::more;
    ++i;
    add_escape(text, i, value);
  }
  return Found::more;
}

Found read_python_word(std::string_view text, size_t& at, std::string& json) {
  const size_t end = text.find_first_of(",)]}: \t\r\n", at);
  if (end == std::string_view::npos) return Found::more;
  const std::string_view word = text.substr(at, end - at);
  if (word == "True" || word == "true") json += "true";
  else if (word == "False" || word == "false") json += "false";
  else if (word == "None" || word == "null") json += "null";
  else if (const auto number = parse_json(word); number.ok() && number->is_number()) json += word;
  else return Found::no;
  at = end;
  return Found::yes;
}

// A list, tuple or dict.
Found read_python_items(std::string_view text, size_t& at, std::string& json, int depth) {
  const bool dict = text[at] == '{';
  const char close = dict ? '}' : text[at] == '[' ? ']' : ')';
  json += dict ? '{' : '[';
  size_t i = skip_blanks(text, at + 1);
  for (bool first = true;; first = false) {
    if (i >= text.size()) return Found::more;
    if (text[i] == close) break;
    if (!first) {
      if (text[i] != ',') return Found::no;
      i = skip_blanks(text, i + 1);
      if (i >= text.size()) return Found::more;
      if (text[i] == close) break;  // a comma at the end
      json += ", ";
    }
    if (dict) {
      if (text[i] != '"' && text[i] != '\'') return Found::no;
      if (const Found key = read_python_string(text, i, json); key != Found::yes) return key;
      i = skip_blanks(text, i);
      if (i >= text.size()) return Found::more;
      if (text[i] != ':') return Found::no;
      json += ": ";
      i = skip_blanks(text, i + 1);
    }
    if (const Found value = read_python(text, i, json, depth + 1); value != Found::yes) return value;
    i = skip_blanks(text, i);
  }
  json += dict ? '}' : ']';
  at = i + 1;
  return Found::yes;
}

}  // namespace

Found read_python(std::string_view text, size_t& at, std::string& json, int depth) {
  if (depth > kMaxDepth) return Found::no;
  at = skip_blanks(text, at);
  if (at >= text.size()) return Found::more;
  if (text[at] == '"' || text[at] == '\'') return read_python_string(text, at, json);
  if (text[at] == '[' || text[at] == '{' || text[at] == '(') return read_python_items(text, at, json, depth);
  return read_python_word(text, at, json);
}

std::string xml_value(std::string_view text, const Json* schema) {
  if (text.starts_with('\n')) text.remove_prefix(1);
  if (text.ends_with('\n')) text.remove_suffix(1);
  const Json* type = schema ? schema->find("type") : nullptr;
  const bool is_string = type && type->is_string() && type->as_string() == "string";
  if (!is_string) {
    const std::string_view trimmed = text.substr(std::min(skip_blanks(text, 0), text.size()));
    if (const auto value = parse_json(trimmed); value.ok() && !(value->is_string() && !type)) return value->dump();
    if (type && type->is_string() && type->as_string() == "boolean" && (text == "True" || text == "False"))
      return text == "True" ? "true" : "false";
  }
  return json_quote(text);
}

size_t ObjectScanner::scan(std::string_view text) {
  for (size_t i = 0; i < text.size() && !done_; ++i) {
    const char c = text[i];
    if (in_string_) {
      if (escaped_) escaped_ = false;
      else if (c == '\\') escaped_ = true;
      else if (c == '"') in_string_ = false;
      continue;
    }
    if (c == '<') {
      done_ = true;
      return i;
    }
    if (c == '"') in_string_ = true;
    else if (c == '{' || c == '[') ++depth_;
    else if ((c == '}' || c == ']') && --depth_ <= 0) {
      done_ = true;
      return i + 1;
    }
  }
  return text.size();
}

}  // namespace weft::tool_text
