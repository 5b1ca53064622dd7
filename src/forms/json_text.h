// JSON read from text that is still growing: each reader goes on where it stopped, so that an answer that comes in
// pieces is read once. Places are byte offsets into the text given, which must stay the same in front of them.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "forms/json_object.h"

namespace weft {

enum class Found : unsigned char { yes, no, more };  // more: the text ends too early to tell

// Goes over one JSON value after the other. `at` is where the value begins, the same until it is found.
class ValueReader {
 public:
  // Moves `at` behind a JSON value. Strings and brackets only are looked at, so that slightly wrong JSON passes.
  Found skip_value(std::string_view text, size_t& at);
  // Reads a JSON string and moves `at` behind it.
  Found read_string(std::string_view text, size_t& at, std::string& out);

 private:
  bool end_string(std::string_view text);
  Found skip_string(std::string_view text, size_t& at);
  Found skip_word(std::string_view text, size_t& at);
  Found skip_brackets(std::string_view text, size_t& at);

  size_t next_ = 0;      // to be looked at; 0: nothing has been
  int depth_ = 0;        // of open brackets
  bool quoted_ = false;  // inside of a string within brackets
};

// Goes over a member of an object, "KEY": VALUE, of which `at` is the beginning.
class MemberReader {
 public:
  Found skip_member(std::string_view text, size_t& at);

 private:
  enum class Step : unsigned char { key, colon, value };
  Step step_ = Step::key;
  ValueReader value_;
};

// The beginning of a call object: {"name": NAME, "arguments": ..., with other members and {"function": {...}} around it
// allowed.
struct CallHead {
  std::string name;
  // The arguments: an object that begins at `at` and goes on, or one that is complete, `at` behind it.
  std::optional<std::string> arguments;
  size_t at = 0;
  int braces = 0;  // to be closed behind the arguments
};

class CallHeadReader {
 public:
  // `names`: the functions that count. `at` is the place of the opening brace.
  Found read(std::string_view text, size_t at, const std::vector<std::string>& names);
  const CallHead& head() const { return head_; }  // once it is found
  size_t at() const { return at_; }               // how far it was read

 private:
  enum class Step : unsigned char { open, member, key, colon, value, object, done };
  enum class Key : unsigned char { name, arguments, function, other };

  Found step(std::string_view text, const std::vector<std::string>& names);
  Found enter(std::string_view text);
  Found end_of_object();
  Found read_key(std::string_view text);
  Found read_member(std::string_view text, const std::vector<std::string>& names);
  Found read_arguments(std::string_view text);
  Found read_object(std::string_view text);
  Found read_spelled_arguments(std::string_view text);
  Found end_arguments(std::string object);
  Found go_on(Step next);

  CallHead head_;
  size_t at_ = 0;
  Step step_ = Step::open;
  bool begun_ = false;
  Key key_ = Key::other;  // of the present member
  ValueReader value_;
  ObjectReader object_;      // arguments that stand before the name
  std::string object_text_;  // what it gave
};

}  // namespace weft
