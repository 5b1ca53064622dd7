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
  std::vector<Json> named;
  for (const Json* function : functions) {
    Json& copy = named.emplace_back(*function);
    const std::string quoted = function->find("name")->dump();
    copy.set("name", quoted.substr(1, quoted.size() - 2));
  }
  ToolFunctions quoted;
  for (const Json& function : named) quoted.push_back(&function);
  return call_tags(quoted, open + "{\"name\": \"", "\", \"" + key + "\": ", "}" + close);
}

Json calls_alone(const Json& format) {
  // Free text beside the calls, or as another choice (whole_answer), is left out.
  if (const Json* elements = format.find("elements")) return elements->items().front();
  return separated(*format.find("tags"), "\n");
}

Result<Json> whole_answer(const ToolFunctions& functions) {
  Json text = Json::object({{"type", "regex"}, {"pattern", "([^{\\[\\s][\\s\\S]*)?"}});
  return Json::object(
      {{"type", "or"},
       {"elements", Json::array({separated(object_tags(functions, "parameters"), "; "), std::move(text)})}});
}

}  // namespace weft::strict_calls
