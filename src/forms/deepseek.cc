// DeepSeek. V3 and R1: <｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\n{...}\n```<｜tool▁call▁end｜>; V3.1:
// <｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{...}<｜tool▁call▁end｜>. <｜tool▁calls▁begin｜> and <｜tool▁calls▁end｜>
// stand around the calls.
#include "forms/held_text.h"
#include "forms/json_calls.h"
#include "forms/strict_calls.h"
#include "forms/tool_form.h"

namespace weft {

namespace {

constexpr std::string_view kBegin = "<｜tool▁call▁begin｜>", kEnd = "<｜tool▁call▁end｜>";
constexpr std::string_view kSeparator = "<｜tool▁sep｜>", kFence = "```";
constexpr std::string_view kAllBegin = "<｜tool▁calls▁begin｜>", kAllEnd = "<｜tool▁calls▁end｜>";

class DeepseekCalls final : public JsonCalls {
 public:
  DeepseekCalls() : JsonCalls(kEnd) {}

 private:
  Found read_head(CallStream& stream) override {
    const std::string_view text = stream.text();
    const size_t at = stream.skip_blanks(0);
    if (at == text.size()) return Found::more;
    const size_t separator = stream.find(kSeparator, at);
    if (const Found ends = name_ends(stream, at, separator, kSeparator.size()); ends != Found::yes) return ends;
    const size_t behind = separator + kSeparator.size();
    const size_t object = stream.skip_blanks(behind);
    if (object == text.size()) return Found::more;
    if (text[object] != '{') return read_older_head(stream, behind, object);
    const std::string_view name = text.substr(at, separator - at);
    return begin_object(stream, name.substr(0, end_without_blanks(name)), object);
  }

  // NAME, which begins at `at`, is the rest of the line that begins at `line`; the arguments are a block of Markdown.
  Found read_older_head(CallStream& stream, size_t line, size_t at) {
    static constexpr std::string_view kJson = "```json";
    const std::string_view text = stream.text();
    const size_t end = stream.find("\n", line);
    if (const Found ends = name_ends(stream, line, end, 1); ends != Found::yes) return ends;
    std::string_view name = text.substr(at, end - at);
    name = name.substr(0, end_without_blanks(name));
    const size_t fence = stream.skip_blanks(end);
    if (fence == text.size() || may_begin(text, fence, kJson)) return Found::more;
    const size_t object = begins(text, fence, kJson) ? stream.skip_blanks(fence + kJson.size()) : fence;
    return begin_object(stream, name, object);
  }

  Found read_between(CallStream& stream) override {
    const size_t at = stream.skip_blanks(0);
    if (begins(stream.text(), at, kFence)) return go_on(stream, at + kFence.size(), State::between);
    if (may_begin(stream.text(), at, kFence)) return Found::more;
    return JsonCalls::read_between(stream);
  }
};

Result<Json> strict(const ToolFunctions& functions) {
  using namespace strict_calls;
  const std::string begin(kBegin), separator(kSeparator), end(kEnd), all_begin(kAllBegin), all_end(kAllEnd);
  Json older = call_tags(functions, begin + "function" + separator, "\n```json\n", "\n```" + end);
  Json newer = call_tags(functions, begin, separator, end);
  return triggered(Json::array({all_begin}), Json::array({tag(all_begin, separated(std::move(older), "\n"), all_end),
                                                          tag(all_begin, separated(std::move(newer), ""), all_end)}));
}

}  // namespace

const ToolForm& deepseek_form() {
  static const ToolForm form = {
      .names = {"deepseek_v3", "deepseek_v31", "deepseek"},
      .shown_in = [](std::string_view source) { return holds(source, kBegin); },
      .precedence = 3,
      .special_tokens = {std::string(kAllBegin), std::string(kBegin), std::string(kSeparator), std::string(kEnd),
                         std::string(kAllEnd)},
      .marks = {{kBegin, []() -> std::unique_ptr<CallReader> { return std::make_unique<DeepseekCalls>(); }},
                {kAllBegin},
                {kAllEnd}},
      .strict_calls = strict,
  };
  return form;
}

}  // namespace weft
