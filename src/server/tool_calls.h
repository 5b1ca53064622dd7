// Finds tool calls in what a model writes. Models mark them in different ways; all forms are recognised by themselves, whatever the
// model, so there is nothing to configure:
//
//   <tool_call>{"name": ..., "arguments": {...}}</tool_call>    Hermes, Qwen
//   [TOOL_CALLS][{"name": ..., "arguments": {...}}]             Mistral
//   <TOOLCALL>[{...}]</TOOLCALL>                                Nemotron
//   {"name": ..., "parameters": {...}}  as the whole answer     Llama 3 (also a list of them)
//
// Only calls of declared functions count; anything else stays text.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "api/request_json.h"

namespace weft {

struct ToolCall {
  std::string name;
  std::string arguments;  // JSON text
};

struct ToolAnswer {
  std::string content;
  std::vector<ToolCall> calls;
};

// One per choice. Text that may be part of a call is held back until that is certain, the rest goes through.
class ToolCallFinder {
 public:
  ToolCallFinder(ToolMode mode, std::vector<std::string> names) : mode_(mode), names_(std::move(names)) {}

  std::string push(std::string_view text);
  // At the end of the answer: the calls, and what was held back and is none.
  ToolAnswer finish();

 private:
  ToolMode mode_;
  std::vector<std::string> names_;
  std::string held_;
  bool started_ = false;  // something else than white space has been seen
  bool inside_ = false;   // a call may have begun: all is held
};

}  // namespace weft
