// See the header.
#include "forms/call_stream.h"

#include <algorithm>
#include <utility>

#include "forms/held_text.h"

namespace weft {

// Bytes are moved only once as many have been dropped.
void CallStream::drop(size_t size) {
  start_ += size;
  position_ += size;
  if (2 * start_ < text_.size()) return;
  text_.erase(0, start_);
  start_ = 0;
}

size_t CallStream::skip_blanks(size_t at) {
  static constexpr size_t kLong = 64;
  const size_t from = position_ + at;
  for (Blanks& run : blanks_) {
    if (from < run.from || from > run.to) continue;
    run.to = position_ + weft::skip_blanks(text(), run.to - position_);
    return run.to - position_;
  }
  const size_t end = weft::skip_blanks(text(), at);
  if (end >= at + kLong) blanks_[next_blanks_++ % blanks_.size()] = {from, position_ + end};
  return end;
}

size_t CallStream::find(std::string_view word, size_t at) { return search(word, false, at); }

size_t CallStream::find_one_of(std::string_view characters, size_t at) { return search(characters, true, at); }

size_t CallStream::search(std::string_view what, bool one_of, size_t at) {
  auto known = std::ranges::find_if(searches_, [&](const Search& one) {
    return one.what.data() == what.data() && one.what.size() == what.size() && one.one_of == one_of;
  });
  if (known == searches_.end()) known = searches_.insert(known, Search{what, one_of});
  const size_t from = position_ + at;
  if (from < known->from || from > known->to) known->from = known->to = from;
  const size_t begin = known->to - position_;
  const size_t found = one_of ? text().find_first_of(what, begin) : text().find(what, begin);
  const size_t size = text().size(), held = one_of ? 0 : what.size() - 1;  // an end that may begin the word
  if (found != std::string_view::npos) known->to = position_ + found;
  else if (size > held) known->to = std::max(known->to, position_ + size - held);
  return found;
}

bool CallStream::declared(std::string_view name) const {
  return std::find(names_->begin(), names_->end(), name) != names_->end();
}

void CallStream::add_content(std::string_view text) {
  const size_t end = end_without_blanks(text);
  if (end > 0) {
    (out_.content += std::exchange(blank_, {})) += text.substr(0, end);
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
