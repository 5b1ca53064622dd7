// See the header.
#include "forms/python_literal.h"

#include <algorithm>
#include <charconv>
#include <cstdint>

#include "base/json.h"
#include "forms/held_text.h"

namespace weft {

namespace {

constexpr size_t kMaxDepth = 64;

bool is_word(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_'; }

}  // namespace

Found read_identifier(std::string_view text, size_t& at, size_t& next, std::string& out) {
  next = std::max(next, at);
  while (next < text.size() && (is_word(text[next]) || text[next] == '.' || text[next] == '-')) ++next;
  if (next == text.size()) return Found::more;
  if (next == at || (text[at] >= '0' && text[at] <= '9')) return Found::no;
  out = text.substr(at, next - at);
  at = next;
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

constexpr std::string_view kLetters = "rRuUbBfF";  // that may stand before a string

// The place of the quote with which the string at `at` opens, behind its letters; npos: there is no string.
size_t quote_place(std::string_view text, size_t at) {
  size_t i = at;
  while (i < text.size() && i < at + 2 && kLetters.find(text[i]) != std::string_view::npos) ++i;
  return i < text.size() && (text[i] == '"' || text[i] == '\'') ? i : std::string_view::npos;
}

// The text ends behind letters that may stand before a string.
bool may_begin_string(std::string_view text, size_t at) {
  return text.size() - at <= 2 && text.substr(at).find_first_not_of(kLetters) == std::string_view::npos;
}

int digit_value(char c) { return c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10; }

// Decimal digits of an integer in another base; empty if it is none.
std::string decimal(std::string_view digits, unsigned base) {
  static constexpr uint64_t kLimb = 1000000000;
  std::vector<uint32_t> limbs = {0};  // nine decimal digits each, the last ones first
  for (size_t i = 0; i < digits.size();) {
    uint64_t carry = 0, scale = 1;
    for (; i < digits.size() && scale < (1u << 24); ++i, scale *= base) {
      const auto value = static_cast<unsigned>(digit_value(digits[i]));
      if (!is_word(digits[i]) || value >= base) return {};
      carry = carry * base + value;
    }
    for (uint32_t& limb : limbs) {
      carry += limb * scale;
      limb = static_cast<uint32_t>(carry % kLimb);
      carry /= kLimb;
    }
    if (carry > 0) limbs.push_back(static_cast<uint32_t>(carry));
  }
  if (digits.empty()) return {};
  std::string out = std::to_string(limbs.back());
  for (size_t i = limbs.size() - 1; i-- > 0;) {
    const std::string limb = std::to_string(limbs[i]);
    out.append(9 - limb.size(), '0') += limb;
  }
  return out;
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

}  // namespace

// ---- the steps of the reader

Found PythonReader::read(std::string_view text) {
  Found found = Found::yes;
  while (found == Found::yes && step_ != Step::done) found = step(text);
  return found;
}

Found PythonReader::go_on(Step next) {
  step_ = next;
  return Found::yes;
}

Found PythonReader::step(std::string_view text) {
  switch (step_) {
    case Step::value: return begin_value(text);
    case Step::key: return begin_key(text);
    case Step::opening: return read_opening(text);
    case Step::string: return read_string(text);
    case Step::adjacent: return read_adjacent(text);
    case Step::sign: return read_sign(text);
    case Step::word: return read_word(text);
    default: return read_behind(text);
  }
}

Found PythonReader::begin_value(std::string_view text) {
  if (brackets_.size() > kMaxDepth) return Found::no;
  at_ = skip_blanks(text, at_);
  if (at_ >= text.size() || may_begin_string(text, at_)) return Found::more;
  in_key_ = false;
  if (quote_place(text, at_) != std::string_view::npos) return go_on(Step::opening);
  const char c = text[at_];
  return c == '[' || c == '{' || c == '(' ? open_bracket(c) : begin_word(text);
}

// The key of a dict, as json.dumps writes it: a string, or a number or word in quotes.
Found PythonReader::begin_key(std::string_view text) {
  if (may_begin_string(text, at_)) return Found::more;
  in_key_ = true;
  return quote_place(text, at_) != std::string_view::npos ? go_on(Step::opening) : begin_word(text);
}

// ---- strings

Found PythonReader::read_opening(std::string_view text) {
  const size_t at = quote_place(text, at_);
  const std::string_view quotes = text[at] == '"' ? "\"\"\"" : "'''";
  if (may_begin(text, at, quotes)) return Found::more;  // an empty string, or three quotes
  quote_ = begins(text, at, quotes) ? quotes : quotes.substr(0, 1);
  raw_ = text.substr(at_, at - at_).find_first_of("rR") != std::string_view::npos;
  at_ = at + quote_.size();
  return go_on(Step::string);
}

Found PythonReader::read_string(std::string_view text) {
  while (at_ < text.size()) {
    if (begins(text, at_, quote_)) {
      next_ = at_ += quote_.size();
      return go_on(Step::adjacent);
    }
    if (may_begin(text, at_, quote_)) return Found::more;
    if (text[at_] != '\\') value_ += text[at_++];
    else if (read_escape(text) == Found::more) return Found::more;
  }
  return Found::more;
}

Found PythonReader::read_escape(std::string_view text) {
  static constexpr size_t kLongestEscape = 12;  // a surrogate pair
  if (at_ + 1 >= text.size()) return Found::more;
  if (raw_) {
    value_ += text.substr(at_, 2);
    at_ += 2;
    return Found::yes;
  }
  if (at_ + kLongestEscape > text.size() && text.find(quote_, at_ + 2) == std::string_view::npos) return Found::more;
  ++at_;
  add_escape(text, at_, value_);
  return Found::yes;
}

// Strings that stand side by side are one.
Found PythonReader::read_adjacent(std::string_view text) {
  next_ = skip_blanks(text, next_);
  if (next_ + 3 > text.size() && text.find_first_of(",)]}:", next_) == std::string_view::npos) return Found::more;
  if (quote_place(text, next_) != std::string_view::npos) {
    at_ = next_;
    return go_on(Step::opening);
  }
  json_ += json_quote(value_);
  value_.clear();
  return end_item();
}

// ---- numbers and words

Found PythonReader::begin_word(std::string_view text) {
  const bool sign = text[at_] == '-' || text[at_] == '+';
  word_ = next_ = at_ + (sign ? 1 : 0);
  return go_on(sign ? Step::sign : Step::word);
}

Found PythonReader::read_sign(std::string_view text) {
  word_ = next_ = skip_blanks(text, next_);
  return next_ == text.size() ? Found::more : go_on(Step::word);
}

Found PythonReader::read_word(std::string_view text) {
  const size_t end = text.find_first_of(",)]}: \t\r\n", next_);
  next_ = std::min(end, text.size());
  if (end == std::string_view::npos) return Found::more;
  const std::string_view word = text.substr(word_, end - word_);
  const bool sign = word_ > at_, minus = text[at_] == '-';
  at_ = end;
  std::string json = number_as_json(word);
  if (!json.empty()) json.insert(0, minus ? "-" : "");
  else if (sign) return Found::no;
  else if (word == "True" || word == "true") json = "true";
  else if (word == "False" || word == "false") json = "false";
  else if (word == "None" || word == "null") json = "null";
  else return Found::no;
  json_ += in_key_ ? '"' + json + '"' : json;
  return end_item();
}

// ---- lists, tuples and dicts

Found PythonReader::open_bracket(char open) {
  const bool dict = open == '{';
  brackets_.push_back({dict ? '}' : open == '[' ? ']' : ')', json_.size()});
  json_ += dict ? '{' : '[';
  ++at_;
  return go_on(Step::first);
}

Found PythonReader::begin_item() { return go_on(brackets_.back().close == '}' ? Step::key : Step::value); }

// A key or a value is complete.
Found PythonReader::end_item() {
  if (in_key_) return go_on(Step::colon);
  if (brackets_.empty()) return go_on(Step::done);
  ++brackets_.back().items;
  return go_on(Step::behind);
}

Found PythonReader::close_bracket() {
  const Bracket bracket = brackets_.back();
  if (bracket.close == ')' && bracket.items == 1 && !bracket.comma) json_.erase(bracket.opening, 1);  // (value)
  else json_ += bracket.close == '}' ? '}' : ']';
  brackets_.pop_back();
  ++at_;
  in_key_ = false;
  return end_item();
}

// Behind a key, a bracket, an item or a comma.
Found PythonReader::read_behind(std::string_view text) {
  at_ = skip_blanks(text, at_);
  if (at_ == text.size()) return Found::more;
  const char c = text[at_];
  if (step_ == Step::colon) {
    if (c != ':') return Found::no;
    ++at_;
    json_ += ": ";
    return go_on(Step::value);
  }
  if (c == brackets_.back().close) return close_bracket();
  if (step_ == Step::behind) {
    if (c != ',') return Found::no;
    ++at_;
    brackets_.back().comma = true;
    return go_on(Step::behind_comma);
  }
  if (step_ == Step::behind_comma) json_ += ", ";
  return begin_item();
}

Found read_python(std::string_view text, size_t& at, std::string& json) {
  PythonReader reader(at);
  const Found found = reader.read(text);
  if (found != Found::yes) return found;
  json += reader.json();
  at = reader.at();
  return Found::yes;
}

}  // namespace weft
