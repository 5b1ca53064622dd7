// Llama 3: {"name": ..., "parameters": {...}} as the whole answer, perhaps behind <|python_tag|>, several with ';'
// between. Smaller models also write lists, and calls as in Python.
#include "forms/python_calls.h"
#include "forms/strict_calls.h"
#include "forms/tool_form.h"

namespace weft {

namespace {

std::unique_ptr<CallReader> reader() { return std::make_unique<PythonCalls>("", true); }

}  // namespace

const ToolForm& llama3_json_form() {
  static const ToolForm form = {
      .names = {"llama3_json"},
      .shown_in =
          [](std::string_view source) {
            return holds(source, "<|python_tag|>") || (holds(source, "\"parameters\"") && holds(source, "ipython"));
          },
      .precedence = 1,
      .special_tokens = {"<|python_tag|>"},
      .marks = {{"", reader}, {"<|python_tag|>", reader}},
      .strict_calls = strict_calls::whole_answer,
  };
  return form;
}

}  // namespace weft
