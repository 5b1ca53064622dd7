// See the header.
#include "forms/python_calls.h"

#include <algorithm>

#include "forms/held_text.h"

namespace weft {

Found ArgumentReader::read(std::string_view text, size_t at, bool first) {
  if (step_ == Step::begin) {
    at_ = std::max(at_, at);
    first_ = first;
  }
  Found found = Found::yes;
  while (found == Found::yes && step_ != Step::done) found = step(text);
  return found;
}

Found ArgumentReader::go_on(Step next) {
  step_ = next;
  return Found::yes;
}

Found ArgumentReader::step(std::string_view text) {
  if (step_ == Step::key) {
    if (const Found found = read_identifier(text, at_, next_, key_); found != Found::yes) return found;
    return go_on(Step::key_behind);
  }
  if (step_ == Step::value) {
    if (const Found found = value_.read(text); found != Found::yes) return found;
    at_ = value_.at();
    return go_on(Step::behind);
  }
  at_ = skip_blanks(text, at_);
  if (at_ == text.size()) return Found::more;
  const char c = text[at_];
  switch (step_) {
    case Step::begin:
      if (c == ',' && !first_) ++at_;
      return go_on(Step::comma);
    case Step::comma:
      if (c != ')') return go_on(Step::key);
      ++at_;
      return go_on(Step::done);
    case Step::key_behind:
      if (c != '=') return Found::no;
      value_ = PythonReader(++at_);
      return go_on(Step::value);
    default: return c == ',' || c == ')' ? go_on(Step::done) : Found::no;
  }
}

void PythonCalls::forget() {
  name_end_ = 0;
  named_ = false;
  argument_ = {};
}

// A call begins once its first argument is complete.
Found PythonCalls::read_other_head(CallStream& stream, size_t at, bool in_list) {
  if (list_only_ && !in_list) return Found::no;
  const std::string_view text = stream.text();
  if (!named_) {
    std::string name;
    size_t end = at;
    if (const Found found = read_identifier(text, end, name_end_, name); found != Found::yes) return found;
    named_ = true;
  }
  const std::string name(text.substr(at, name_end_ - at));
  if (text[name_end_] != '(' || !stream.declared(name)) return Found::no;
  const size_t behind = name_end_ + 1;
  if (const Found found = argument_.read(text, behind, true); found != Found::yes)
    return read_to(argument_.at(), found);
  python_ = true;
  return begin_call(stream, name, behind, in_list);
}

Found PythonCalls::read_arguments(CallStream& stream) {
  return python_ ? read_argument(stream) : JsonCalls::read_arguments(stream);
}

Found PythonCalls::read_argument(CallStream& stream) {
  const Found found = argument_.read(stream.text(), 0, !stream.has_argument());
  if (found != Found::yes) return read_to(argument_.at(), found);
  const size_t at = argument_.at();
  if (!argument_.key().empty()) {
    stream.add_argument(argument_.key(), argument_.value());
    return go_on(stream, at, State::arguments);
  }
  close_call(stream);
  return go_on(stream, at, State::between);
}

void PythonCalls::close_call(CallStream& stream) {
  if (!python_) return JsonCalls::close_call(stream);
  python_ = false;
  stream.end_arguments();
}

}  // namespace weft
