// See the header.
#include "forms/json_object.h"

#include "base/json.h"
#include "forms/held_text.h"
#include "forms/python_literal.h"

namespace weft {

namespace {

bool is_blank(char c) { return kBlanks.find(c) != std::string_view::npos; }

bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '+' || c == '-' ||
         c == '.' || c == '_';
}

bool is_hex(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

// Of an escape \uXXXX: the halves of a character beyond \uFFFF. One without the other is no text, and many readers of
// JSON refuse it; it becomes U+FFFD.
bool is_half(std::string_view escape, std::string_view digits) {
  return (escape[2] == 'd' || escape[2] == 'D') && digits.find(escape[3]) != std::string_view::npos;
}
bool is_first_half(std::string_view escape) { return is_half(escape, "89abAB"); }
bool is_second_half(std::string_view escape) { return is_half(escape, "cdefCDEF"); }
constexpr std::string_view kLoneHalf = "\\ufffd";

}  // namespace

size_t ObjectReader::read(std::string_view text, std::string& out) {
  for (size_t i = 0; i < text.size(); ++i) {
    if (done() || wrong()) return i;
    if (!step(text[i], out)) {
      state_ = State::wrong;
      return i;
    }
  }
  return text.size();
}

// False: `c` cannot stand here.
bool ObjectReader::step(char c, std::string& out) {
  if (state_ == State::string) return in_string(c, out), true;
  if (state_ == State::word) {
    if (is_word(c)) return word_ += c, true;
    if (!end_word(out)) return false;
  }
  if (is_blank(c) && state_ != State::open) return pending_ += c, true;
  switch (state_) {
    case State::open: return c == '{' && open(c, out);
    case State::key:
      if (c == '}') return close_bracket(c, out);
      if (c != '"' && c != '\'') return false;
      start_string(c, true);
      return true;
    case State::colon:
      if (c != ':') return false;
      pending_ += c;
      state_ = State::value;
      return true;
    case State::value: return start_value(c, out);
    case State::behind:
      if (c == '}' || c == ']') return close_bracket(c, out);
      if (c != ',') return false;
      pending_ += c;
      comma_ = pending_.size();
      state_ = brackets_.back() == '}' ? State::key : State::value;
      return true;
    default: return false;
  }
}

void ObjectReader::flush(std::string& out) {
  out += pending_;
  pending_.clear();
  comma_ = 0;
}

bool ObjectReader::open(char c, std::string& out) {
  pending_ += c;
  if (!brackets_.empty()) flush(out);  // the outermost waits for its first value
  brackets_ += c == '{' ? '}' : ']';
  first_ = true;
  state_ = c == '{' ? State::key : State::value;
  return true;
}

bool ObjectReader::close_bracket(char c, std::string& out) {
  if (brackets_.back() != c) return false;
  if (comma_ > 0) pending_.erase(comma_ - 1, 1);
  pending_ += c;
  flush(out);
  brackets_.pop_back();
  first_ = false;
  state_ = brackets_.empty() ? State::done : State::behind;
  return true;
}

bool ObjectReader::start_value(char c, std::string& out) {
  if (c == ']' && (first_ || comma_ > 0)) return close_bracket(c, out);
  if (c == '{' || c == '[') return open(c, out);
  first_ = false;
  if (c == '"' || c == '\'') {
    start_string(c, false);
    flush(out);
    return true;
  }
  if (!is_word(c)) return false;
  word_ = c;
  state_ = State::word;
  return true;
}

// ---- strings

void ObjectReader::start_string(char quote, bool key) {
  pending_ += '"';
  quote_ = quote;
  in_key_ = key;
  first_ = false;
  state_ = State::string;
}

void ObjectReader::in_string(char c, std::string& out) {
  std::string& to = in_key_ ? pending_ : out;
  if (!escape_.empty()) return in_escape(c, to);
  if (c == '\\') {
    escape_ = c;
    return;
  }
  end_half(to);
  if (c == quote_) {
    to += '"';
    state_ = in_key_ ? State::colon : State::behind;
  } else if (c == '"') {
    to += "\\\"";
  } else if (static_cast<unsigned char>(c) < 0x20) {
    const std::string quoted = json_quote(std::string_view(&c, 1));
    to.append(quoted, 1, quoted.size() - 2);
  } else {
    to += c;
  }
}

void ObjectReader::in_escape(char c, std::string& out) {
  const bool digits = escape_.size() > 1;
  if (digits && !is_hex(c)) {  // no escape after all
    end_half(out);
    out += '\\' + escape_;
    escape_.clear();
    return in_string(c, out);
  }
  escape_ += c;
  const char kind = escape_[1];
  if (escape_.size() == (kind == 'u' ? 6u : kind == 'x' ? 4u : 2u)) add_escape(out);
}

void ObjectReader::end_half(std::string& out) {
  if (!half_.empty()) out += kLoneHalf;
  half_.clear();
}

void ObjectReader::add_escape(std::string& out) {
  const char kind = escape_[1];
  const std::string escape = kind == 'x' ? "\\u00" + escape_.substr(2) : escape_;
  escape_.clear();
  if (kind == 'u' && is_second_half(escape)) {
    if (half_.empty()) out += kLoneHalf;
    else out += half_ + escape;
    return half_.clear();
  }
  end_half(out);
  if (kind == 'u' && is_first_half(escape)) {
    half_ = escape;
    return;
  }
  if (std::string_view("\"\\/bfnrtux").find(kind) != std::string_view::npos) {
    out += escape;
  } else if (kind == '\'') {
    out += '\'';
  } else {
    out += "\\\\";  // an unknown escape stays as it is, as in Python
    in_string(kind, out);
  }
}

// ---- the rest

bool ObjectReader::end_word(std::string& out) {
  std::string json;
  size_t at = 0;
  if (word_ == "NaN" || word_ == "Infinity" || word_ == "-Infinity") json = "null";  // as JSON.stringify has them
  else if (read_python(word_ + ',', at, json) != Found::yes || at != word_.size()) return false;
  flush(out);
  out += json;
  word_.clear();
  state_ = State::behind;
  return true;
}

std::string ObjectReader::close() {
  std::string out;
  if (state_ == State::string && !in_key_) out += '"';
  out.append(brackets_.rbegin(), brackets_.rend());
  state_ = State::done;
  return out;
}

std::string whole_object(std::string_view text) {
  ObjectReader reader;
  std::string out;
  const size_t begin = skip_blanks(text, 0);
  const size_t end = begin + reader.read(text.substr(begin), out);
  return reader.done() && skip_blanks(text, end) == text.size() ? out : std::string();
}

}  // namespace weft
