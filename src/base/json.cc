#include "base/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/check.h"
#include "base/files.h"
#include "base/stoppable_json.h"

namespace weft {

struct Json::NumberAsRead {
  double value;
  std::string text;
};

Json::Json(std::string value) : type_(Type::string) { string_ = new std::string(std::move(value)); }
Json::Json(Array value) : type_(Type::array) { array_ = new Array(std::move(value)); }
Json::Json(Object value) : type_(Type::object) { object_ = new Object(std::move(value)); }

Json Json::number_as_read(double value, std::string text) {
  WEFT_CHECK(std::isfinite(value)) << "a JSON number must be finite";
  Json number;
  number.type_ = Type::number;
  number.as_read_ = true;
  number.as_read_number_ = new NumberAsRead{value, std::move(text)};
  return number;
}

Json::Json(const Json& other) : type_(other.type_), as_read_(other.as_read_) {
  if (as_read_) {
    as_read_number_ = new NumberAsRead(*other.as_read_number_);
    return;
  }
  switch (type_) {
    case Type::string: string_ = new std::string(*other.string_); break;
    case Type::array: array_ = new Array(*other.array_); break;
    case Type::object: object_ = new Object(*other.object_); break;
    default: integer_ = other.integer_;
  }
}

Json::Json(Json&& other) noexcept : type_(other.type_), as_read_(other.as_read_), integer_(other.integer_) {
  other.type_ = Type::null;
  other.as_read_ = false;
}

Json& Json::operator=(Json other) noexcept {
  std::swap(type_, other.type_);
  std::swap(as_read_, other.as_read_);
  std::swap(integer_, other.integer_);  // the widest member: the pointers and the number travel with it
  return *this;
}

Json::~Json() {
  if (as_read_) delete as_read_number_;
  switch (type_) {
    case Type::string: delete string_; break;
    case Type::array: delete array_; break;
    case Type::object: delete object_; break;
    default: break;
  }
}

const char* Json::type_name() const {
  switch (type_) {
    case Type::null: return "null";
    case Type::boolean: return "a boolean";
    case Type::integer: return "an integer";
    case Type::number: return "a number";
    case Type::string: return "a string";
    case Type::array: return "an array";
    case Type::object: return "an object";
  }
  return "unknown";
}

bool Json::as_bool() const {
  WEFT_CHECK(is_bool()) << type_name();
  return integer_ != 0;
}
int64_t Json::as_integer() const {
  WEFT_CHECK(is_integer()) << type_name();
  return integer_;
}
double Json::as_number() const {
  WEFT_CHECK(is_number()) << type_name();
  if (as_read_) return as_read_number_->value;
  return type_ == Type::integer ? static_cast<double>(integer_) : number_;
}
const std::string* Json::number_text() const { return as_read_ ? &as_read_number_->text : nullptr; }
const std::string& Json::as_string() const {
  WEFT_CHECK(is_string()) << type_name();
  return *string_;
}
const Json::Array& Json::items() const {
  WEFT_CHECK(is_array()) << type_name();
  return *array_;
}
Json::Array& Json::items() {
  WEFT_CHECK(is_array()) << type_name();
  return *array_;
}
const Json::Object& Json::members() const {
  WEFT_CHECK(is_object()) << type_name();
  return *object_;
}
Json::Object& Json::members() {
  WEFT_CHECK(is_object()) << type_name();
  return *object_;
}

const Json* Json::find(std::string_view key) const {
  if (!is_object()) return nullptr;
  for (auto it = object_->rbegin(); it != object_->rend(); ++it)
    if (it->first == key) return &it->second;
  return nullptr;
}

size_t Json::memory() const {
  size_t bytes = sizeof *this;
  if (as_read_) bytes += sizeof *as_read_number_;
  if (is_string()) bytes += sizeof *string_ + string_->capacity();
  if (is_array())
    for (const Json& item : *array_) bytes += item.memory();
  if (is_object())
    for (const Member& member : *object_)
      bytes += sizeof member.first + member.first.capacity() + member.second.memory();
  return bytes + (is_array() || is_object() ? sizeof *array_ : 0);
}

Json& Json::set(std::string_view key, Json value) {
  if (is_null()) *this = Json(Object{});
  for (Member& member : members())
    if (member.first == key) return member.second = std::move(value);
  object_->emplace_back(std::string(key), std::move(value));
  return object_->back().second;
}

// Sorted, as names may be chosen to meet in a hash table.
void Json::drop_repeated() {
  Object& all = members();
  std::vector<size_t> order(all.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return all[a].first < all[b].first; });
  std::vector<bool> repeated(all.size());
  for (size_t i = 1; i < order.size(); ++i) repeated[order[i - 1]] = all[order[i - 1]].first == all[order[i]].first;
  if (std::find(repeated.begin(), repeated.end(), true) == repeated.end()) return;
  Object kept;
  for (size_t i = 0; i < all.size(); ++i)
    if (!repeated[i]) kept.push_back(std::move(all[i]));
  all = std::move(kept);
}

