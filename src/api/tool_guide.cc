// Constraints for tool calls. A forced call is held to a JSON schema made from the tools' own schemas, so its arguments
// always parse, whatever the model's form for calls is. Where the model decides itself, `strict` functions become a
// structural tag: free text, in which a call in the model's own form, once begun, names a declared function and gives
// it arguments that match.
#include <algorithm>

#include "api/request_fields.h"

namespace weft::request_fields {

namespace {

constexpr size_t kMaxDefinitions = 1000;

// The schema of a function's arguments. Its definitions move to `root`, since "#/$defs/..." is read from there.
Result<Json> arguments_schema(const Json& function, Json& root) {
  const Json* parameters = function.find("parameters");
  if (!parameters || parameters->is_null()) return Json::object({{"type", "object"}});
  Json schema = Json::object();
  for (const Json::Member& member : parameters->members()) {
    const bool definitions = (member.first == "$defs" || member.first == "definitions") && member.second.is_object();
    if (!definitions) {
      schema.members().push_back(member);
      continue;
    }
    Json all = root.find(member.first) ? *root.find(member.first) : Json::object();
    if (all.members().size() + member.second.members().size() > kMaxDefinitions)
      return fail(Code::invalid_argument, "the tools' schemas may hold at most ", kMaxDefinitions, " definitions")
          .about("tools");
    for (const Json::Member& definition : member.second.members()) {
      const Json* other = all.find(definition.first);
      if (other && !(*other == definition.second))
        return fail(Code::unsupported, "two tools define ", definition.first, " differently in ", member.first)
            .about("tools");
      all.set(definition.first, definition.second);
    }
    root.set(member.first, std::move(all));
  }
  return schema;
}

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

// A tag for each function: `before` NAME `between` arguments `end`.
Json call_tags(const std::vector<const Json*>& functions, const std::string& before, const std::string& between,
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

// {"name": "NAME", `key`: ...}
Json object_tags(const std::vector<const Json*>& functions, const std::string& key, const std::string& open = {},
                 const std::string& close = {}) {
  return call_tags(functions, open + "{\"name\": \"", "\", \"" + key + "\": ", "}" + close);
}

Json call_format(ToolFormat format, const std::vector<const Json*>& functions) {
  switch (format) {
    case ToolFormat::hermes:
      return triggered(Json::array({"<tool_call>"}),
                       object_tags(functions, "arguments", "<tool_call>\n", "\n</tool_call>"));
    case ToolFormat::nemotron: {  // the list, and the form of Nemotron Mini
      Json tags = object_tags(functions, "arguments", "<toolcall> ", " </toolcall>");
      tags.push_back(tag("<TOOLCALL>[", separated(object_tags(functions, "arguments"), ", "), "]</TOOLCALL>"));
      return triggered(Json::array({"<TOOLCALL>", "<toolcall>"}), std::move(tags));
    }
    case ToolFormat::mistral: {  // the older list, and the newer form in which each call has its mark
      Json tags = call_tags(functions, "[TOOL_CALLS]", "[ARGS]", "");
      tags.push_back(tag("[TOOL_CALLS][", separated(object_tags(functions, "arguments"), ", "), "]"));
      tags.push_back(tag("[TOOL_CALLS] [", separated(object_tags(functions, "arguments"), ", "), "]"));
      return triggered(Json::array({"[TOOL_CALLS]"}), std::move(tags));
    }
    case ToolFormat::deepseek: {  // of V3 and R1, and of V3.1
      Json older = call_tags(functions, "<｜tool▁call▁begin｜>function<｜tool▁sep｜>", "\n```json\n",
                             "\n```<｜tool▁call▁end｜>");
      Json newer = call_tags(functions, "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>");
      return triggered(
          Json::array({"<｜tool▁calls▁begin｜>"}),
          Json::array({tag("<｜tool▁calls▁begin｜>", separated(std::move(older), "\n"), "<｜tool▁calls▁end｜>"),
                       tag("<｜tool▁calls▁begin｜>", separated(std::move(newer), ""), "<｜tool▁calls▁end｜>")}));
    }
    default: {  // the answer is calls, or text that does not look like one
      Json text = Json::object({{"type", "regex"}, {"pattern", "([^{\\[\\s][\\s\\S]*)?"}});
      return Json::object(
          {{"type", "or"}, {"elements", Json::array({separated(object_tags(functions, "parameters"), "; "), text})}});
    }
  }
}

}  // namespace

Result<GuideSpec> forced_call_guide(const std::vector<const Json*>& functions, bool named, bool parallel_calls) {
  Json root = Json::object();
  if (named) {
    WEFT_TRY(Json schema, arguments_schema(*functions.front(), root));
    for (Json::Member& member : schema.members()) root.members().push_back(std::move(member));
  } else {
    Json options = Json::array();
    for (const Json* function : functions) {
      WEFT_TRY(Json schema, arguments_schema(*function, root));
      options.push_back(
          Json::object({{"type", "object"},
                        {"properties", Json::object({{"name", Json::object({{"const", *function->find("name")}})},
                                                     {"arguments", std::move(schema)}})},
                        {"required", Json::array({"name", "arguments"})},
                        {"additionalProperties", false}}));
    }
    root.set("type", "array");
    root.set("minItems", 1);
    if (!parallel_calls) root.set("maxItems", 1);
    root.set("items", Json::object({{"anyOf", std::move(options)}}));
  }
  GuideSpec guide;
  guide.kind = GuideSpec::Kind::json_schema;
  guide.text = root.dump();
  return guide;
}

Result<GuideSpec> strict_call_guide(const std::vector<const Json*>& functions, ToolFormat format) {
  if (format == ToolFormat::xml)
    return fail(Code::unsupported,
                "a strict function needs tool_choice \"required\" or its name: this model writes calls as XML, which "
                "no schema describes")
        .about("tools");
  GuideSpec guide;
  guide.kind = GuideSpec::Kind::structural_tag;
  guide.text = Json::object({{"type", "structural_tag"}, {"format", call_format(format, functions)}}).dump();
  return guide;
}

}  // namespace weft::request_fields
