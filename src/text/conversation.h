// A request's messages in the form that a chat template takes. This is the one place that adapts them; what the
// template takes anyway it gets as it was sent.
#pragma once

#include "base/json.h"
#include "text/template_traits.h"

namespace weft {

// `messages`: list of {role, content, ...}; content is null, a text, or a list of {"type": "text", "text"},
// {"type": "image"} and {"type": "video"}; no member but content is null; calls have a function with name and
// arguments. What changes, and only where the template needs it:
//   - contents: parts of text alone become one text, joined by line breaks, or a text becomes a list of one part; null
//     becomes "", except beside calls;
//   - `developer` becomes `system`;
//   - arguments of calls: text or an object; a blank text is {}; text that is no object goes into a member `arguments`;
//   - ids of calls: nine letters and digits;
//   - several calls of one message become messages of one call, each followed by its result;
//   - calls and results that the template does not show become the text of the assistant and of the user; neighbours of
//     the same role are then one message;
//   - images of a result that the template does not show there go to the user message behind it.
Json adapt_conversation(const Json& messages, const TemplateTraits& traits);

}  // namespace weft
