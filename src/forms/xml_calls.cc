// See the header.
#include "forms/xml_calls.h"

#include <algorithm>

#include "forms/held_text.h"
#include "forms/typed_value.h"

namespace weft {

namespace {

constexpr std::string_view kFunction = "<function=", kFunctionEnd = "</function>";
constexpr std::string_view kParameter = "<parameter=", kParameterEnd = "</parameter>";
constexpr std::string_view kCall = "<tool_call>", kCallEnd = "</tool_call>";

// A tag that begins with one of `words` stands at `at`.
Found tag_at(std::string_view text, size_t at, std::initializer_list<std::string_view> words) {
  if (at >= text.size()) return Found::more;
  Found found = Found::no;
  for (const std::string_view word : words) {
    if (begins(text, at, word)) return Found::yes;
    if (may_begin(text, at, word)) found = Found::more;
  }
  return found;
}

}  // namespace

// ---- parts

Found PartReader::read(CallStream& stream, size_t at, const Json* parameters) {
  parameters_ = parameters;
  if (step_ == Step::begin) at_ = std::max(at_, at);
  if (step_ == Step::begin)
    if (const Found found = begin(stream); found != Found::yes || step_ == Step::done) return found;
  if (step_ == Step::key) {
    const size_t end = stream.find(">", key_);
    if (end == std::string_view::npos) return Found::more;
    next_ = from_ = end + 1;
    step_ = Step::value;
  }
  return step_ == Step::done ? Found::yes : read_value(stream);
}

Found PartReader::begin(CallStream& stream) {
  const std::string_view text = stream.text();
  at_ = stream.skip_blanks(at_);
  while (begins(text, at_, kParameterEnd)) at_ = stream.skip_blanks(at_ + kParameterEnd.size());  // one too many
  if (begins(text, at_, kParameter)) {
    key_ = at_ + kParameter.size();
    step_ = Step::key;
    return Found::yes;
  }
  const bool end = begins(text, at_, kFunctionEnd);
  if (!end) {
    const Found found = tag_at(text, at_, {kCallEnd, kFunction, kCall, kFunctionEnd, kParameter, kParameterEnd});
    if (found != Found::yes) return found;
  }
  if (end) at_ += kFunctionEnd.size();
  step_ = Step::done;
  return Found::yes;
}

// Up to </parameter>, or where that is missing to the next tag that goes on with the call. Text may speak of tags, so
// those that a value without </parameter> ends at are told by what they say or by what follows them.
Found PartReader::read_value(CallStream& stream) {
  const std::string_view text = stream.text();
  const bool ended = stream.ended();
  // Whether a sure end may still come is asked once for the whole rest, not by each value.
  const auto endless = stream.endless().find(parameters_);
  const size_t sure_to = endless == stream.endless().end() ? std::string_view::npos : endless->second;
  for (;; ++next_) {
    next_ = std::min(text.find('<', next_), text.size());
    if (next_ == text.size()) break;
    const Found tag = tag_at(text, next_, {kParameterEnd, kParameter, kFunctionEnd, kCallEnd});
    if (tag == Found::no) continue;
    if (tag == Found::more && !ended) return Found::more;
    if (begins(text, next_, kParameterEnd)) return end_value(text, next_, next_ + kParameterEnd.size());
    const bool sure_end_may_come = !ended || stream.position() + next_ < sure_to;
    const Found goes_on = sure_end_may_come ? call_goes_on(stream, next_) : Found::no;
    if (goes_on == Found::yes) return end_value(text, next_, next_);
    if (goes_on == Found::more && !ended) return Found::more;
    likely_ = std::min(likely_, next_);
    if (!sure_end_may_come) break;
  }
  if (!ended) return Found::more;
  stream.endless()[parameters_] = std::min(sure_to, stream.position() + from_);
  const size_t end = std::min(likely_, text.size());
  return skip_blanks(text.substr(0, end), from_) < end ? end_value(text, end, end) : Found::more;
}

Found PartReader::end_value(std::string_view text, size_t to, size_t behind) {
  key_size_ = from_ - 1 - key_;
  value_end_ = to;
  if (from_ < to && text[from_] == '\n') ++from_;
  if (from_ < value_end_ && text[value_end_ - 1] == '\n') --value_end_;
  at_ = behind;
  step_ = Step::done;
  return Found::yes;
}

// The tag at `at` is <parameter=KEY> of a parameter of the function or on a line of its own, or an end that the end of
// the call or another call follows.
Found PartReader::call_goes_on(CallStream& stream, size_t at) const {
  const std::string_view text = stream.text();
  if (begins(text, at, kParameter)) {
    if (text[at - 1] == '\n') return Found::yes;
    const size_t key = at + kParameter.size(), end = stream.find_one_of(">\n", key);
    if (end == std::string_view::npos) return Found::more;
    const Json* properties = parameters_ ? parameters_->find("properties") : nullptr;
    return properties && properties->find(text.substr(key, end - key)) ? Found::yes : Found::no;
  }
  if (begins(text, at, kFunctionEnd))
    return tag_at(text, stream.skip_blanks(at + kFunctionEnd.size()), {kCallEnd, kFunction, kCall});
  if (begins(text, at, kCallEnd)) return tag_at(text, stream.skip_blanks(at + kCallEnd.size()), {kFunction, kCall});
  return Found::no;
}

// ---- calls

void XmlCalls::forget() { part_ = {}; }

Found XmlCalls::read_head(CallStream& stream) {
  const std::string_view text = stream.text();
  const size_t at = stream.skip_blanks(0);
  if (at == text.size()) return Found::more;
  if (behind_tag_) return read_name(stream, at);
  if (begins(text, at, kFunction)) return read_name(stream, at + kFunction.size());
  return may_begin(text, at, kFunction) ? Found::more : JsonCalls::read_head(stream);
}

// A call begins once its first parameter is complete.
Found XmlCalls::read_name(CallStream& stream, size_t at) {
  const size_t end = stream.find(">", at);
  if (const Found ends = name_ends(stream, at, end, 1); ends != Found::yes) return ends;
  const std::string_view name = stream.text().substr(at, end - at);
  if (!stream.declared(name)) return Found::no;
  const Found found = part_.read(stream, end + 1, stream.parameters(name));
  if (found != Found::yes) return read_to(part_.at(), found);
  function_ = name;
  return begin_call(stream, name, end + 1, in_list());
}

Found XmlCalls::read_arguments(CallStream& stream) {
  return function_.empty() ? JsonCalls::read_arguments(stream) : read_part(stream);
}

Found XmlCalls::read_part(CallStream& stream) {
  static const Json kNothing{};
  const Json* parameters = stream.parameters(function_);
  const Found found = part_.read(stream, 0, parameters);
  if (found != Found::yes) return read_to(part_.at(), found);
  const std::string key(part_.key(stream.text()));
  if (key.empty()) {
    close_call(stream);
    return go_on(stream, part_.at(), State::between);
  }
  const Json* schema = parameters ? parameter_schema(*parameters, key) : nullptr;
  stream.add_argument(key, typed_value(part_.value(stream.text()), schema, parameters ? *parameters : kNothing));
  return go_on(stream, part_.at(), State::arguments);
}

void XmlCalls::close_call(CallStream& stream) {
  if (function_.empty()) return JsonCalls::close_call(stream);
  function_.clear();
  stream.end_arguments();
}

Found XmlCalls::read_between(CallStream& stream) {
  const size_t at = stream.skip_blanks(0);
  if (begins(stream.text(), at, kFunctionEnd)) return go_on(stream, at + kFunctionEnd.size(), State::between);
  if (may_begin(stream.text(), at, kFunctionEnd)) return Found::more;
  return JsonCalls::read_between(stream);
}

Found XmlCalls::call_follows(std::string_view text, size_t at) const {
  if (behind_tag_) return JsonCalls::call_follows(text, at);
  const Found found = tag_at(text, at, {kFunction});
  return found == Found::no ? JsonCalls::call_follows(text, at) : found;
}

}  // namespace weft
