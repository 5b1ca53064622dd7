// Mistral: [TOOL_CALLS][{"name": ..., "arguments": {...}}], or of later models [TOOL_CALLS]NAME[ARGS]{...}, each call
// with its mark, perhaps with [CALL_ID]ID before [ARGS].
#include "forms/held_text.h"
#include "forms/json_calls.h"
#include "forms/strict_calls.h"
#include "forms/tool_form.h"

namespace weft {

namespace {

constexpr std::string_view kCalls = "[TOOL_CALLS]", kArgs = "[ARGS]", kId = "[CALL_ID]";

class MistralCalls final : public JsonCalls {
 public:
  MistralCalls() : JsonCalls("") {}

 private:
  // NAME{...}, NAME[ARGS]{...} or NAME[CALL_ID]ID[ARGS]{...}
  Found read_other_head(CallStream& stream, size_t at, bool in_list) override {
    if (in_list) return Found::no;
    const std::string_view text = stream.text();
    const size_t end = stream.find_one_of("{[", at);
    if (const Found ends = name_ends(stream, at, end, 1); ends != Found::yes) return ends;
    std::string_view name = text.substr(at, end - at);
    name = name.substr(0, end_without_blanks(name));
    size_t object = end;
    if (text[end] == '[') {
      if (!begins(text, end, kArgs) && !begins(text, end, kId))
        return may_begin(text, end, kArgs) || may_begin(text, end, kId) ? Found::more : Found::no;
      const size_t args = stream.find(kArgs, end);
      if (const Found ends = name_ends(stream, end, args, kArgs.size()); ends != Found::yes) return ends;
      object = stream.skip_blanks(args + kArgs.size());
    }
    return begin_object(stream, name, object);
  }
};

Result<Json> strict(const ToolFunctions& functions) {
  using namespace strict_calls;
  Json tags = call_tags(functions, "[TOOL_CALLS]", "[ARGS]", "");
  tags.push_back(tag("[TOOL_CALLS][", separated(object_tags(functions, "arguments"), ", "), "]"));
  tags.push_back(tag("[TOOL_CALLS] [", separated(object_tags(functions, "arguments"), ", "), "]"));
  return triggered(Json::array({"[TOOL_CALLS]"}), std::move(tags));
}

}  // namespace

const ToolForm& mistral_form() {
  static const ToolForm form = {
      .names = {"mistral"},
      .shown_in = [](std::string_view source) { return holds(source, kCalls); },
      .precedence = 5,
      .special_tokens = {"[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"},
      .marks = {{kCalls, []() -> std::unique_ptr<CallReader> { return std::make_unique<MistralCalls>(); }}},
      .strict_calls = strict,
  };
  return form;
}

}  // namespace weft
