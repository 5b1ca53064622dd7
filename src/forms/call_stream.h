// What the readers of tool calls work on: the text that has not been understood yet, and the calls and the content
// found so far.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"

namespace weft {

// A step of a call: its name first (once), then pieces of its arguments.
struct ToolDelta {
  size_t index = 0;  // of the call within the answer
  std::string name;  // empty: goes on with the arguments
  std::string arguments;
};

struct ToolOutput {
  std::string content;
  std::vector<ToolDelta> deltas;
};

// One per answer; one thread at a time.
class CallStream {
 public:
  // `names`: the functions that may be called; `parameters`: an object with the schemas of their arguments by name.
  // The choices of a request share both.
  CallStream(std::shared_ptr<const std::vector<std::string>> names, std::shared_ptr<const Json> parameters)
      : names_(std::move(names)), parameters_(std::move(parameters)) {}

  // The text that is not understood yet. Places in it are byte offsets. It holds until text is added or dropped.
  std::string_view text() const { return std::string_view(text_).substr(start_); }
  void add_text(std::string_view text) { text_ += text; }
  void drop(size_t size);
  // Where text() begins in the whole answer, in bytes.
  size_t position() const { return position_; }

  // Searches in text() from `at` on, which remember how far they came: asking again once text was added looks at what
  // is new only. So an answer costs work that grows as its length, in whatever pieces it comes.
  size_t skip_blanks(size_t at);                               // as in held_text.h
  size_t find(std::string_view word, size_t at);               // npos: it is not there. `word` must outlive the stream
  size_t find_one_of(std::string_view characters, size_t at);  // likewise

  // The answer has ended: no text will follow.
  bool ended() const { return ended_; }
  void end() { ended_ = true; }

  const std::vector<std::string>& names() const { return *names_; }
  bool declared(std::string_view name) const;
  // The schema of a function's arguments; null if it has none.
  const Json* parameters(std::string_view name) const { return parameters_->find(name); }

  // Content of the answer. White space at its end is kept back, since it belongs to the form of a call that follows: a
  // template writes it anew when the answer is sent back.
  void add_content(std::string_view text);
  // A call begins. Its arguments follow as pieces of JSON text,
  void begin_call(const std::string& name);
  void add_arguments(std::string_view text);
  // or one by one: `value` is JSON text.
  void add_argument(const std::string& key, const std::string& value);
  bool has_argument() const { return arguments_ > 0; }
  void end_arguments();

  size_t calls() const { return calls_; }  // so far

  // For values without an end (xml_calls.cc), once the answer has ended: from this place of the whole answer on, no tag
  // surely ends a value of a function with these parameters.
  std::map<const Json*, size_t>& endless() { return endless_; }

  // What is new since the last time.
  ToolOutput take_output();
  // Likewise, at the end of the answer.
  ToolOutput take_last_output();

 private:
  // None of what is searched begins in [from, to), places of the whole answer.
  struct Search {
    std::string_view what;
    bool one_of = false;
    size_t from = 0, to = 0;
  };
  struct Blanks {
    size_t from = 1, to = 0;  // places of the whole answer
  };
  size_t search(std::string_view what, bool one_of, size_t at);

  std::shared_ptr<const std::vector<std::string>> names_;
  std::shared_ptr<const Json> parameters_;
  std::string text_;     // with what was dropped lately in front
  size_t start_ = 0;     // of text() in text_
  size_t position_ = 0;  // of text() in the whole answer
  std::vector<Search> searches_;
  std::array<Blanks, 8> blanks_;  // long runs of white space; a head has fewer
  size_t next_blanks_ = 0;        // to be overwritten
  std::map<const Json*, size_t> endless_;
  std::string blank_;  // white space that may stand beside a call
  bool ended_ = false;
  bool content_ = false;  // content has gone out since the last call
  size_t calls_ = 0;
  int arguments_ = 0;  // of the present call, of those given one by one
  ToolOutput out_;
};

}  // namespace weft
