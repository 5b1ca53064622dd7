// Finds tool calls in what a model writes, while it writes: the name of a call goes out as soon as its arguments begin,
// the arguments follow piece by piece. The forms are those of text/answer_format.h; which of them count is told by the
// model's template.
//
// Only calls of declared functions count; anything else stays text. Arguments are passed on as the model wrote them
// (the pythonic and XML forms become JSON, argument by argument), so a model that writes broken JSON is seen by the
// client.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "api/request_json.h"
#include "text/answer_format.h"

namespace weft {

struct ToolCall {
  std::string name;
  std::string arguments;  // JSON text
};

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

// One per choice. Text that may be part of a call is held back until that is certain, the rest goes through.
class ToolCallFinder {
 public:
  struct Rules {
    ToolMode mode = ToolMode::none;
    ToolFormat format = ToolFormat::generic;
    std::vector<std::string> names;  // of the functions that may be called
    bool strict = false;             // a grammar holds calls to the form: see tool_guide.cc
    Json parameters;                 // schemas of their arguments by name, which tell the types of XML's values
  };
  explicit ToolCallFinder(Rules rules);
  ~ToolCallFinder();
  ToolCallFinder(ToolCallFinder&&) noexcept;

  ToolOutput push(std::string_view text);
  // At the end of the answer: what was held back.
  ToolOutput finish();

 private:
  class Reader;
  std::unique_ptr<Reader> reader_;
};

// Puts the steps together; calls must be in order.
void add_delta(const ToolDelta& delta, std::vector<ToolCall>& calls);

}  // namespace weft
