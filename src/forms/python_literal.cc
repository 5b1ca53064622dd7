// See the header.
#include "forms/python_literal.h"

#include <charconv>
#include <cstdint>

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

// The value of `digits` hexadecimal digits at `at`; -1 if they are not there.
int64_t hex_value(std::string_view text, size_t at, size_t digits) {
  uint32_t value = 0;
  if (at + digits > text.size()) return -1;
  const auto [end, error] = std::from_chars(text.data() + at, text.data() + at + digits, value, 16);
  return error == std::errc() && end == text.data() + at + digits ? value : -1;
}

// An escape behind its backslash; `at` is moved behind it. Unknown escapes stay as they are, as in Python.
void add_escape(std::string_view text, size_t& at, std::string& out) {
  static constexpr std::string_view kFrom = "ntrbfva\\'\"", kTo = "\n\t\r\b\f\v\a\\'\"";
  const char c = text[at++];
  if (c == '\n') return;  // the line goes on
  if (c >= '0' && c <= '7') {
    size_t end = at;
    while (end < text.size() && end < at + 2 && text[end] >= '0' && text[end] <= '7') ++end;
    uint32_t code = 0;
    std::from_chars(text.data() + at - 1, text.data() + end, code, 8);
    at = end;
    return add_utf8(out, code);
  }
  const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
  if (int64_t code = digits > 0 ? hex_value(text, at, digits) : -1; code >= 0 && code < 0x110000) {
    at += digits;
    const int64_t second = begins(text, at, "\\u") ? hex_value(text, at + 2, 4) : -1;
    if (code >= 0xd800 && code < 0xdc00 && second >= 0xdc00 && second < 0xe000) {  // both halves of a pair
      code = 0x10000 + ((code - 0xd800) << 10) + (second - 0xdc00);
      at += 6;
    }
    return add_utf8(out, code >= 0xd800 && code < 0xe000 ? 0xfffd : static_cast<uint32_t>(code));
  }
  const size_t found = kFrom.find(c);
  if (found == std::string_view::npos) (out += '\\') += c;
  else out += kTo[found];
}

// The size of the letters and the quotes with which a string begins at `at`; 0: there is no string.
size_t string_opening(std::string_view text, size_t at, bool& raw, std::string_view& quote) {
  size_t i = at;
  while (i < text.size() && i < at + 2 && std::string_view("rRuUbBfF").find(text[i]) != std::string_view::npos) ++i;
  if (i >= text.size() || (text[i] != '"' && text[i] != '\'')) return 0;
  raw = text.substr(at, i - at).find_first_of("rR") != std::string_view::npos;
  quote = text.substr(i, 3);
  if (quote != "\"\"\"" && quote != "\'\'\'") quote = text.substr(i, 1);
  return i + quote.size() - at;
}

// The text ends behind letters that may stand before a string.
bool may_begin_string(std::string_view text, size_t at) {
  return text.size() - at <= 2 && text.substr(at).find_first_not_of("rRuUbBfF") == std::string_view::npos;
}

// One string, between its quotes; its value is appended to `value`.
Found read_one_string(std::string_view text, size_t& at, std::string& value) {
  static constexpr size_t kLongestEscape = 12;  // a surrogate pair
  bool raw = false;
  std::string_view quote;
  const size_t opening = string_opening(text, at, raw, quote);
  if (quote.size() == 1 && text.size() == at + opening + 1 && text.back() == quote[0])
    return Found::more;  // an empty string, or three quotes
  for (size_t i = at + opening; i < text.size();) {
    if (begins(text, i, quote)) {
      at = i + quote.size();
      return Found::yes;
    }
    if (text[i] != '\\') {
      value += text[i++];
      continue;
    }
    if (i + 1 >= text.size()) return Found::more;
    if (raw) {
      value += text.substr(i, 2);
      i += 2;
      continue;
    }
    if (i + kLongestEscape > text.size() && text.find(quote, i + 2) == std::string_view::npos) return Found::more;
    ++i;
    add_escape(text, i, value);
  }
  return Found::more;
}

// Strings that stand side by side are one.
Found read_python_string(std::string_view text, size_t& at, std::string& json) {
  std::string value;
  bool raw = false;
  std::string_view quote;
  size_t end = at;
  do {
    if (const Found found = read_one_string(text, end, value); found != Found::yes) return found;
    at = end;
    end = skip_blanks(text, end);
    if (end + 3 > text.size() && text.find_first_of(",)]}:", end) == std::string_view::npos) return Found::more;
  } while (string_opening(text, end, raw, quote) > 0);
  json += json_quote(value);
  return Found::yes;
}

