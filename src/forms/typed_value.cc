// See the header.
#include "forms/typed_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <vector>

#include "forms/held_text.h"
#include "forms/python_literal.h"

namespace weft {

namespace {

constexpr int kMaxDepth = 32;    // of references and combinations
constexpr int kMaxSteps = 4096;  // schemas that are looked at for one value: combinations that refer to themselves
                                 // would be 2^kMaxDepth

// A step of a JSON pointer as a name: %XX, ~1 and ~0 are undone.
std::string pointer_step(std::string_view step) {
  std::string name;
  for (size_t i = 0; i < step.size(); ++i) {
    unsigned code = 0;
    if (step[i] == '%' && i + 2 < step.size() &&
        std::from_chars(step.data() + i + 1, step.data() + i + 3, code, 16).ptr == step.data() + i + 3) {
      name += static_cast<char>(code);
      i += 2;
    } else {
      name += step[i];
    }
  }
  for (size_t at = 0; (at = name.find('~', at)) != std::string::npos; ++at)
    if (at + 1 < name.size() && (name[at + 1] == '0' || name[at + 1] == '1'))
      name.replace(at, 2, name[at + 1] == '0' ? "~" : "/");
  return name;
}

// What a reference such as #/$defs/Zip points at; null if it points out of `root` or at nothing.
const Json* pointed_at(std::string_view reference, const Json& root) {
  if (!reference.starts_with('#')) return nullptr;
  const Json* at = &root;
  for (reference.remove_prefix(1); at && reference.starts_with('/');) {
    reference.remove_prefix(1);
    const size_t size = std::min(reference.find('/'), reference.size());
    const std::string name = pointer_step(reference.substr(0, size));
    reference.remove_prefix(size);
    if (at->is_array()) {
      size_t index = 0;
      const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), index);
      const bool found = error == std::errc() && end == name.data() + name.size() && index < at->items().size();
      at = found ? &at->items()[index] : nullptr;
    } else {
      at = at->find(name);
    }
  }
  return reference.empty() ? at : nullptr;
}

const Json* reference_of(const Json& schema, const Json& root) {
  const Json* reference = schema.find("$ref");
  return reference && reference->is_string() ? pointed_at(reference->as_string(), root) : nullptr;
}

// JSON schema's names, and those of other languages that people write.
bool is_named(const Json& value, std::string_view type) {
  if (type == "string" || type == "str") return value.is_string();
  if (type == "integer" || type == "int") {
    const std::string* text = value.number_text();
    return value.is_integer() || (text && text->find_first_of(".eE") == std::string::npos);
  }
  if (type == "number" || type == "float") return value.is_number();
  if (type == "boolean" || type == "bool") return value.is_bool();
  if (type == "array" || type == "list") return value.is_array();
  if (type == "object" || type == "dict") return value.is_object();
  return type == "null" ? value.is_null() : true;
}

bool has_type(const Json& value, const Json& type) {
  if (type.is_string()) return is_named(value, type.as_string());
  return !type.is_array() || std::ranges::any_of(type.items(), [&](const Json& one) {
    return one.is_string() && is_named(value, one.as_string());
  });
}

// Whether the schema allows a value of that kind: types, enumerations and combinations count, limits do not.
bool allowed(const Json& value, const Json& schema, const Json& root, int& steps, int depth = 0) {
  if (schema.is_bool()) return schema.as_bool();
  if (!schema.is_object() || depth > kMaxDepth || ++steps > kMaxSteps) return true;
  const auto branch = [&](const Json& one) { return allowed(value, one, root, steps, depth + 1); };
  const auto list = [&](const char* key) -> const Json::Array* {
    const Json* found = schema.find(key);
    return found && found->is_array() ? &found->items() : nullptr;
  };
  if (const Json* nullable = schema.find("nullable"); nullable && *nullable == Json(true) && value.is_null())
    return true;
  if (const Json* target = reference_of(schema, root); target && !branch(*target)) return false;
  if (const Json* type = schema.find("type"); type && !has_type(value, *type)) return false;
  if (const Json* constant = schema.find("const"); constant && !(value == *constant)) return false;
  if (const auto* values = list("enum"); values && std::ranges::find(*values, value) == values->end()) return false;
  if (const auto* all = list("allOf"); all && !std::ranges::all_of(*all, branch)) return false;
  for (const char* key : {"anyOf", "oneOf"})
    if (const auto* any = list(key); any && !std::ranges::any_of(*any, branch)) return false;
  return true;
}

