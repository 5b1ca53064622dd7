// A JSON object read while it is written, and passed on as JSON that is valid wherever it is cut off.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace weft {

// One per object. What models write almost as JSON becomes JSON: Python's True, False, None, numbers and single quotes,
// line breaks and unknown escapes in strings, a comma before a closing bracket. All else stays as it was written.
//
// A member goes out as soon as its value begins, a number or word once it is complete, an escape likewise; so
// `close()` always has a way to end the object.
class ObjectReader {
 public:
  // Reads `text`, which goes on where the last one ended, and appends to `out` what is certain. Returns how much of it
  // was read: all, or less if the object ends or goes wrong there.
  size_t read(std::string_view text, std::string& out);
  bool done() const { return state_ == State::done; }
  // What was read last cannot stand in an object.
  bool wrong() const { return state_ == State::wrong; }
  // What closes the object where it stands; nothing may be read afterwards. `out` of read() must have been used.
  std::string close();

 private:
  enum class State : unsigned char { open, key, colon, value, word, string, behind, done, wrong };

  bool step(char c, std::string& out);
  bool open(char c, std::string& out);
  bool close_bracket(char c, std::string& out);
  bool start_value(char c, std::string& out);
  void start_string(char quote, bool key);
  void in_string(char c, std::string& out);
  void in_escape(char c, std::string& out);
  void add_escape(std::string& out);
  void end_half(std::string& out);
  bool end_word(std::string& out);
  void flush(std::string& out);

  State state_ = State::open;
  std::string brackets_;  // that will close the open ones, the innermost last
  bool first_ = false;    // no item yet in the innermost bracket
  size_t comma_ = 0;      // in pending_: behind the comma that no item has followed yet; 0: there is none
  std::string pending_;   // what goes out when the next value begins
  std::string word_;      // a number or word that is not complete
  std::string escape_;    // an escape that is not complete
  std::string half_;      // the first half of a surrogate pair
  char quote_ = '"';      // of the present string
  bool in_key_ = false;   // the present string is a key
};

// `text` is such an object, perhaps with white space around it: the JSON, or empty.
std::string whole_object(std::string_view text);

}  // namespace weft
