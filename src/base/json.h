// A JSON value, its reader and its writer. Object members keep their order, and numbers that were read keep their text.
// The parser (nlohmann's SAX reader) is included in json.cc alone, since its header costs seconds per unit.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace weft {

class Json {
 public:
  enum class Type : unsigned char { null, boolean, integer, number, string, array, object };
  using Array = std::vector<Json>;
  using Member = std::pair<std::string, Json>;
  using Object = std::vector<Member>;

  Json() = default;
  Json(std::nullptr_t) {}
  Json(bool value) : type_(Type::boolean), integer_(value) {}
  Json(int value) : type_(Type::integer), integer_(value) {}
  Json(unsigned value) : type_(Type::integer), integer_(value) {}
  Json(long value) : type_(Type::integer), integer_(value) {}
  Json(long long value) : type_(Type::integer), integer_(value) {}
  Json(unsigned long value) : Json(static_cast<long>(value)) {}  // values over 2^63-1 are read as numbers, never made
  Json(double value) : type_(Type::number), number_(value) {}
  Json(float value) : type_(Type::number), number_(value) {}
  Json(std::string value);
  Json(std::string_view value) : Json(std::string(value)) {}
  Json(const char* value) : Json(std::string(value)) {}
  Json(Array value);
  Json(Object value);
  Json(const Json& other);
  Json(Json&& other) noexcept;
  Json& operator=(Json other) noexcept;
  ~Json();

  static Json array(std::initializer_list<Json> items = {}) { return Json(Array(items)); }
  static Json object(std::initializer_list<Member> members = {}) { return Json(Object(members)); }

  Type type() const { return type_; }
  bool is_null() const { return type_ == Type::null; }
  bool is_bool() const { return type_ == Type::boolean; }
  bool is_integer() const { return type_ == Type::integer; }
  bool is_number() const { return type_ == Type::integer || type_ == Type::number; }
  bool is_string() const { return type_ == Type::string; }
  bool is_array() const { return type_ == Type::array; }
  bool is_object() const { return type_ == Type::object; }
  const char* type_name() const;  // "a string", "null", ... for messages

  // The value of that type; calling one on another type is a bug (checked).
  bool as_bool() const;
  int64_t as_integer() const;
  double as_number() const;  // integers too
  const std::string& as_string() const;
  const Array& items() const;
  Array& items();
  const Object& members() const;
  Object& members();

  // Member lookup: null if absent or if this is not an object. When a key occurs twice in the text, the last one
  // counts.
  const Json* find(std::string_view key) const;
  // Sets or replaces a member (makes an object of null).
  Json& set(std::string_view key, Json value);
  // Appends to an array (makes an array of null).
  void push_back(Json value);

  // One line, UTF-8. A number that was read is written as it was read. One that was made here is written as the
  // shortest text that reads back to it: to its float32, if it is exactly one, or else to the double. Values that are
  // not finite are a bug (checked).
  std::string dump() const;
  // A number with its text, which must be JSON's; `value` is finite.
  static Json number_as_read(double value, std::string text);
  // The text of a number that was read and is no int64; null for all others.
  const std::string* number_text() const;

 private:
  struct NumberAsRead;

  Type type_ = Type::null;
  bool as_read_ = false;  // of a number: as_read_number_ counts
  union {
    int64_t integer_ = 0;
    double number_;
    NumberAsRead* as_read_number_;
    std::string* string_;
    Array* array_;
    Object* object_;
  };
};

// Numbers are equal if their values are, also beyond what a double tells apart if both are integers.
bool operator==(const Json& a, const Json& b);

// Parses a whole text. Refuses trailing text, invalid UTF-8, and nesting deeper than `max_depth`; the message tells the
// byte. Numbers that overflow a double are refused; integers outside int64 become numbers, which keep their text.
Result<Json> parse_json(std::string_view text, int max_depth = 256);
// Reads and parses a file; errors name it.
Result<Json> read_json_file(const std::string& path);
// `text` as a JSON string literal with its quotes; invalid UTF-8 is replaced by U+FFFD.
std::string json_quote(std::string_view text);

}  // namespace weft
