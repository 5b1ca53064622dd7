// How a model's answers are to be read, found in its chat template: in which form it writes tool calls, and whether it
// thinks aloud. A template shows both, since it has to write the calls and thoughts of earlier turns, or tells the
// model the form in words.
#pragma once

#include <string_view>

#include "forms/reasoning.h"
#include "forms/tool_form.h"

namespace weft {

struct AnswerFormat {
  const ToolForm* tools = &generic_form();
  bool thinks = false;  // "<think>...</think>" before the answer
};

// From the sources of the template without tools and with tools (often the same).
inline AnswerFormat detect_answer_format(std::string_view source, std::string_view tool_source) {
  return {&tool_form_shown_in(tool_source), thinking_shown_in(source)};
}

}  // namespace weft
