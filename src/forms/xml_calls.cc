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

// What stands between <function=NAME> and the end of the function: one parameter, or the end.
struct Part {
  std::string key;  // empty: the end
  std::string_view value;
  size_t end = 0;  // behind it
};

class PartReader {
 public:
  // `parameters`: the schema of the function's arguments, or null; `ended`: no text will follow.
  PartReader(std::string_view text, const Json* parameters, bool ended)
      : text_(text), parameters_(parameters), ended_(ended) {}

  Found read(size_t at, Part& out) const {
    at = skip_blanks(text_, at);
    while (begins(text_, at, kParameterEnd)) at = skip_blanks(text_, at + kParameterEnd.size());  // one too many
    out.end = at;
    if (begins(text_, at, kFunctionEnd)) {
      out.end += kFunctionEnd.size();
      return Found::yes;
    }
    if (!begins(text_, at, kParameter))
      return tag_at(text_, at, {kCallEnd, kFunction, kCall, kFunctionEnd, kParameter, kParameterEnd});
    const size_t key = at + kParameter.size(), key_end = text_.find('>', key);
    if (key_end == std::string_view::npos) return Found::more;
    const Found found = read_value(key_end + 1, out);
    if (found == Found::yes) out.key = text_.substr(key, key_end - key);
    return found;
  }

 private:
  // Up to </parameter>, or where that is missing to the next tag that goes on with the call. Text may speak of tags,
  // so those that a value without </parameter> ends at are told by what they say or by what follows them.
  Found read_value(size_t from, Part& out) const {
    size_t likely = std::string_view::npos;  // the first tag that may be the end
    for (size_t at = text_.find('<', from); at != std::string_view::npos; at = text_.find('<', at + 1)) {
      const Found tag = tag_at(text_, at, {kParameterEnd, kParameter, kFunctionEnd, kCallEnd});
      if (tag == Found::no) continue;
      if (tag == Found::more && !ended_) return Found::more;
      if (begins(text_, at, kParameterEnd)) return end_value(from, at, at + kParameterEnd.size(), out);
      const Found goes_on = call_goes_on(at);
      if (goes_on == Found::yes) return end_value(from, at, at, out);
      if (goes_on == Found::more && !ended_) return Found::more;
      likely = std::min(likely, at);
    }
    if (!ended_) return Found::more;
    const size_t end = std::min(likely, text_.size());
    return skip_blanks(text_.substr(0, end), from) < end ? end_value(from, end, end, out) : Found::more;
  }

  Found end_value(size_t from, size_t to, size_t behind, Part& out) const {
    out.value = text_.substr(from, to - from);
    out.end = behind;
    if (out.value.starts_with('\n')) out.value.remove_prefix(1);
    if (out.value.ends_with('\n')) out.value.remove_suffix(1);
    return Found::yes;
  }

  // The tag at `at` is <parameter=KEY> of a parameter of the function or on a line of its own, or an end that the end
  // of the call or another call follows.
  Found call_goes_on(size_t at) const {
    if (begins(text_, at, kParameter)) {
      const size_t key = at + kParameter.size(), end = text_.find_first_of(">\n", key);
      if (text_[at - 1] == '\n') return Found::yes;
      if (end == std::string_view::npos) return Found::more;
      const Json* properties = parameters_ ? parameters_->find("properties") : nullptr;
      return properties && properties->find(text_.substr(key, end - key)) ? Found::yes : Found::no;
    }
    if (begins(text_, at, kFunctionEnd))
      return tag_at(text_, skip_blanks(text_, at + kFunctionEnd.size()), {kCallEnd, kFunction, kCall});
    if (begins(text_, at, kCallEnd)) return tag_at(text_, skip_blanks(text_, at + kCallEnd.size()), {kFunction, kCall});
    return Found::no;
  }

  const std::string_view text_;
  const Json* parameters_;
  const bool ended_;
};

}  // namespace

Found XmlCalls::read_head(CallStream& stream) {
  const std::string& text = stream.text();
  const size_t at = skip_blanks(text, 0);
  if (at == text.size()) return Found::more;
  if (behind_tag_) return read_name(stream, at);
  if (begins(text, at, kFunction)) return read_name(stream, at + kFunction.size());
  return may_begin(text, at, kFunction) ? Found::more : JsonCalls::read_head(stream);
}

// A call begins once its first parameter is complete.
Found XmlCalls::read_name(CallStream& stream, size_t at) {
  const size_t end = stream.text().find('>', at);
  if (end == std::string::npos) return name_goes_on(stream, at);
  const std::string name = stream.text().substr(at, end - at);
  if (!stream.declared(name)) return Found::no;
  Part part;
  const Found found = PartReader(stream.text(), stream.parameters(name), stream.ended()).read(end + 1, part);
  if (found != Found::yes) return found;
  function_ = name;
  return begin_call(stream, name, end + 1, in_list());
}

Found XmlCalls::read_arguments(CallStream& stream) {
  return function_.empty() ? JsonCalls::read_arguments(stream) : read_part(stream);
}

Found XmlCalls::read_part(CallStream& stream) {
  static const Json kNothing{};
  const Json* parameters = stream.parameters(function_);
  Part part;
  const Found found = PartReader(stream.text(), parameters, stream.ended()).read(0, part);
  if (found != Found::yes) return found;
  if (part.key.empty()) {
    close_call(stream);
    return go_on(stream, part.end, State::between);
  }
  const Json* schema = parameters ? parameter_schema(*parameters, part.key) : nullptr;
  stream.add_argument(part.key, typed_value(part.value, schema, parameters ? *parameters : kNothing));
  return go_on(stream, part.end, State::arguments);
}

void XmlCalls::close_call(CallStream& stream) {
  if (function_.empty()) return JsonCalls::close_call(stream);
  function_.clear();
  stream.end_arguments();
}

Found XmlCalls::read_between(CallStream& stream) {
  const size_t at = skip_blanks(stream.text(), 0);
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
