// Llama 4: [f(a=1), g(b="x")], perhaps between <|python_start|> and <|python_end|>. JSON as in Llama 3 counts too. The
// template writes earlier calls as JSON, one behind the other, behind these marks with the message's text between them.
#include "forms/python_calls.h"
#include "forms/strict_calls.h"
#include "forms/tool_form.h"

namespace weft {

namespace {

std::unique_ptr<CallReader> bare_reader() { return std::make_unique<PythonCalls>("", true); }
std::unique_ptr<CallReader> reader() { return std::make_unique<PythonCalls>("<|python_end|>", false); }

}  // namespace

const ToolForm& llama4_pythonic_form() {
  static const ToolForm form = {
      .names = {"llama4_pythonic", "pythonic"},
      .shown_in = [](std::string_view source) { return holds(source, "<|python_start|>"); },
      .precedence = 2,
      .special_tokens = {"<|python_start|>", "<|python_end|>", "<|python_tag|>"},
      .marks = {{"", bare_reader},
                {"<|python_tag|>", bare_reader},
                {"<|python_start|>", reader},
                {"<|python_start|><|python_end|>", bare_reader},
                {"<|python_end|>", bare_reader}},
      .strict_calls = strict_calls::whole_answer,
  };
  return form;
}

}  // namespace weft
