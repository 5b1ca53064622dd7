// See the header.
#include "forms/python_literal.h"

#include <algorithm>

#include "base/json.h"
#include "forms/held_text.h"

namespace weft {

namespace {

constexpr int kMaxDepth = 64;

bool is_word(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_'; }

}  // namespace

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

}  // namespace weft