// Decimal digits of an integer in another base; empty if it is none.
std::string decimal(std::string_view digits, unsigned base) {
  std::string reversed = "0";
  for (const char c : digits) {
    const unsigned value = c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
    if (!is_word(c) || value >= base) return {};
    unsigned carry = value;
    for (char& digit : reversed) {
      carry += (digit - '0') * base;
      digit = static_cast<char>('0' + carry % 10);
      carry /= 10;
    }
    for (; carry > 0; carry /= 10) reversed += static_cast<char>('0' + carry % 10);
  }
  return digits.empty() ? std::string() : std::string(reversed.rbegin(), reversed.rend());
}

// A number without its sign, as JSON; empty if it is none. JSON's own numbers stay as they are.
std::string number_as_json(std::string_view word) {
  static constexpr size_t kLongest = 4096;
  std::string text;
  for (size_t i = 0; i < word.size(); ++i)
    if (word[i] != '_') text += word[i];
    else if (i == 0 || i + 1 == word.size() || !is_word(word[i - 1]) || !is_word(word[i + 1]) || word[i + 1] == '_')
      return {};
  if (text.empty() || text.size() > kLongest) return {};
  if (text.size() > 2 && text[0] == '0') {
    const unsigned base = (text[1] | 0x20) == 'x' ? 16 : (text[1] | 0x20) == 'o' ? 8 : (text[1] | 0x20) == 'b' ? 2 : 0;
    if (base > 0) return decimal(std::string_view(text).substr(2), base);
  }
  if (text.find_first_not_of('0') == std::string::npos) return "0";
  if (text[0] == '.') text.insert(0, "0");
  if (const size_t point = text.find('.'); point != std::string::npos)
    if (point + 1 == text.size() || text[point + 1] < '0' || text[point + 1] > '9') text.insert(point + 1, "0");
  const auto number = parse_json(text);
  return number.ok() && number->is_number() && text[0] != '-' ? text : std::string();
}

Found read_python_word(std::string_view text, size_t& at, std::string& json) {
  size_t begin = at;
  const bool sign = text[at] == '-' || text[at] == '+';
  if (sign) begin = skip_blanks(text, at + 1);
  const size_t end = text.find_first_of(",)]}: \t\r\n", begin);
  if (end == std::string_view::npos) return Found::more;
  const std::string_view word = text.substr(begin, end - begin);
  if (const std::string number = number_as_json(word); !number.empty()) json += (text[at] == '-' ? "-" : "") + number;
  else if (sign) return Found::no;
  else if (word == "True" || word == "true") json += "true";
  else if (word == "False" || word == "false") json += "false";
  else if (word == "None" || word == "null") json += "null";
  else return Found::no;
  at = end;
  return Found::yes;
}

// The key of a dict, as json.dumps writes it: a string, or a number or word in quotes.
Found read_python_key(std::string_view text, size_t& at, std::string& json) {
  bool raw = false;
  std::string_view quote;
  if (string_opening(text, at, raw, quote) > 0) return read_python_string(text, at, json);
  std::string word;
  const Found found = read_python_word(text, at, word);
  if (found == Found::yes) json += '"' + word + '"';
  return found;
}

// A list, tuple or dict.
Found read_python_items(std::string_view text, size_t& at, std::string& json, int depth) {
  const bool dict = text[at] == '{';
  const char close = dict ? '}' : text[at] == '[' ? ']' : ')';
  const size_t opening = json.size();
  json += dict ? '{' : '[';
  bool comma = false;
  size_t items = 0;
  size_t i = skip_blanks(text, at + 1);
  for (bool first = true;; first = false) {
    if (i >= text.size()) return Found::more;
    if (text[i] == close) break;
    if (!first) {
      if (text[i] != ',') return Found::no;
      comma = true;
      i = skip_blanks(text, i + 1);
      if (i >= text.size()) return Found::more;
      if (text[i] == close) break;  // a comma at the end
      json += ", ";
    }
    if (dict) {
      if (const Found key = read_python_key(text, i, json); key != Found::yes) return key;
      i = skip_blanks(text, i);
      if (i >= text.size()) return Found::more;
      if (text[i] != ':') return Found::no;
      json += ": ";
      i = skip_blanks(text, i + 1);
    }
    if (const Found value = read_python(text, i, json, depth + 1); value != Found::yes) return value;
    i = skip_blanks(text, i);
    ++items;
  }
  if (close == ')' && items == 1 && !comma) json.erase(opening, 1);  // a value in parentheses
  else json += dict ? '}' : ']';
  at = i + 1;
  return Found::yes;
}

}  // namespace

Found read_python(std::string_view text, size_t& at, std::string& json, int depth) {
  if (depth > kMaxDepth) return Found::no;
  at = skip_blanks(text, at);
  if (at >= text.size()) return Found::more;
  if (may_begin_string(text, at)) return Found::more;
  bool raw = false;
  std::string_view quote;
  if (string_opening(text, at, raw, quote) > 0) return read_python_string(text, at, json);
  if (text[at] == '[' || text[at] == '{' || text[at] == '(') return read_python_items(text, at, json, depth);
  return read_python_word(text, at, json);
}

}  // namespace weft