void Json::push_back(Json value) {
  if (is_null()) *this = Json(Array{});
  items().push_back(std::move(value));
}

namespace {

// The text of an integer outside int64, which has one spelling.
const std::string* whole_number(const Json& value) {
  const std::string* text = value.number_text();
  return text && text->find_first_of(".eE") == std::string::npos ? text : nullptr;
}

}  // namespace

namespace {

// Of members with the same key, the last one counts.
std::map<std::string_view, const Json*> by_key(const Json::Object& members) {
  std::map<std::string_view, const Json*> last;
  for (const Json::Member& member : members) last[member.first] = &member.second;
  return last;
}

bool same_members(const Json::Object& a, const Json::Object& b) {
  return std::ranges::equal(by_key(a), by_key(b),
                            [](const auto& x, const auto& y) { return x.first == y.first && *x.second == *y.second; });
}

}  // namespace

bool operator==(const Json& a, const Json& b) {
  if (a.is_integer() && b.is_integer()) return a.as_integer() == b.as_integer();
  if (a.is_number() && b.is_number()) {
    if (const std::string *x = whole_number(a), *y = whole_number(b); x && y) return *x == *y;
    return a.as_number() == b.as_number();
  }
  if (a.type() != b.type()) return false;
  switch (a.type()) {
    case Json::Type::null: return true;
    case Json::Type::boolean: return a.as_bool() == b.as_bool();
    case Json::Type::string: return a.as_string() == b.as_string();
    case Json::Type::array: return a.items() == b.items();
    case Json::Type::object: return same_members(a.members(), b.members());
    default: return false;
  }
}

namespace {

void write_number(double value, std::string& out) {
  WEFT_CHECK(std::isfinite(value)) << "a JSON number must be finite";
  char text[40];
  const float narrow = static_cast<float>(value);
  const auto end = static_cast<double>(narrow) == value ? std::to_chars(text, text + sizeof text, narrow)
                                                        : std::to_chars(text, text + sizeof text, value);
  out.append(text, end.ptr);
  if (std::string_view(text, end.ptr - text).find_first_of(".en") == std::string_view::npos) out += ".0";
}

void write(const Json& value, std::string& out) {
  switch (value.type()) {
    case Json::Type::null: out += "null"; break;
    case Json::Type::boolean: out += value.as_bool() ? "true" : "false"; break;
    case Json::Type::integer: out += std::to_string(value.as_integer()); break;
    case Json::Type::number:
      if (const std::string* text = value.number_text()) out += *text;
      else write_number(value.as_number(), out);
      break;
    case Json::Type::string: out += json_quote(value.as_string()); break;
    case Json::Type::array: {
      out += '[';
      bool first = true;
      for (const Json& item : value.items()) {
        if (!first) out += ',';
        first = false;
        write(item, out);
      }
      out += ']';
      break;
    }
    case Json::Type::object: {
      out += '{';
      bool first = true;
      for (const Json::Member& member : value.members()) {
        if (!first) out += ',';
        first = false;
        out += json_quote(member.first);
        out += ':';
        write(member.second, out);
      }
      out += '}';
    }
  }
}

// Length of the valid UTF-8 sequence at `text` (0 if it is not one).
size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const auto tail = [&](size_t i) { return (byte(i) & 0xc0u) == 0x80u; };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) return tail(1) ? 2 : 0;
  if (first >= 0xe0 && first <= 0xef) {
    if (first == 0xe0 && byte(1) < 0xa0) return 0;
    if (first == 0xed && byte(1) > 0x9f) return 0;
    return tail(1) && tail(2) ? 3 : 0;
  }
  if (first >= 0xf0 && first <= 0xf4) {
    if (first == 0xf0 && byte(1) < 0x90) return 0;
    if (first == 0xf4 && byte(1) > 0x8f) return 0;
    return tail(1) && tail(2) && tail(3) ? 4 : 0;
  }
  return 0;
}

}  // namespace

// Every character that Unicode takes for the end of a line is escaped: readers of JSON Lines may split at any of them.
std::string json_quote(std::string_view text) {
  std::string out = "\"";
  for (size_t i = 0; i < text.size();) {
    const unsigned char c = text[i];
    if (c == '"' || c == '\\') {
      (out += '\\') += static_cast<char>(c);
      ++i;
    } else if (c < 0x20) {
      switch (c) {
        case '\n': out += "\\n"; break;
        case '\r': out += "\\r"; break;
        case '\t': out += "\\t"; break;
        case '\b': out += "\\b"; break;
        case '\f': out += "\\f"; break;
        default: {
          static const char* const digits = "0123456789abcdef";
          ((out += "\\u00") += digits[c >> 4]) += digits[c & 15];
        }
      }
      ++i;
    } else if (const size_t length = utf8_length(text.substr(i)); length > 0) {
      const std::string_view character = text.substr(i, length);
      if (character == "\xc2\x85") out += "\\u0085";
      else if (character == "\xe2\x80\xa8") out += "\\u2028";
      else if (character == "\xe2\x80\xa9") out += "\\u2029";
      else out += character;
      i += length;
    } else {
      out += "\xef\xbf\xbd";
      ++i;
    }
  }
  return out += '"';
}

