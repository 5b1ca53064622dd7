// Finds tool calls in what a model writes, while it writes: the name of a call goes out as soon as its arguments begin,
// the arguments follow piece by piece. Which marks count is told by the model's form (tool_form.h), and its readers
// read what stands behind them.
//
// Only calls of declared functions count; anything else stays text. Arguments are JSON objects, always: as the model
// wrote them, mended where that was almost JSON (json_object.h) and closed where the answer ends early. The pythonic
// and XML forms become JSON argument by argument. A call begins with its first value, so one that is cut before it is
// text.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "forms/call_reader.h"
#include "forms/call_stream.h"
#include "forms/json_object.h"
#include "forms/tool_form.h"

namespace weft {

enum class ToolMode : uint8_t {
  none,       // no tools, or tool_choice "none"
  automatic,  // the model decides; calls are found in its text
  any,        // tool_choice "required": the text is a JSON list of {"name", "arguments"}, held to it by a schema
  named,      // one function: the text is the JSON of its arguments, held to its schema
};

struct ToolCall {
  std::string name;
  std::string arguments;  // JSON text
  bool operator==(const ToolCall&) const = default;
};

// One per choice. Text that may be part of a call is held back until that is certain, the rest goes through.
class ToolCallFinder {
 public:
  struct Rules {
    ToolMode mode = ToolMode::none;
    const ToolForm* form = &generic_form();
    std::vector<std::string> names;  // of the functions that may be called
    bool strict = false;             // a grammar holds calls to the form (ToolForm::strict_calls)
    Json parameters;                 // schemas of their arguments by name, which tell the types of XML's values
  };
  // All choices of a request have the same rules.
  explicit ToolCallFinder(std::shared_ptr<const Rules> rules);
  explicit ToolCallFinder(Rules rules) : ToolCallFinder(std::make_shared<const Rules>(std::move(rules))) {}

  ToolOutput push(std::string_view text);
  // At the end of the answer: what was held back.
  ToolOutput finish();

 private:
  bool step();
  bool read_text();
  bool begin_block(const CallMark& mark, size_t from, size_t to);
  void end_block();
  ToolOutput push_named(std::string_view text);

  bool named_;                   // all text is the arguments of the only function
  ObjectReader arguments_;       // of that function
  size_t arguments_read_ = 0;    // of the stream's text
  std::vector<CallMark> marks_;  // all that count
  CallStream stream_;
  bool started_ = false;  // past the place where a call without a mark may stand

  std::unique_ptr<CallReader> block_;  // null: between blocks
  std::string opening_;                // the text of the block's mark
  size_t calls_before_ = 0;            // calls before the block
  size_t in_vain_ = 0;                 // bytes that blocks read and that were no part of them
  size_t furthest_ = 0;                // place in the answer up to which a block read in vain
};

// Puts the steps together; calls must be in order.
void add_delta(const ToolDelta& delta, std::vector<ToolCall>& calls);

}  // namespace weft
