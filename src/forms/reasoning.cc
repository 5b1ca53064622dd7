// See the header.
#include "forms/reasoning.h"

#include <algorithm>
#include <utility>

#include "forms/held_text.h"

namespace weft {

bool thinking_shown_in(std::string_view source) {
  return source.find(kThinkOpen) != std::string_view::npos || source.find(kThinkClose) != std::string_view::npos;
}

Thinking thinking_after(bool thinks, std::string_view prompt, std::optional<std::string_view> continued) {
  if (!thinks) return Thinking::none;
  if (continued && end_without_blanks(*continued) > 0) {
    const size_t open = continued->rfind(kThinkOpen), close = continued->rfind(kThinkClose);
    const bool inside = open != std::string_view::npos && (close == std::string_view::npos || close < open);
    return inside ? Thinking::open : Thinking::none;
  }
  const std::string_view text = prompt.substr(0, end_without_blanks(prompt));
  if (text.ends_with(kThinkOpen)) return Thinking::open;
  if (text.ends_with(kThinkClose)) return Thinking::none;  // the template has closed it: thinking is off
  return Thinking::may_open;
}

void ReasoningSplitter::drop(size_t size, State next) {
  held_.erase(0, size);
  blanks_ = 0;
  state_ = next;
}

// False: more text is needed.
bool ReasoningSplitter::step(ReasonedText& out) {
  const size_t first = held_.find_first_not_of(kBlanks, blanks_);
  if (first == std::string::npos) blanks_ = held_.size();
  switch (state_) {
    case State::start: {
      if (first == std::string::npos) return false;
      const std::string_view text = std::string_view(held_).substr(first);
      if (text.starts_with(kThinkOpen)) {
        drop(first + kThinkOpen.size(), State::opened);
        return true;
      }
      if (kThinkOpen.starts_with(text)) return false;
      state_ = State::answer;
      return true;
    }
    case State::opened:
      if (first == std::string::npos) return false;
      drop(first, State::thinking);
      return true;
    case State::thinking: {
      const size_t close = held_.find(kThinkClose, blanks_);
      // White space before the mark, and what may become the mark, stays here.
      const size_t end = close != std::string::npos ? close : held_.size() - held_by(held_, kThinkClose);
      const size_t behind = end_without_blanks(std::string_view(held_).substr(blanks_, end - blanks_));
      const size_t shown = behind > 0 ? blanks_ + behind : 0;
      out.reasoning += held_.substr(0, shown);
      if (close != std::string::npos) return drop(close + kThinkClose.size(), State::closed), true;
      drop(shown, State::thinking);
      blanks_ = end - shown;
      return false;
    }
    case State::closed:
      if (first == std::string::npos) return false;
      drop(first, State::answer);
      return true;
    case State::answer: out.content += std::exchange(held_, {}); return false;
  }
  return false;
}

ReasonedText ReasoningSplitter::push(std::string_view text) {
  ReasonedText out;
  held_ += text;
  while (step(out)) {
  }
  return out;
}

ReasonedText ReasoningSplitter::finish() {
  ReasonedText out;
  std::string rest = std::exchange(held_, {});
  if (state_ == State::thinking) out.reasoning = std::move(rest);
  else if (state_ == State::start || state_ == State::answer) out.content = std::move(rest);
  return out;
}

}  // namespace weft
