// The list of the forms of tool calls.
#include <algorithm>
#include <array>

#include "forms/tool_form.h"

namespace weft {

const ToolForm& llama3_json_form();
const ToolForm& llama4_pythonic_form();
const ToolForm& mistral_form();
const ToolForm& hermes_form();
const ToolForm& qwen3_coder_form();
const ToolForm& deepseek_form();
const ToolForm& nemotron_form();

namespace {

constexpr std::array<ToolFormFunction, 8> kForms = {
    generic_form, llama3_json_form, llama4_pythonic_form, mistral_form,
    hermes_form,  qwen3_coder_form, deepseek_form,        nemotron_form,
};

}  // namespace

std::span<const ToolFormFunction> tool_forms() { return kForms; }

const ToolForm& tool_form_shown_in(std::string_view source) {
  const ToolForm* best = nullptr;
  for (const ToolFormFunction form : kForms)
    if (form().shown_in(source) && (!best || form().precedence > best->precedence)) best = &form();
  return *best;
}

const ToolForm* find_tool_form(std::string_view name) {
  for (const ToolFormFunction form : kForms)
    if (std::ranges::find(form().names, name) != form().names.end()) return &form();
  return nullptr;
}

std::vector<std::string> tool_form_names() {
  std::vector<std::string> names;
  for (const ToolFormFunction form : kForms) names.insert(names.end(), form().names.begin(), form().names.end());
  return names;
}

}  // namespace weft
