// The constraint on an answer's text. Clients spell it in many ways (OpenAI's response_format, vLLM's guided_* and
// structured_outputs, SGLang's regex / ebnf / json_schema, llama.cpp's grammar); all of them end in one GuideSpec.
#include <array>

#include "api/request_fields.h"

namespace weft::request_fields {

namespace {

using Kind = GuideSpec::Kind;

// A top-level field that is a constraint by itself, and what its value is.
struct GuideField {
  const char* name;
  Kind kind;
};
constexpr std::array kGuideFields = {
    GuideField{"guided_json", Kind::json_schema},
    GuideField{"guided_regex", Kind::regex},
    GuideField{"guided_choice", Kind::choice},
    GuideField{"guided_grammar", Kind::grammar},
    GuideField{"guided_json_object", Kind::json_object},
    GuideField{"json_schema", Kind::json_schema},
    GuideField{"regex", Kind::regex},
    GuideField{"ebnf", Kind::grammar},
    GuideField{"grammar", Kind::grammar},
    GuideField{"choice", Kind::choice},
    GuideField{"structural_tag", Kind::structural_tag},
};
constexpr std::array kStructuredOutputs = {
    GuideField{"json", Kind::json_schema},        GuideField{"regex", Kind::regex},
    GuideField{"choice", Kind::choice},           GuideField{"grammar", Kind::grammar},
    GuideField{"json_object", Kind::json_object}, GuideField{"structural_tag", Kind::structural_tag},
};

GuideSpec of(Kind kind, std::string text = {}) {
  GuideSpec guide;
  guide.kind = kind;
  guide.text = std::move(text);
  return guide;
}

// A schema: an object, true or false, or any of them as JSON text.
Result<GuideSpec> read_schema(const std::string& field, const Json& value, Kind kind) {
  if (value.is_object() || (value.is_bool() && kind == Kind::json_schema)) return of(kind, value.dump());
  if (!value.is_string()) return wrong(field, "an object or its JSON text", value);
  auto parsed = parse_json(value.as_string());
  if (!parsed.ok())
    return fail(Code::invalid_argument, field, " holds text that is ", parsed.error().message()).about(field);
  if (!parsed->is_object() && !(parsed->is_bool() && kind == Kind::json_schema))
    return wrong(field, "an object or its JSON text", *parsed);
  return of(kind, parsed->dump());
}

Result<GuideSpec> read_choices(const std::string& field, const Json& value) {
  WEFT_TRY(std::vector<std::string> choices, read_strings(field, value));
  if (choices.empty()) return wrong(field, "a list of at least one string", value);
  for (const std::string& choice : choices)
    if (choice.empty()) return fail(Code::invalid_argument, field, " holds an empty string").about(field);
  GuideSpec guide = of(Kind::choice);
  guide.choices = std::move(choices);
  return guide;
}

Result<GuideSpec> read_as(const std::string& field, const Json& value, Kind kind) {
  switch (kind) {
    case Kind::json_schema:
    case Kind::structural_tag: return read_schema(field, value, kind);
    case Kind::choice: return read_choices(field, value);
    case Kind::json_object: {
      WEFT_TRY(const bool on, read_bool(field, value));
      return of(on ? Kind::json_object : Kind::none);
    }
    default: {
      WEFT_TRY(std::string text, read_string(field, value));
      if (text.empty()) return fail(Code::invalid_argument, field, " is empty").about(field);
      return of(kind, std::move(text));
    }
  }
}

// The first of `names` that `format` has, read as `kind`.
Result<GuideSpec> read_member(const Json& format, std::initializer_list<const char*> names, Kind kind) {
  for (const char* member : names)
    if (const Json* value = format.find(member); value && !value->is_null())
      return read_as(std::string("response_format.") + member, *value, kind);
  return fail(Code::invalid_argument, "response_format of type ", format.find("type")->as_string(),
              " needs the member \"", *names.begin(), "\"")
      .about(std::string("response_format.") + *names.begin());
}

Result<GuideSpec> read_response_format(const Json& format) {
  const std::string field = "response_format";
  if (!format.is_object()) return wrong(field, "an object with a \"type\"", format);
  const Json* type = format.find("type");
  if (!type || !type->is_string())
    return fail(Code::invalid_argument, "response_format.type must be a string").about("response_format.type");
  const std::string& kind = type->as_string();
  if (kind == "text") return of(Kind::none);
  if (kind == "json_object") {
    if (const Json* schema = format.find("schema"); schema && !schema->is_null())
      return read_as("response_format.schema", *schema, Kind::json_schema);
    return of(Kind::json_object);
  }
  if (kind == "json_schema") {
    const Json* wrapper = format.find("json_schema");
    if (!wrapper || wrapper->is_null()) return read_member(format, {"schema"}, Kind::json_schema);
    if (!wrapper->is_object()) return wrong("response_format.json_schema", "an object", *wrapper);
    const Json* schema = wrapper->find("schema");
    if (!schema || schema->is_null())
      return fail(Code::invalid_argument, "response_format.json_schema.schema is missing")
          .about("response_format.json_schema.schema");
    return read_as("response_format.json_schema.schema", *schema, Kind::json_schema);
  }
  if (kind == "json") return read_member(format, {"schema", "json"}, Kind::json_schema);
  if (kind == "regex") return read_member(format, {"regex", "pattern"}, Kind::regex);
  if (kind == "ebnf" || kind == "grammar") return read_member(format, {"ebnf", "grammar"}, Kind::grammar);
  if (kind == "choice") return read_member(format, {"choice", "choices"}, Kind::choice);
  if (kind == "structural_tag") return of(Kind::structural_tag, format.dump());
  return fail(Code::invalid_argument,
              "response_format.type must be text, json_object, json_schema, regex, ebnf, grammar, choice or "
              "structural_tag, got ",
              shown(*type))
      .about("response_format.type");
}

// Keeps `next` as the request's guide; an error if there is one already.
Status take(const std::string& field, GuideSpec next, GuideSpec& guide, std::string& from) {
  if (next.kind == Kind::none) return {};
  if (guide.kind != Kind::none)
    return fail(Code::invalid_argument, field, " and ", from, " both constrain the answer; send one of them")
        .about(field);
  guide = std::move(next);
  from = field;
  return {};
}

}  // namespace

bool is_guide_field(std::string_view name) {
  if (name == "response_format" || name == "structured_outputs") return true;
  for (const GuideField& field : kGuideFields)
    if (name == field.name) return true;
  return false;
}

std::vector<std::string> guide_fields() {
  std::vector<std::string> names = {"response_format", "structured_outputs"};
  for (const GuideField& field : kGuideFields) names.emplace_back(field.name);
  return names;
}

Result<GuideSpec> read_guide(const Json& body) {
  GuideSpec guide;
  std::string from;
  const auto present = [&](const Json& object, const char* name) {
    const Json* value = object.find(name);
    return value && !value->is_null() ? value : nullptr;
  };
  if (const Json* format = present(body, "response_format")) {
    WEFT_TRY(GuideSpec next, read_response_format(*format));
    WEFT_RETURN_IF_ERROR(take("response_format", std::move(next), guide, from));
  }
  if (const Json* outputs = present(body, "structured_outputs")) {
    if (!outputs->is_object()) return wrong("structured_outputs", "an object", *outputs);
    for (const GuideField& field : kStructuredOutputs) {
      const Json* value = present(*outputs, field.name);
      if (!value) continue;
      const std::string name = std::string("structured_outputs.") + field.name;
      WEFT_TRY(GuideSpec next, read_as(name, *value, field.kind));
      WEFT_RETURN_IF_ERROR(take(name, std::move(next), guide, from));
    }
  }
  for (const GuideField& field : kGuideFields) {
    const Json* value = present(body, field.name);
    if (!value) continue;
    WEFT_TRY(GuideSpec next, read_as(field.name, *value, field.kind));
    WEFT_RETURN_IF_ERROR(take(field.name, std::move(next), guide, from));
  }
  return guide;
}

}  // namespace weft::request_fields
