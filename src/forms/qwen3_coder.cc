// Qwen 3 Coder, Nemotron 3: <tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>, perhaps
// without <tool_call>.
#include "forms/strict_calls.h"
#include "forms/tool_form.h"
#include "forms/xml_calls.h"

namespace weft {

namespace {

std::unique_ptr<CallReader> reader() { return std::make_unique<XmlCalls>("</tool_call>", false); }
std::unique_ptr<CallReader> reader_without_mark() { return std::make_unique<XmlCalls>("</tool_call>", true); }

Result<Json> strict(const ToolFunctions&) {
  return fail(Code::unsupported,
              "a strict function needs tool_choice \"required\" or its name: this model writes calls as XML, which "
              "no schema describes")
      .about("tools");
}

}  // namespace

const ToolForm& qwen3_coder_form() {
  static const ToolForm form = {
      .names = {"qwen3_coder"},
      .shown_in = [](std::string_view source) { return holds(source, "<tool_call>") && holds(source, "<function="); },
      .precedence = 7,
      .special_tokens = {"<tool_call>", "</tool_call>"},
      .marks = {{"<tool_call>", reader}, {"<function=", reader_without_mark}},
      .strict_calls = strict,
  };
  return form;
}

}  // namespace weft
