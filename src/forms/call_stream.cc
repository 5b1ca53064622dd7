// See the header.
#include "forms/call_stream.h"

#include <algorithm>
#include <utility>

#include "forms/held_text.h"

namespace weft {

bool CallStream::declared(std::string_view name) const {
  return std::find(names_->begin(), names_->end(), name) != names_->end();
}

void CallStream::add_content(const std::string& text) {
  const size_t end = end_without_blanks(text);
  if (end > 0) {
    out_.content += std::exchange(blank_, {}) + text.substr(0, end);
    content_ = true;
  }
  blank_ += text.substr(end);
}

void CallStream::begin_call(const std::string& name) {
  blank_.clear();
  content_ = false;
  arguments_ = 0;
  out_.deltas.push_back({calls_++, name, ""});
}

void CallStream::add_arguments(std::string_view text) {
  if (text.empty()) return;
  if (!out_.deltas.empty() && out_.deltas.back().name.empty()) out_.deltas.back().arguments += text;
  else out_.deltas.push_back({calls_ - 1, "", std::string(text)});
}

void CallStream::add_argument(const std::string& key, const std::string& value) {
  add_arguments((arguments_++ == 0 ? "{" : ", ") + json_quote(key) + ": " + value);
}

void CallStream::end_arguments() { add_arguments(arguments_ == 0 ? "{}" : "}"); }

ToolOutput CallStream::take_output() { return std::exchange(out_, {}); }

ToolOutput CallStream::take_last_output() {
  if (calls_ == 0 || content_) out_.content += std::exchange(blank_, {});
  return take_output();
}

}  // namespace weft
