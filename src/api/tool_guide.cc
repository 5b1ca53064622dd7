// Constraints for tool calls. A forced call is held to a JSON schema made from the tools' own schemas, so its arguments
// always parse, whatever the model's form for calls is. Where the model decides itself, `strict` functions become a
// structural tag: free text, in which a call in the model's own form, once begun, names a declared function and gives
// it arguments that match.
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

Result<GuideSpec> strict_call_guide(const std::vector<const Json*>& functions, const ToolForm& form) {
  WEFT_TRY(Json format, form.strict_calls(functions));
  GuideSpec guide;
  guide.kind = GuideSpec::Kind::structural_tag;
  guide.text = Json::object({{"type", "structural_tag"}, {"format", std::move(format)}}).dump();
  return guide;
}

}  // namespace weft::request_fields