std::string Json::dump() const {
  std::string out;
  write(*this, out);
  return out;
}

namespace {

// Builds the value while nlohmann's reader, which does not recurse, walks the text.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  Builder(const JsonRules& rules, const StopFlag* stop) : rules_(rules), stop_(stop) {}

  bool null() override { return place(Json()); }
  bool boolean(bool value) override { return place(Json(value)); }
  bool number_integer(number_integer_t value) override { return place(Json(static_cast<long long>(value))); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<number_unsigned_t>(std::numeric_limits<int64_t>::max()))
      return place(Json::number_as_read(static_cast<double>(value), std::to_string(value)));
    return place(Json(static_cast<long long>(value)));
  }
  bool number_float(number_float_t value, const string_t& text) override {
    if (!std::isfinite(value)) return stop("the number " + text + " is out of range");
    return place(Json::number_as_read(value, text));
  }
  bool string(string_t& value) override { return take(sizeof value + value.size()) && place(Json(std::move(value))); }
  bool binary(binary_t&) override { return stop("binary value"); }
  bool start_object(size_t) override { return open(Json(Json::Object{})); }
  bool key(string_t& value) override {
    if (!take(sizeof value + value.size())) return false;
    keys_.back() = std::move(value);
    return true;
  }
  bool end_object() override { return close(); }
  bool start_array(size_t) override { return open(Json(Json::Array{})); }
  bool end_array() override { return close(); }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& problem) override {
    std::string what = problem.what();
    if (const size_t at = what.find("; "); at != std::string::npos) what = what.substr(at + 2);
    else if (const size_t bracket = what.find("] "); bracket != std::string::npos) what = what.substr(bracket + 2);
    return stop("at byte " + std::to_string(position) + ": " + what);
  }

  Json root;
  std::string problem;
  bool too_large = false;
  Status stopped;  // an error: whoever wanted the value wants it no more

 private:
  static constexpr size_t kLook = 1024;  // values and keys between two looks at the flag

  bool stop(std::string what) {
    constexpr size_t kLongest = 200;  // numbers and tokens are shown as they were sent
    problem = what.size() > kLongest ? what.substr(0, kLongest) + "..." : std::move(what);
    return false;
  }
  // Vectors grow by doubling, so what they hold may take twice its room, or three times while it moves.
  bool take(size_t bytes) {
    if (pieces_++ % kLook == 0 && !(stopped = check_stop(stop_)).ok()) return false;
    bytes_ += bytes;
    if (bytes_ <= rules_.max_bytes) return true;
    too_large = true;
    return stop("takes more than " + std::to_string(rules_.max_bytes) + " bytes of memory");
  }
  bool place(Json value) {
    if (!take(2 * sizeof value)) return false;
    if (open_.empty()) root = std::move(value);
    else if (open_.back().is_array()) open_.back().items().push_back(std::move(value));
    else open_.back().members().emplace_back(std::move(keys_.back()), std::move(value));
    return true;
  }
  bool open(Json value) {
    if (static_cast<int>(open_.size()) >= rules_.max_depth)
      return stop("nested deeper than " + std::to_string(rules_.max_depth) + " levels");
    open_.push_back(std::move(value));
    keys_.emplace_back();
    return take(2 * sizeof(Json::Array));
  }
  bool close() {
    Json value = std::move(open_.back());
    open_.pop_back();
    keys_.pop_back();
    if (value.is_object() && !rules_.keep_repeated) value.drop_repeated();
    return place(std::move(value));
  }

  const JsonRules rules_;
  const StopFlag* const stop_;  // null: none
  size_t bytes_ = 0, pieces_ = 0;
  std::vector<Json> open_;
  std::vector<std::string> keys_;
};

Result<Json> parse(std::string_view text, const JsonRules& rules, const StopFlag* stop) {
  // The parser takes a NUL for the end of the text; no JSON has one.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos)
    return fail(Code::invalid_argument, "not valid JSON at byte ", nul + 1, ": a NUL character");
  Builder builder(rules, stop);
  bool ok = false;
  try {
    ok = nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  } catch (const std::exception& problem) {
    builder.problem = problem.what();
  }
  if (!builder.stopped.ok()) return builder.stopped.error();
  if (builder.too_large) return fail(Code::too_large, "JSON that ", builder.problem);
  if (!ok) return fail(Code::invalid_argument, "not valid JSON ", builder.problem);
  return std::move(builder.root);
}

}  // namespace

Result<Json> parse_json(std::string_view text, const JsonRules& rules) { return parse(text, rules, nullptr); }

Result<Json> parse_json(std::string_view text, const JsonRules& rules, const StopFlag& stop) {
  return parse(text, rules, &stop);
}

Result<Json> read_json_file(const std::string& path) {
  WEFT_TRY(const std::string text, read_file(path, FileLimit::settings));
  auto parsed = parse_json(text);
  if (!parsed.ok()) return std::move(parsed).error().with(path);
  return parsed;
}

}  // namespace weft
