// What the readers of tool calls work on: the text that has not been understood yet, and the calls and the content
// found so far.
#pragma once

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

  // The text that is not understood yet. Places in it are byte offsets.
  const std::string& text() const { return text_; }
  void add_text(std::string_view text) { text_ += text; }
  void drop(size_t size) { text_.erase(0, size); }
  // The answer has ended: no text will follow.
  bool ended() const { return ended_; }
  void end() { ended_ = true; }

  const std::vector<std::string>& names() const { return *names_; }
  bool declared(std::string_view name) const;
  // The schema of a function's arguments; null if it has none.
  const Json* parameters(std::string_view name) const { return parameters_->find(name); }

  // Content of the answer. White space at its end is kept back, since it belongs to the form of a call that follows: a
  // template writes it anew when the answer is sent back.
  void add_content(const std::string& text);
  // A call begins. Its arguments follow as pieces of JSON text,
  void begin_call(const std::string& name);
  void add_arguments(std::string_view text);
  // or one by one: `value` is JSON text.
  void add_argument(const std::string& key, const std::string& value);
  bool has_argument() const { return arguments_ > 0; }
  void end_arguments();

  size_t calls() const { return calls_; }  // so far
  // What is new since the last time.
  ToolOutput take_output();
  // Likewise, at the end of the answer.
  ToolOutput take_last_output();

 private:
  std::shared_ptr<const std::vector<std::string>> names_;
  std::shared_ptr<const Json> parameters_;
  std::string text_;
  std::string blank_;  // white space that may stand beside a call
  bool ended_ = false;
  bool content_ = false;  // content has gone out since the last call
  size_t calls_ = 0;
  int arguments_ = 0;  // of the present call, of those given one by one
  ToolOutput out_;
};

}  // namespace weft
