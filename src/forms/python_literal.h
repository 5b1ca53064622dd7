// Python literals and names, read from text that is still growing. Places are byte offsets into the text given, which
// must stay the same in front of them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "forms/json_text.h"

namespace weft {

// Reads one Python literal (string, number, True, False, None, list, tuple, dict) as JSON text, and goes on where it
// stopped.
class PythonReader {
 public:
  // `at`: where the literal begins, perhaps with white space before it.
  explicit PythonReader(size_t at = 0) : at_(at) {}

  // `text` is as before, with more behind it. A number at its end may go on.
  Found read(std::string_view text);
  size_t at() const { return at_; }                  // behind the literal, or how far it was read
  const std::string& json() const { return json_; }  // once it is found

 private:
  enum class Step : uint8_t {
    value,     // a value, or white space before it
    key,       // of a dict
    opening,   // the quotes of a string
    string,    // inside of them
    adjacent,  // behind a string: another may stand beside it
    sign,      // behind the sign of a number
    word,      // a number or a word
    colon,     // behind a key
    first,     // behind an opening bracket
    behind,    // behind an item
    behind_comma,
    done,
  };
  struct Bracket {
    char close;
    size_t opening;  // in json_
    size_t items = 0;
    bool comma = false;
  };

  Found step(std::string_view text);
  Found go_on(Step next);
  Found begin_value(std::string_view text);
  Found begin_key(std::string_view text);
  Found read_opening(std::string_view text);
  Found read_string(std::string_view text);
  Found read_escape(std::string_view text);
  Found read_adjacent(std::string_view text);
  Found begin_word(std::string_view text);
  Found read_sign(std::string_view text);
  Found read_word(std::string_view text);
  Found begin_item();
  Found end_item();
  Found open_bracket(char open);
  Found close_bracket();
  Found read_behind(std::string_view text);

  size_t at_;
  Step step_ = Step::value;
  std::string json_;
  std::vector<Bracket> brackets_;  // the open ones
  bool in_key_ = false;            // the present string or word is a key
  std::string value_;              // of the present string
  std::string_view quote_;         // around it
  bool raw_ = false;
  size_t next_ = 0;  // to be looked at, in a word or behind a string
  size_t word_ = 0;  // where the present word begins, behind its sign
};

// Reads a literal, appends it as JSON text and moves `at` behind it.
Found read_python(std::string_view text, size_t& at, std::string& json);

// An identifier, with dots: the name of a function. Moves `at` behind it. `next` is where to go on in text that has
// grown; 0 at first.
Found read_identifier(std::string_view text, size_t& at, size_t& next, std::string& out);

}  // namespace weft
