// See the header.
#include "api/request_fields.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace weft::request_fields {

std::string shown(const Json& value) {
  constexpr size_t kLimit = 60;
  if (value.is_string() && value.as_string().size() > kLimit)
    return json_quote(value.as_string().substr(0, kLimit)) + "...";
  if (value.is_array()) return value.items().empty() ? "[]" : "a list of " + std::to_string(value.items().size());
  if (value.is_object()) return value.members().empty() ? "{}" : "an object";
  const std::string text = value.dump();
  return text.size() > kLimit ? text.substr(0, kLimit) + "..." : text;
}

Error wrong(const std::string& field, std::string_view must_be, const Json& got) {
  return fail(Code::invalid_argument, field, " must be ", must_be, ", got ", shown(got)).about(field);
}

Result<bool> read_bool(const std::string& field, const Json& value) {
  if (!value.is_bool()) return wrong(field, "true or false", value);
  return value.as_bool();
}

Result<int64_t> read_integer(const std::string& field, const Json& value) {
  if (value.is_integer()) return value.as_integer();
  if (!value.is_number()) return wrong(field, "an integer", value);
  const double number = value.as_number();
  if (number != std::floor(number)) return wrong(field, "an integer", value);
  if (std::abs(number) >= 9007199254740992.0) return wrong(field, "an integer of 64 bits", value);
  return static_cast<int64_t>(number);
}

Result<int> read_int(const std::string& field, const Json& value) {
  WEFT_TRY(const int64_t number, read_integer(field, value));
  if (number < std::numeric_limits<int>::min() || number > std::numeric_limits<int>::max())
    return wrong(field, "an integer of 32 bits", value);
  return static_cast<int>(number);
}

Result<float> read_float(const std::string& field, const Json& value) {
  if (!value.is_number()) return wrong(field, "a number", value);
  const double number = value.as_number();
  if (std::abs(number) > static_cast<double>(std::numeric_limits<float>::max()))
    return wrong(field, "a number that fits a float", value);
  const float narrow = static_cast<float>(number);
  if (narrow == 0.0f && number > 0.0) return std::numeric_limits<float>::min();  // 1e-300 is above zero, and stays so
  return narrow;
}

Result<std::string> read_string(const std::string& field, const Json& value) {
  if (!value.is_string()) return wrong(field, "a string", value);
  return value.as_string();
}

Result<std::vector<std::string>> read_strings(const std::string& field, const Json& value) {
  if (!value.is_array()) return wrong(field, "a list of strings", value);
  std::vector<std::string> strings;
  for (const Json& item : value.items()) {
    if (!item.is_string()) return wrong(field, "a list of strings", item);
    strings.push_back(item.as_string());
  }
  return strings;
}

Result<std::vector<int32_t>> read_token_ids(const std::string& field, const Json& value) {
  if (!value.is_array()) return wrong(field, "a list of token ids", value);
  std::vector<int32_t> ids;
  ids.reserve(value.items().size());
  for (const Json& item : value.items()) {
    if (!item.is_integer()) return wrong(field, "a list of token ids", item);
    const int64_t id = item.as_integer();
    if (id < 0 || id > std::numeric_limits<int32_t>::max())
      return fail(Code::invalid_argument, field, " holds ", id, ", which is no token id").about(field);
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

Result<std::vector<int32_t>> read_id_set(const std::string& field, const Json& value) {
  WEFT_TRY(std::vector<int32_t> ids, read_token_ids(field, value));
  std::vector<std::pair<int32_t, size_t>> order;  // and where it stands
  order.reserve(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) order.emplace_back(ids[i], i);
  std::sort(order.begin(), order.end());
  std::vector<bool> repeated(ids.size());
  for (size_t i = 1; i < order.size(); ++i) repeated[order[i].second] = order[i].first == order[i - 1].first;
  std::vector<int32_t> kept;
  for (size_t i = 0; i < ids.size(); ++i)
    if (!repeated[i]) kept.push_back(ids[i]);
  return kept;
}

Status read_adapter(const std::string& model, const RequestRules& rules, Request& request) {
  if (model.empty() || !rules.is_adapter || !rules.is_adapter(model)) return {};
  if (!request.lora.empty() && request.lora != model)
    return fail(Code::invalid_argument, "model and lora name two adapters, ", model, " and ", request.lora)
        .about("lora");
  request.lora = model;
  return {};
}

}  // namespace weft::request_fields
