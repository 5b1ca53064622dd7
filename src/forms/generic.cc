// For templates that show no form of tool calls: all forms are read.
#include <algorithm>

#include "forms/strict_calls.h"
#include "forms/tool_form.h"

namespace weft {

namespace {

// What the other forms have, each mark once: where two forms share a mark, they read the same behind it.
ToolForm all_forms() {
  ToolForm all = {
      .names = {"generic"},
      .shown_in = [](std::string_view) { return true; },
      .precedence = 0,
      .strict_calls = strict_calls::whole_answer,
  };
  for (const ToolFormFunction form : tool_forms()) {
    if (form == generic_form) continue;
    for (const std::string& token : form().special_tokens)
      if (std::ranges::find(all.special_tokens, token) == all.special_tokens.end()) all.special_tokens.push_back(token);
    for (const CallMark& mark : form().marks)
      if (std::ranges::find(all.marks, mark.open, &CallMark::open) == all.marks.end()) all.marks.push_back(mark);
  }
  return all;
}

}  // namespace

const ToolForm& generic_form() {
  static const ToolForm form = all_forms();
  return form;
}

}  // namespace weft
