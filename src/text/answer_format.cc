// See the header. The marks were read off the models' own templates and cards.
#include "text/answer_format.h"

#include <array>
#include <utility>

namespace weft {

namespace {

bool holds(std::string_view source, std::string_view mark) { return source.find(mark) != std::string_view::npos; }

constexpr std::array<std::pair<std::string_view, ToolFormat>, 12> kNames = {{
    {"generic", ToolFormat::generic},
    {"llama3_json", ToolFormat::llama_json},
    {"llama4_pythonic", ToolFormat::pythonic},
    {"pythonic", ToolFormat::pythonic},
    {"mistral", ToolFormat::mistral},
    {"hermes", ToolFormat::hermes},
    {"qwen", ToolFormat::hermes},
    {"qwen3_coder", ToolFormat::xml},
    {"deepseek_v3", ToolFormat::deepseek},
    {"deepseek_v31", ToolFormat::deepseek},
    {"deepseek", ToolFormat::deepseek},
    {"nemotron", ToolFormat::nemotron},
}};

ToolFormat detect_tools(std::string_view source) {
  if (holds(source, "<tool_call>")) return holds(source, "<function=") ? ToolFormat::xml : ToolFormat::hermes;
  if (holds(source, "[TOOL_CALLS]")) return ToolFormat::mistral;
  if (holds(source, "<TOOLCALL>") || (holds(source, "<extra_id_1>") && holds(source, "<tool>")))
    return ToolFormat::nemotron;
  if (holds(source, "<｜tool▁call▁begin｜>")) return ToolFormat::deepseek;
  if (holds(source, "<|python_start|>")) return ToolFormat::pythonic;
  if (holds(source, "<|python_tag|>") || (holds(source, "\"parameters\"") && holds(source, "ipython")))
    return ToolFormat::llama_json;
  return ToolFormat::generic;
}

std::string_view trimmed_end(std::string_view text) {
  const size_t last = text.find_last_not_of(" \t\r\n");
  return text.substr(0, last == std::string_view::npos ? 0 : last + 1);
}

constexpr std::string_view kOpen = "<think>", kClose = "</think>";

}  // namespace

AnswerFormat detect_answer_format(std::string_view source, std::string_view tool_source) {
  return {detect_tools(tool_source), holds(source, kOpen) || holds(source, kClose)};
}

std::optional<ToolFormat> tool_format_of_name(std::string_view name) {
  for (const auto& [known, format] : kNames)
    if (name == known) return format;
  return std::nullopt;
}

std::vector<std::string> tool_format_names() {
  std::vector<std::string> names;
  for (const auto& entry : kNames) names.emplace_back(entry.first);
  return names;
}

Thinking thinking_after(bool thinks, std::string_view prompt, std::optional<std::string_view> continued) {
  if (!thinks) return Thinking::none;
  if (continued && !trimmed_end(*continued).empty()) {
    const size_t open = continued->rfind(kOpen), close = continued->rfind(kClose);
    const bool inside = open != std::string_view::npos && (close == std::string_view::npos || close < open);
    return inside ? Thinking::open : Thinking::none;
  }
  const std::string_view text = trimmed_end(prompt);
  if (text.ends_with(kOpen)) return Thinking::open;
  if (text.ends_with(kClose)) return Thinking::none;  // the template has closed it: thinking is off
  return Thinking::may_open;
}

std::vector<std::string> marks_of(ToolFormat format) {
  using Marks = std::vector<std::string>;
  switch (format) {
    case ToolFormat::llama_json: return {"<|python_tag|>"};
    case ToolFormat::pythonic: return {"<|python_start|>", "<|python_end|>", "<|python_tag|>"};
    case ToolFormat::mistral: return {"[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"};
    case ToolFormat::hermes:
    case ToolFormat::xml: return {"<tool_call>", "</tool_call>"};
    case ToolFormat::deepseek:
      return {"<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>",
              "<｜tool▁calls▁end｜>"};
    case ToolFormat::nemotron: return {"<TOOLCALL>", "</TOOLCALL>", "<toolcall>", "</toolcall>"};
    case ToolFormat::generic: break;
  }
  Marks all;
  for (const ToolFormat each :
       {ToolFormat::pythonic, ToolFormat::mistral, ToolFormat::hermes, ToolFormat::deepseek, ToolFormat::nemotron})
    for (std::string& mark : marks_of(each)) all.push_back(std::move(mark));
  return all;
}

}  // namespace weft
