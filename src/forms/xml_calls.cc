// See the header.
#include "forms/xml_calls.h"

#include <algorithm>

#include "forms/held_text.h"

namespace weft {

namespace {
constexpr std::string_view kFunction = "<function=", kFunctionEnd = "</function>";
constexpr std::string_view kParameter = "<parameter=", kParameterEnd = "</parameter>";
}  // namespace

Found XmlCalls::read_head(CallStream& stream) {
  const std::string& text = stream.text();
  const size_t at = skip_blanks(text, 0);
  if (at == text.size()) return Found::more;
  if (behind_tag_) return read_name(stream, at);
  if (begins(text, at, kFunction)) return read_name(stream, at + kFunction.size());
  return may_begin(text, at, kFunction) ? Found::more : JsonCalls::read_head(stream);
}

Found XmlCalls::read_name(CallStream& stream, size_t at) {
  const size_t end = stream.text().find('>', at);
  if (end == std::string::npos) return name_goes_on(stream, at);
  const std::string name = stream.text().substr(at, end - at);
  if (!stream.declared(name)) return Found::no;
  function_ = name;
  return begin_call(stream, name, end + 1, in_list());
}

Found XmlCalls::read_arguments(CallStream& stream) {
  return function_.empty() ? JsonCalls::read_arguments(stream) : read_parameter(stream);
}

// One of <parameter=KEY>VALUE</parameter>, or </function>.
Found XmlCalls::read_parameter(CallStream& stream) {
  const std::string& text = stream.text();
  const size_t at = skip_blanks(text, 0);
  if (at == text.size() || may_begin(text, at, kParameter) || may_begin(text, at, kFunctionEnd)) return Found::more;
  if (begins(text, at, kFunctionEnd)) {
    function_.clear();
    stream.end_arguments();
    return go_on(stream, at + kFunctionEnd.size(), State::between);
  }
  if (!begins(text, at, kParameter)) return Found::no;
  const size_t key = at + kParameter.size(), key_end = text.find('>', key);
  if (key_end == std::string::npos) return Found::more;
  const size_t close = text.find(kParameterEnd, key_end);
  if (close == std::string::npos) return Found::more;
  const std::string name = text.substr(key, key_end - key);
  const Json* schema = stream.parameters(function_);
  if (schema) schema = schema->find("properties");
  if (schema) schema = schema->find(name);
  stream.add_argument(name, xml_value(std::string_view(text).substr(key_end + 1, close - key_end - 1), schema));
  return go_on(stream, close + kParameterEnd.size(), State::arguments);
}

bool XmlCalls::call_follows(std::string_view text, size_t at) const {
  return JsonCalls::call_follows(text, at) || (!behind_tag_ && begins(text, at, kFunction));
}

std::string xml_value(std::string_view text, const Json* schema) {
  if (text.starts_with('\n')) text.remove_prefix(1);
  if (text.ends_with('\n')) text.remove_suffix(1);
  const Json* type = schema ? schema->find("type") : nullptr;
  const bool is_string = type && type->is_string() && type->as_string() == "string";
  if (!is_string) {
    const std::string_view trimmed = text.substr(std::min(skip_blanks(text, 0), text.size()));
    if (const auto value = parse_json(trimmed); value.ok() && !(value->is_string() && !type)) return value->dump();
    if (type && type->is_string() && type->as_string() == "boolean" && (text == "True" || text == "False"))
      return text == "True" ? "true" : "false";
  }
  return json_quote(text);
}

}  // namespace weft
