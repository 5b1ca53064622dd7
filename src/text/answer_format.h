// How a model's answers are to be read, found in its chat template: in which form it writes tool calls, and whether it
// thinks aloud. A template shows both, since it has to write the calls and thoughts of earlier turns, or tells the
// model the form in words.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/thinking.h"

namespace weft {

enum class ToolFormat : uint8_t {
  generic,     // the template shows none: all marks below count
  llama_json,  // {"name": ..., "parameters": {...}}, perhaps after <|python_tag|>, several with ';' between (Llama 3)
  // [f(a=1), g(b="x")], perhaps between <|python_start|> and <|python_end|> (Llama 4); JSON as in Llama 3 counts too
  pythonic,
  mistral,  // [TOOL_CALLS][{"name": ..., "arguments": {...}}], or [TOOL_CALLS]NAME[ARGS]{...} (later ones)
  hermes,   // <tool_call>{"name": ..., "arguments": {...}}</tool_call> (Hermes, Qwen)
  // <tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call> (Qwen 3 Coder, Nemotron 3)
  xml,
  // <｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\n{...}\n```<｜tool▁call▁end｜>, or NAME<｜tool▁sep｜>{...}
  // (V3.1)
  deepseek,
  // <TOOLCALL>[{"name": ..., "arguments": {...}}]</TOOLCALL>, or <toolcall> {...} </toolcall> (Nemotron Mini)
  nemotron,
};

struct AnswerFormat {
  ToolFormat tools = ToolFormat::generic;
  bool thinks = false;  // "<think>...</think>" before the answer
};

// From the sources of the template without tools and with tools (often the same).
AnswerFormat detect_answer_format(std::string_view source, std::string_view tool_source);

// The formats by the names that --tool-call-parser takes ("llama3_json", ...); absent for an unknown one ("auto" too).
std::optional<ToolFormat> tool_format_of_name(std::string_view name);
std::vector<std::string> tool_format_names();

// Where an answer begins. `prompt`: the rendered chat. `continued`: the text of the final message if the model is to go
// on with it.
Thinking thinking_after(bool thinks, std::string_view prompt, std::optional<std::string_view> continued);

// The marks of a format that may be special tokens of the tokenizer, whose text the reader of the answer must see.
std::vector<std::string> marks_of(ToolFormat format);

}  // namespace weft
