// What a chat template takes: found out once per template by rendering small conversations with it and looking for
// their texts in the result. conversation.h brings messages into the form that this asks for.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/result.h"

namespace weft {

struct TemplateTraits {
  // The contents of a role: "text", and [{"type": "text", "text": "text"}, ...].
  struct Contents {
    bool text = true;
    bool parts = false;
  };
  Contents system, user, assistant, tool;

  bool developer = false;          // knows the role by name; else it is a system message
  bool calls = false;              // shows the assistant's tool_calls
  bool results = false;            // shows messages of the role `tool`
  bool images_in_results = false;  // shows {"type": "image"} among their parts

  // Of templates that show calls:
  bool arguments_as_text = false;    // JSON in a string; else an object
  bool takes_any_arguments = false;  // a string that is no object of JSON is shown too
  bool null_beside_calls = true;     // content may be null
  bool empty_beside_calls = true;    // content may be "" without the calls being lost
  bool text_beside_calls = true;     // content may be a text without the calls being lost
  bool several_calls = true;         // in one message
  bool short_ids = false;            // ids must be nine letters and digits
};

// Renders messages and tools with the template that is asked about.
using TemplateRenderer = std::function<Result<std::string>(const Json& messages, const Json& tools)>;

TemplateTraits find_traits(const TemplateRenderer& render, std::string_view source);

}  // namespace weft
