// See the header.
#include "forms/tool_calls.h"

#include <algorithm>
#include <utility>

#include "forms/held_text.h"

namespace weft {

namespace {

// Where a block turns out to be none, the text behind its mark is read again, and there may be marks in it, each of
// which may begin a block that reaches as far: n marks would cost n^2. Once more than this has been read in vain, so
// many times the answer up to the furthest place that was read and so many bytes, marks are text.
constexpr size_t kVain = 8, kVainAtLeast = 16384;

bool is_bare(const CallMark& mark) { return mark.open.empty(); }

std::vector<CallMark> marks_of(const ToolCallFinder::Rules& rules) {
  // A forced call is JSON without a mark whatever the model's form is: the grammar sees to that.
  const bool forced = rules.mode == ToolMode::any;
  std::vector<CallMark> marks = (forced ? generic_form() : *rules.form).marks;
  // Strict calls of a form without a mark are the whole answer. What looks like another form is text then, since no
  // schema held it.
  if (forced || (rules.strict && std::ranges::any_of(marks, is_bare)))
    std::erase_if(marks, [](const CallMark& mark) { return !is_bare(mark); });
  return marks;
}

}  // namespace

ToolCallFinder::ToolCallFinder(std::shared_ptr<const Rules> rules)
    : named_(rules->mode == ToolMode::named), marks_(marks_of(*rules)),
      stream_({rules, &rules->names}, {rules, &rules->parameters}) {}

ToolOutput ToolCallFinder::push(std::string_view text) {
  if (named_) return push_named(text);
  stream_.add_text(text);
  while (step()) {
  }
  return stream_.take_output();
}

ToolOutput ToolCallFinder::finish() {
  stream_.end();
  if (named_) return push_named("");
  while (step()) {
  }
  return stream_.take_last_output();
}

ToolOutput ToolCallFinder::push_named(std::string_view text) {
  stream_.add_text(text);
  std::string object;
  if (stream_.calls() == 0) {
    const size_t at = std::max(arguments_read_, stream_.skip_blanks(0));
    arguments_read_ = at + arguments_.read(stream_.text().substr(at), object);
    if (!object.empty()) stream_.begin_call(stream_.names().front());
    else if (stream_.ended()) stream_.add_content(stream_.text());
    else return {};
  } else {
    arguments_.read(stream_.text(), object);
  }
  stream_.drop(stream_.text().size());
  stream_.add_arguments(object);
  if (stream_.ended() && stream_.calls() > 0 && !arguments_.done()) stream_.add_arguments(arguments_.close());
  return stream_.ended() ? stream_.take_last_output() : stream_.take_output();
}

// False: more text is needed, or all has been read.
bool ToolCallFinder::step() {
  if (!block_) return read_text();
  const CallReader::Step step = block_->step(stream_);
  if (step == CallReader::Step::on) return true;
  if (step == CallReader::Step::more && !stream_.ended()) return false;
  if (step == CallReader::Step::more) block_->cut_off(stream_);
  const size_t in_vain = step == CallReader::Step::more ? stream_.text().size() : block_->read_in_vain();
  in_vain_ += in_vain;
  furthest_ = std::max(furthest_, stream_.position() + in_vain);
  end_block();
  return true;
}

bool ToolCallFinder::read_text() {
  const std::string_view text = stream_.text();
  const auto bare = std::ranges::find_if(marks_, is_bare);
  if (!started_ && bare != marks_.end()) {
    const size_t first = stream_.skip_blanks(0);
    if (first == text.size() && !stream_.ended()) return false;
    started_ = true;
    if (first < text.size() && (text[first] == '{' || text[first] == '[')) return begin_block(*bare, 0, first);
  }
  started_ = true;
  // The first mark, of those that begin at the same place the longest.
  const CallMark* mark = nullptr;
  size_t at = std::string::npos, held = 0;
  for (const CallMark& candidate : marks_) {
    if (is_bare(candidate)) continue;
    const size_t found = stream_.find(candidate.open, 0);
    if (found < at || (mark && found == at && candidate.open.size() > mark->open.size())) at = found, mark = &candidate;
    held = std::max(held, held_by(text, candidate.open));
  }
  // A longer one may still be coming.
  const bool undecided = mark && !stream_.ended() && held == text.size() - at;
  if (mark && !undecided) {
    stream_.add_content(text.substr(0, at));
    return begin_block(*mark, at, at + mark->open.size());
  }
  const size_t end = stream_.ended() ? text.size() : text.size() - held;
  stream_.add_content(text.substr(0, end));
  stream_.drop(end);
  return false;
}

// `from`: where the block begins in the stream's text; `to`: behind its mark.
bool ToolCallFinder::begin_block(const CallMark& mark, size_t from, size_t to) {
  opening_ = stream_.text().substr(from, to - from);
  stream_.drop(to);
  calls_before_ = stream_.calls();
  if (!mark.reader) return true;
  if (in_vain_ <= kVain * std::max(furthest_, stream_.position()) + kVainAtLeast) block_ = mark.reader();
  else stream_.add_content(std::exchange(opening_, {}));
  return true;
}

// Where no call has begun, the mark was text, and behind it all may be.
void ToolCallFinder::end_block() {
  block_.reset();
  if (stream_.calls() == calls_before_) stream_.add_content(opening_);
}

void add_delta(const ToolDelta& delta, std::vector<ToolCall>& calls) {
  if (!delta.name.empty()) calls.push_back({delta.name, ""});
  calls.at(delta.index).arguments += delta.arguments;
}

}  // namespace weft