const Json* parameter_in(const Json& schema, const Json& root, std::string_view name, int& steps, int depth) {
  if (depth > kMaxDepth || ++steps > kMaxSteps) return nullptr;
  if (const Json* properties = schema.find("properties"))
    if (const Json* found = properties->find(name)) return found;
  if (const Json* target = reference_of(schema, root))
    if (const Json* found = parameter_in(*target, root, name, steps, depth + 1)) return found;
  for (const char* key : {"allOf", "anyOf", "oneOf"})
    if (const Json* branches = schema.find(key); branches && branches->is_array())
      for (const Json& one : branches->items())
        if (const Json* found = parameter_in(one, root, name, steps, depth + 1)) return found;
  return schema.find("additionalProperties");
}

std::optional<Json> parsed_json(std::string_view text) {
  auto parsed = parse_json(text);
  return parsed.ok() ? std::optional<Json>(*std::move(parsed)) : std::nullopt;
}

std::optional<Json> parsed_python(std::string_view text) {
  const std::string closed = std::string(text) + ")";  // so that a number or a string has an end
  std::string json;
  size_t at = 0;
  if (read_python(closed, at, json) != Found::yes || skip_blanks(closed, at) != text.size()) return std::nullopt;
  return parsed_json(json);
}

// true, false and null in any case, as the reference parser of Qwen 3 Coder reads them.
std::optional<Json> parsed_word(std::string_view text) {
  std::string word(text);
  std::ranges::transform(word, word.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c; });
  if (word == "true" || word == "false") return Json(word == "true");
  return word == "null" ? std::optional<Json>(nullptr) : std::nullopt;
}

// An integer written as 140.0 or 007.
std::optional<Json> parsed_integer(std::string_view text) {
  static constexpr double kExact = 9007199254740992.0;
  const size_t sign = text.starts_with('-') ? 1 : 0;
  const size_t digits = std::min(text.find_first_not_of('0', sign), text.size());
  if (digits > sign && text.find_first_not_of("0123456789", sign) == std::string_view::npos)
    return parsed_json(digits == text.size() ? "0" : std::string(text.substr(0, sign)).append(text.substr(digits)));
  const auto number = parsed_json(text);
  if (!number || !number->is_number()) return std::nullopt;
  const double value = number->as_number();
  if (value != std::floor(value) || std::abs(value) > kExact) return std::nullopt;
  return Json(static_cast<int64_t>(value));
}

}  // namespace

const Json* parameter_schema(const Json& parameters, std::string_view name) {
  int steps = 0;
  return parameter_in(parameters, parameters, name, steps, 0);
}

std::string typed_value(std::string_view text, const Json* schema, const Json& parameters) {
  std::string_view trimmed = text.substr(skip_blanks(text, 0));
  trimmed = trimmed.substr(0, end_without_blanks(trimmed));
  const auto json = parsed_json(trimmed), python = parsed_python(trimmed);
  const bool json_string = json && json->is_string();
  const bool python_scalar = python && (python->is_string() || python->is_number());
  const auto raw = std::optional<Json>(std::string(text));
  const auto fits = [&](const Json& value) {
    int steps = 0;
    return !schema || allowed(value, *schema, parameters, steps);
  };
  const auto none = std::optional<Json>();
  for (const auto& value : {json_string ? none : json, schema ? parsed_word(trimmed) : none,
                            python_scalar ? none : python, raw, python, parsed_integer(trimmed), json})
    if (value && fits(*value)) return value->dump();
  return json ? json->dump() : raw->dump();
}

}  // namespace weft
