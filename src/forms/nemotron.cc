// Nemotron: <TOOLCALL>[{"name": ..., "arguments": {...}}]</TOOLCALL>; Nemotron Mini: <toolcall> {...} </toolcall>.
#include "forms/json_calls.h"
#include "forms/strict_calls.h"
#include "forms/tool_form.h"

namespace weft {

namespace {

std::unique_ptr<CallReader> reader() { return std::make_unique<JsonCalls>("</TOOLCALL>"); }
std::unique_ptr<CallReader> mini_reader() { return std::make_unique<JsonCalls>("</toolcall>"); }

Result<Json> strict(const ToolFunctions& functions) {
  using namespace strict_calls;
  Json tags = object_tags(functions, "arguments", "<toolcall> ", " </toolcall>");
  tags.push_back(tag("<TOOLCALL>[", separated(object_tags(functions, "arguments"), ", "), "]</TOOLCALL>"));
  return triggered(Json::array({"<TOOLCALL>", "<toolcall>"}), std::move(tags));
}

}  // namespace

const ToolForm& nemotron_form() {
  static const ToolForm form = {
      .names = {"nemotron"},
      .shown_in =
          [](std::string_view source) {
            // Nemotron Mini's template shows how tools are declared, not how they are called.
            return holds(source, "<TOOLCALL>") || (holds(source, "<extra_id_1>") && holds(source, "<tool>"));
          },
      .precedence = 4,
      .special_tokens = {"<TOOLCALL>", "</TOOLCALL>", "<toolcall>", "</toolcall>"},
      .marks = {{"<TOOLCALL>", reader}, {"<toolcall>", mini_reader}},
      .strict_calls = strict,
  };
  return form;
}

}  // namespace weft
