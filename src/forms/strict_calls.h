// The parts of structural tags that hold the calls of `strict` functions to a form (docs/answers.md, structural tags).
#pragma once

#include <string>

#include "base/json.h"
#include "forms/tool_form.h"

namespace weft::strict_calls {

// `begin`, then `content` (a format of its own), then `end`.
Json tag(std::string begin, Json content, std::string end);
// One or more of `tags`.
Json separated(Json tags, const char* separator);
// Free text in which the texts `triggers` begin one of `tags`.
Json triggered(Json triggers, Json tags);

// A tag for each function: `before` NAME `between` arguments `end`. The arguments of functions that are not strict are
// any object.
Json call_tags(const ToolFunctions& functions, const std::string& before, const std::string& between,
               const std::string& end);
// Likewise, with the name as in JSON: `open` {"name": "NAME", "`key`": arguments} `close`.
Json object_tags(const ToolFunctions& functions, const std::string& key, const std::string& open = {},
                 const std::string& close = {});

// For forms in which calls have no mark of their own: the answer is {"name": ..., "parameters": ...}, several with "; "
// between, or text that does not look like one.
Result<Json> whole_answer(const ToolFunctions& functions);

// Of what a form's strict_calls made: one or more calls, and no free text.
Json calls_alone(const Json& format);

}  // namespace weft::strict_calls
