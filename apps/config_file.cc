// See the header.
#include "config_file.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>

#include "base/files.h"
#include "base/json.h"

namespace weft {

namespace {

// What a file holds goes on as JSON and as options, so its bytes must be text. Zeros would make yaml-cpp take them for
// UTF-16 or UTF-32.
Result<std::string> read_text(const std::string& path) {
  WEFT_TRY(std::string text, read_file(path, FileLimit::options));
  const auto replaced = parse_json(json_quote(text));
  if (!replaced.ok() || replaced->as_string() != text || text.find('\0') != std::string::npos)
    return fail(Code::invalid_argument, path, " is not UTF-8");
  return text;
}

// Aliases let a short file stand for any number of values.
constexpr int kMaxValues = 100'000;

// YAML scalars in JSON: numbers and truth values as such, unless quoted. `values`: how many there were so far.
Json to_json(const YAML::Node& node, int& values) {
  if (++values > kMaxValues) throw YAML::Exception(node.Mark(), "more than " + std::to_string(kMaxValues) + " values");
  if (node.IsSequence()) {
    Json::Array items;
    for (const YAML::Node& item : node) items.push_back(to_json(item, values));
    return Json(std::move(items));
  }
  if (node.IsMap()) {
    Json object = Json::object();
    for (const auto& member : node) object.set(member.first.as<std::string>(), to_json(member.second, values));
    return object;
  }
  if (node.IsNull()) return Json();
  const std::string text = node.Scalar();
  if (node.Tag() == "!") return Json(text);
  if (bool flag = false; YAML::convert<bool>::decode(node, flag)) return Json(flag);
  if (const auto parsed = parse_json(text); parsed.ok() && parsed->is_number()) return *parsed;
  return Json(text);
}

std::string to_text(const YAML::Node& node) {
  int values = 0;
  if (node.IsMap()) return to_json(node, values).dump();
  return node.Scalar();
}

Result<ConfigEntry> read_entry(const std::string& path, const YAML::Node& key, const YAML::Node& value) {
  ConfigEntry entry;
  entry.line = key.Mark().line + 1;
  if (!key.IsScalar() || key.Scalar().empty())
    return fail(Code::invalid_argument, path, " line ", entry.line, ": the key is no name");
  entry.option = key.Scalar();
  std::replace(entry.option.begin(), entry.option.end(), '_', '-');
  if (value.IsSequence()) {
    for (const YAML::Node& item : value) entry.values.push_back(to_text(item));
  } else if (!value.IsNull()) {
    entry.values.push_back(to_text(value));
  }
  return entry;
}

}  // namespace

Result<Json> read_yaml_file(const std::string& path) {
  WEFT_TRY(const std::string text, read_text(path));
  try {
    int values = 0;
    return to_json(YAML::Load(text), values);
  } catch (const YAML::Exception& problem) {
    return fail(Code::invalid_argument, path, " line ", problem.mark.line + 1, " is not valid YAML: ", problem.msg);
  }
}

Result<std::vector<ConfigEntry>> read_config_file(const std::string& path) {
  WEFT_TRY(const std::string text, read_text(path));
  std::vector<ConfigEntry> entries;
  try {
    const YAML::Node root = YAML::Load(text);
    if (root.IsNull()) return entries;
    if (!root.IsMap()) return fail(Code::invalid_argument, path, " must hold lines of \"name: value\"");
    for (const auto& member : root) {
      WEFT_TRY(ConfigEntry entry, read_entry(path, member.first, member.second));
      entries.push_back(std::move(entry));
    }
  } catch (const YAML::Exception& problem) {
    return fail(Code::invalid_argument, path, " line ", problem.mark.line + 1, " is not valid YAML: ", problem.msg);
  }
  return entries;
}

}  // namespace weft
