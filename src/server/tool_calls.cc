// See the header.
#include "server/tool_calls.h"

#include <algorithm>
#include <array>
#include <optional>

namespace weft {

namespace {

struct Mark {
  std::string_view open, close;
};
constexpr std::array kMarks = {Mark{"<tool_call>", "</tool_call>"}, Mark{"<TOOLCALL>", "</TOOLCALL>"}, Mark{"[TOOL_CALLS]", ""},
                               Mark{"<|python_tag|>", ""}};

// Length of the longest end of `text` that begins a mark.
size_t held_length(std::string_view text) {
  size_t longest = 0;
  for (const Mark& mark : kMarks)
    for (size_t length = std::min(text.size(), mark.open.size() - 1); length > longest; --length)
      if (text.substr(text.size() - length) == mark.open.substr(0, length)) longest = length;
  return longest;
}

std::optional<ToolCall> as_call(const Json& value, const std::vector<std::string>& names) {
  const Json* function = value.find("function");
  const Json& call = function && function->is_object() ? *function : value;
  const Json* name = call.find("name");
  if (!name || !name->is_string() || std::find(names.begin(), names.end(), name->as_string()) == names.end()) return std::nullopt;
  const Json* arguments = call.find("arguments");
  if (!arguments) arguments = call.find("parameters");
  if (!arguments || arguments->is_null()) return ToolCall{name->as_string(), "{}"};
  return ToolCall{name->as_string(), arguments->is_string() ? arguments->as_string() : arguments->dump()};
}

// All of `text` is one call or a list of calls.
bool take_calls(std::string_view text, const std::vector<std::string>& names, std::vector<ToolCall>& calls) {
  const auto json = parse_json(text);
  if (!json.ok()) return false;
  std::vector<ToolCall> found;
  if (json->is_array()) {
    for (const Json& item : json->items()) {
      auto call = as_call(item, names);
      if (!call) return false;
      found.push_back(std::move(*call));
    }
  } else {
    auto call = as_call(*json, names);
    if (!call) return false;
    found.push_back(std::move(*call));
  }
  std::move(found.begin(), found.end(), std::back_inserter(calls));
  return !found.empty();
}

bool blank(std::string_view text) { return text.find_first_not_of(" \t\r\n") == std::string_view::npos; }

}  // namespace

std::string ToolCallFinder::push(std::string_view text) {
  held_ += text;
  if (mode_ != ToolMode::automatic || inside_) return {};
  if (!started_) {
    const size_t first = held_.find_first_not_of(" \t\r\n");
    if (first == std::string::npos) return {};
    started_ = true;
    if (held_[first] == '{' || held_[first] == '[') inside_ = true;
    if (inside_) return {};
  }
  size_t begin = std::string::npos;
  for (const Mark& mark : kMarks) begin = std::min(begin, held_.find(mark.open));
  if (begin != std::string::npos) inside_ = true;
  else begin = held_.size() - held_length(held_);
  std::string out = held_.substr(0, begin);
  held_.erase(0, begin);
  return out;
}

ToolAnswer ToolCallFinder::finish() {
  ToolAnswer answer;
  std::string held = std::exchange(held_, {});
  if (mode_ == ToolMode::named) {
    answer.calls.push_back({names_.front(), std::move(held)});
    return answer;
  }
  std::string_view rest = held;
  if (take_calls(rest, names_, answer.calls)) return answer;
  while (!rest.empty()) {
    const Mark* mark = nullptr;
    size_t begin = std::string_view::npos;
    for (const Mark& candidate : kMarks)
      if (const size_t found = rest.find(candidate.open); found < begin) begin = found, mark = &candidate;
    if (!mark) break;
    const size_t inner = begin + mark->open.size();
    const size_t end = mark->close.empty() ? std::string_view::npos : rest.find(mark->close, inner);
    const std::string_view body = rest.substr(inner, end == std::string_view::npos ? end : end - inner);
    const std::string_view whole = end == std::string_view::npos ? rest : rest.substr(0, end + mark->close.size());
    if (take_calls(body, names_, answer.calls)) answer.content += blank(rest.substr(0, begin)) ? "" : rest.substr(0, begin);
    else answer.content += whole;
    rest.remove_prefix(whole.size());
  }
  if (answer.calls.empty() || !blank(rest)) answer.content += rest;
  return answer;
}

}  // namespace weft
