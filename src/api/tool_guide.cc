// Constraints for tool calls. A forced call is held to a JSON schema made from the tools' own schemas, so its arguments
// always parse, whatever the model's form for calls is. Where the model decides itself, `strict` functions become a
// structural tag: free text, in which a call in the model's own form, once begun, names a declared function and gives
// it arguments that match.
#include "api/request_fields.h"
#include "forms/strict_calls.h"

namespace weft::request_fields {

namespace {

bool holds_data(const std::string& keyword) {
  return keyword == "const" || keyword == "enum" || keyword == "default" || keyword == "examples";
}

// References into the schema's own document ("#", "#/$defs/x", ...) then begin at `place`. `names`: the members of
// `schema` are names of properties or definitions, not keywords.
void move_references(Json& schema, const std::string& place, bool names = false) {
  if (schema.is_array())
    for (Json& item : schema.items()) move_references(item, place);
  if (!schema.is_object()) return;
  if (!names && schema.find("$id")) return;  // a document of its own
  for (auto& [key, value] : schema.members()) {
    if (!names && key == "$ref" && value.is_string()) {
      const std::string& target = value.as_string();
      if (target == "#" || target.starts_with("#/")) value = Json(place + target.substr(1));
      continue;
    }
    if (!names && holds_data(key)) continue;
    const bool map = !names && (key == "properties" || key == "patternProperties" || key == "$defs" ||
                                key == "definitions" || key == "dependentSchemas");
    move_references(value, place, map);
  }
}

// The schema of a function's arguments.
Json arguments_schema(const Json& function) {
  const Json* parameters = function.find("parameters");
  return parameters && !parameters->is_null() ? *parameters : Json::object({{"type", "object"}});
}

}  // namespace

Result<GuideSpec> forced_call_guide(const std::vector<const Json*>& functions, bool named, bool parallel_calls) {
  Json root = arguments_schema(*functions.front());
  if (!named) {
    // Every function's schema is a definition of the whole, with its own definitions inside: names may repeat.
    root = Json::object();
    Json options = Json::array(), definitions = Json::object();
    for (size_t i = 0; i < functions.size(); ++i) {
      const std::string name = "arguments" + std::to_string(i), place = "#/$defs/" + name;
      Json schema = arguments_schema(*functions[i]);
      move_references(schema, place);
      definitions.members().emplace_back(name, std::move(schema));
      options.push_back(
          Json::object({{"type", "object"},
                        {"properties", Json::object({{"name", Json::object({{"const", *functions[i]->find("name")}})},
                                                     {"arguments", Json::object({{"$ref", place}})}})},
                        {"required", Json::array({"name", "arguments"})},
                        {"additionalProperties", false}}));
    }
    root.set("type", "array");
    root.set("minItems", 1);
    if (!parallel_calls) root.set("maxItems", 1);
    root.set("items", Json::object({{"anyOf", std::move(options)}}));
    root.set("$defs", std::move(definitions));
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

Result<GuideSpec> call_or_answer_guide(const std::vector<const Json*>& functions, const ToolForm& form,
                                       const GuideSpec& answer) {
  WEFT_TRY(const Json format, form.strict_calls(functions));
  const std::string schema = answer.kind == GuideSpec::Kind::json_object ? R"({"type":"object"})" : answer.text;
  GuideSpec guide;
  guide.kind = GuideSpec::Kind::structural_tag;
  guide.text = R"({"type":"structural_tag","format":{"type":"or","elements":[)" +
               strict_calls::calls_alone(format).dump() + R"(,{"type":"json_schema","json_schema":)" + schema + "}]}}";
  return guide;
}

}  // namespace weft::request_fields
