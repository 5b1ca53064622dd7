// See the header.
#include "forms/strict_calls.h"

#include <utility>

namespace weft::strict_calls {

Json tag(std::string begin, Json content, std::string end) {
  return Json::object(
      {{"type", "tag"}, {"begin", std::move(begin)}, {"content", std::move(content)}, {"end", std::move(end)}});
}

Json separated(Json tags, const char* separator) {
  return Json::object(
      {{"type", "tags_with_separator"}, {"tags", std::move(tags)}, {"separator", separator}, {"at_least_one", true}});
}

Json triggered(Json triggers, Json tags) {
  return Json::object({{"type", "triggered_tags"}, {"triggers", std::move(triggers)}, {"tags", std::move(tags)}});
}

Json call_tags(const ToolFunctions& functions, const std::string& before, const std::string& between,
               const std::string& end) {
  Json tags = Json::array();
  for (const Json* function : functions) {
    const Json* strict = function->find("strict");
    const Json* parameters = function->find("parameters");
    const bool checked = strict && strict->is_bool() && strict->as_bool() && parameters && parameters->is_object();
    Json content = Json::object(
        {{"type", "json_schema"}, {"json_schema", checked ? *parameters : Json::object({{"type", "object"}})}});
    tags.push_back(tag(before + function->find("name")->as_string() + between, std::move(content), end));
  }
  return tags;
}

Json object_tags(const ToolFunctions& functions, const std::string& key, const std::string& open,
                 const std::string& close) {
  return call_tags(functions, open + "{\"name\": \"", "\", \"" + key + "\": ", "}" + close);
}

Result<Json> whole_answer(const ToolFunctions& functions) {
  Json text = Json::object({{"type", "regex"}, {"pattern", "([^{\\[\\s][\\s\\S]*)?"}});
  return Json::object(
      {{"type", "or"},
       {"elements", Json::array({separated(object_tags(functions, "parameters"), "; "), std::move(text)})}});
}

}  // namespace weft::strict_calls
