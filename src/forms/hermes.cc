// Hermes, Qwen: <tool_call>{"name": ..., "arguments": {...}}</tool_call>. The XML of Qwen 3 Coder counts inside of
// <tool_call> too.
#include "forms/strict_calls.h"
#include "forms/tool_form.h"
#include "forms/xml_calls.h"

namespace weft {

namespace {

Result<Json> strict(const ToolFunctions& functions) {
  using namespace strict_calls;
  return triggered(Json::array({"<tool_call>"}),
                   object_tags(functions, "arguments", "<tool_call>\n", "\n</tool_call>"));
}

}  // namespace

const ToolForm& hermes_form() {
  static const ToolForm form = {
      .names = {"hermes", "qwen"},
      .shown_in = [](std::string_view source) { return holds(source, "<tool_call>"); },
      .precedence = 6,
      .special_tokens = {"<tool_call>", "</tool_call>"},
      .marks = {{"<tool_call>",
                 []() -> std::unique_ptr<CallReader> { return std::make_unique<XmlCalls>("</tool_call>", false); }}},
      .strict_calls = strict,
  };
  return form;
}

}  // namespace weft
