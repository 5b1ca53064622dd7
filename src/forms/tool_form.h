// A form of tool calls: how a family of models writes them. Each form has a file of its own (hermes.cc, mistral.cc,
// ...) that says all about it; tool_forms.cc lists them. docs/adding-a-tool-form.md shows how to add one.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "forms/call_reader.h"

namespace weft {

// Where calls may begin in a model's text, and who reads them.
struct CallMark {
  std::string_view open;  // empty: the answer itself begins with calls, that is with '{' or '['
  // The reader of what stands behind `open`. Null: the mark stands around blocks of calls and is no part of the answer.
  std::unique_ptr<CallReader> (*reader)() = nullptr;
};

// Functions as in a request's tools: {"name", "parameters", "strict"}.
using ToolFunctions = std::vector<const Json*>;

struct ToolForm {
  // What --tool-call-parser calls it; the first is its own name.
  std::vector<std::string_view> names;

  // A chat template (its source) that writes or explains calls in this form. Of several forms that a template shows,
  // the one with the highest precedence counts.
  bool (*shown_in)(std::string_view source);
  int precedence;

  // Marks that may be special tokens of the tokenizer: their text is kept, so that the reader sees them.
  std::vector<std::string> special_tokens;

  std::vector<CallMark> marks;

  // The "format" of a structural tag for `strict` functions: free text, in which a call in this form, once begun, names
  // one of `functions` and gives it arguments that match (strict_calls.h has the parts). Unsupported: the form cannot
  // be described.
  Result<Json> (*strict_calls)(const ToolFunctions& functions);
};

// All forms, in the order in which their names are shown.
using ToolFormFunction = const ToolForm& (*)();
std::span<const ToolFormFunction> tool_forms();

// The form that reads all the others: for templates that show none.
const ToolForm& generic_form();

// The form that a template's source shows.
const ToolForm& tool_form_shown_in(std::string_view source);

// Null for an unknown name ("auto" too).
const ToolForm* find_tool_form(std::string_view name);
std::vector<std::string> tool_form_names();

// For the files of the forms: `mark` stands in the source of a template.
inline bool holds(std::string_view source, std::string_view mark) {
  return source.find(mark) != std::string_view::npos;
}

}  // namespace weft
