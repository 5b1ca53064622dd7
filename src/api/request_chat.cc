// The chat part of a request: messages, and tools with tool_choice.
//
// Messages are checked here and brought to one form (request_fields.h); text/conversation.h adapts them to the model's
// template. tool_guide.cc makes the constraints of tool calls.
#include <algorithm>
#include <cctype>

#include "api/request_fields.h"

namespace weft::request_fields {

namespace {

constexpr size_t kMaxNameLength = 128;  // of a function

std::string at(const std::string& where, size_t index) { return where + "[" + std::to_string(index) + "]"; }

// The address of an image part: {"type": "image_url", "image_url": {"url": "..."} or "..."}, {"type": "image", "image":
// "..."}.
Result<std::string> image_address(const std::string& where, const Json& part) {
  const Json* value = part.find("image_url");
  if (!value) value = part.find("image");
  if (value && value->is_object()) value = value->find("url");
  if (!value || !value->is_string())
    return fail(Code::invalid_argument, where, " has no address of an image (image_url.url)").about(where);
  return value->as_string();
}

// Contents as a list of parts: {"type": "text", "text": ...}, {"type": "image"}, {"type": "video"}.
Result<Json> read_parts(const std::string& where, const Json& parts, bool images_allowed, MediaAddresses media) {
  Json::Array kept;
  for (size_t i = 0; i < parts.items().size(); ++i) {
    const Json& part = parts.items()[i];
    const std::string here = at(where, i);
    const Json* type = part.find("type");
    if (!part.is_object() || !type || !type->is_string()) return wrong(here, "an object with a \"type\"", part);
    const std::string& kind = type->as_string();
    if (kind == "text" || kind == "input_text" || kind == "output_text" || kind == "refusal") {
      const char* const member = kind == "refusal" ? "refusal" : "text";
      const Json* value = part.find(member);
      if (!value || !value->is_string())
        return fail(Code::invalid_argument, here, ".", member, " must be a string").about(here + "." + member);
      kept.push_back(Json::object({{"type", "text"}, {"text", *value}}));
    } else if (kind == "image_url" || kind == "image" || kind == "input_image") {
      if (!images_allowed)
        return fail(Code::invalid_argument, here, " is an image, and this model takes no images").about(here);
      WEFT_TRY(std::string address, image_address(here, part));
      media.images.push_back(std::move(address));
      kept.push_back(Json::object({{"type", "image"}}));
    } else if (kind == "video") {
      if (!images_allowed)
        return fail(Code::invalid_argument, here, " is a video, and this model takes none").about(here);
      const Json* frames = part.find("video");
      if (!frames || !frames->is_array())
        return fail(Code::invalid_argument, here, ".video must be a list of images, its frames").about(here);
      WEFT_TRY(std::vector<std::string> addresses, read_strings(here + ".video", *frames));
      media.videos.push_back(std::move(addresses));
      kept.push_back(Json::object({{"type", "video"}}));
    } else {
      return fail(Code::unsupported, here, ".type must be \"text\", \"image_url\" or \"video\", got ", shown(*type))
          .about(here + ".type");
    }
  }
  return Json(std::move(kept));
}

// The members that say something; null says what an absent member says.
Json without_nulls(const Json& object) {
  Json kept = object;
  kept.drop_repeated();
  std::erase_if(kept.members(), [](const Json::Member& member) { return member.second.is_null(); });
  return kept;
}

// Calls with all that templates ask for; arguments stay as they were sent.
Result<Json> read_tool_calls(const std::string& where, const Json& calls) {
  if (!calls.is_array()) return wrong(where, "a list of calls", calls);
  Json kept = Json::array();
  for (size_t i = 0; i < calls.items().size(); ++i) {
    const Json& call = calls.items()[i];
    const std::string here = at(where, i) + ".function";
    const Json* function = call.find("function");
    if (!function || !function->is_object())
      return fail(Code::invalid_argument, here, " must be an object").about(here);
    const Json* name = function->find("name");
    if (!name || !name->is_string())
      return fail(Code::invalid_argument, here, ".name must be a string").about(here + ".name");
    Json changed = without_nulls(*function), one = without_nulls(call);
    if (!changed.find("arguments")) changed.set("arguments", "");
    one.set("function", std::move(changed));
    if (const Json* type = one.find("type"); !type || (type->is_string() && type->as_string().empty()))
      one.set("type", "function");
    kept.push_back(std::move(one));
  }
  return kept;
}

// Whether a message without content says something; an assistant's null content is an answer of nothing.
bool may_lack_content(const Json& message, const std::string& role, bool has_calls) {
  if (has_calls) return true;
  if (role != "assistant") return false;
  const Json* content = message.find("content");
  return content || message.find("reasoning_content") || message.find("reasoning") || message.find("refusal");
}

Result<Json> read_message(const std::string& where, const Json& message, bool images_allowed, MediaAddresses media) {
  if (!message.is_object()) return wrong(where, "an object with \"role\" and \"content\"", message);
  const Json* role = message.find("role");
  if (!role || role->is_null()) return fail(Code::invalid_argument, where, ".role is missing").about(where + ".role");
  if (!role->is_string()) return wrong(where + ".role", "a string", *role);
  if (role->as_string().empty()) return fail(Code::invalid_argument, where, ".role is empty").about(where + ".role");
  Json kept = without_nulls(message);
  const Json* calls = kept.find("tool_calls");
  const bool no_calls = calls && calls->is_array() && calls->items().empty();
  const bool has_calls = calls && !no_calls;
  if (has_calls) {
    WEFT_TRY(Json read, read_tool_calls(where + ".tool_calls", *calls));
    kept.set("tool_calls", std::move(read));
  }
  if (no_calls) std::erase_if(kept.members(), [](const Json::Member& member) { return member.first == "tool_calls"; });
  const Json* content = kept.find("content");
  if (!content) {
    if (!may_lack_content(message, role->as_string(), has_calls))
      return fail(Code::invalid_argument, where, ".content is missing").about(where + ".content");
    kept.set("content", nullptr);
  } else if (content->is_array()) {
    WEFT_TRY(Json read, read_parts(where + ".content", *content, images_allowed, media));
    kept.set("content", std::move(read));
  } else if (!content->is_string()) {
    return wrong(where + ".content", "a string or a list of parts", *content);
  }
  // Templates do not know refusals; what the assistant said instead of an answer is what it said.
  if (const Json* refusal = kept.find("refusal"); refusal && refusal->is_string() && kept.find("content")->is_null())
    kept.set("content", *refusal);
  return kept;
}

// As OpenAI and MCP have it. Names go into prompts and grammars as they are.
bool is_function_name(const std::string& name) {
  return !name.empty() && name.size() <= kMaxNameLength && std::ranges::all_of(name, [](unsigned char c) {
    return std::isalnum(c) || c == '_' || c == '-' || c == '.' || c == ':' || c == '/';
  });
}

// Checks one tool and returns its function.
Result<const Json*> read_tool(const std::string& where, const Json& tool) {
  const Json* type = tool.find("type");
  if (!tool.is_object() || !type || !type->is_string() || type->as_string() != "function")
    return fail(Code::invalid_argument, where, ".type must be \"function\"").about(where + ".type");
  const Json* function = tool.find("function");
  if (!function || !function->is_object())
    return fail(Code::invalid_argument, where, ".function must be an object").about(where + ".function");
  const Json* name = function->find("name");
  if (!name || !name->is_string() || name->as_string().empty())
    return fail(Code::invalid_argument, where, ".function.name must be a string that is not empty")
        .about(where + ".function.name");
  if (!is_function_name(name->as_string()))
    return wrong(where + ".function.name", "letters, digits, _, -, ., : and /, at most 128 of them", *name);
  const Json* parameters = function->find("parameters");
  if (parameters && !parameters->is_null() && !parameters->is_object())
    return wrong(where + ".function.parameters", "an object (a JSON schema)", *parameters);
  const Json* strict = function->find("strict");
  if (strict && !strict->is_null() && !strict->is_bool())
    return wrong(where + ".function.strict", "true or false", *strict);
  return function;
}

// The name of the function that tool_choice names.
Result<std::string> chosen_name(const Json& choice) {
  const Json* function = choice.find("function");
  const Json* name = function ? function->find("name") : choice.find("name");
  if (!name || !name->is_string())
    return wrong("tool_choice",
                 "\"none\", \"auto\", \"required\" or {\"type\": \"function\", \"function\": {\"name\": ...}}", choice);
  return name->as_string();
}

}  // namespace

Result<Json> read_messages(const Json& value, bool images_allowed, MediaAddresses media) {
  if (!value.is_array()) return wrong("messages", "a list of messages", value);
  if (value.items().empty())
    return fail(Code::invalid_argument, "messages is empty; send at least one message").about("messages");
  Json::Array kept;
  for (size_t i = 0; i < value.items().size(); ++i) {
    WEFT_TRY(Json message, read_message(at("messages", i), value.items()[i], images_allowed, media));
    kept.push_back(std::move(message));
  }
  return Json(std::move(kept));
}

Status read_tools(const Json* tools, const Json* tool_choice, bool parallel_calls, const ToolForm& form,
                  ClientRequest& out, Request& request) {
  std::vector<const Json*> functions;
  bool strict = false;
  Json::Object parameters_of;
  if (tools && !tools->is_null()) {
    if (!tools->is_array()) return wrong("tools", "a list of tools", *tools);
    for (size_t i = 0; i < tools->items().size(); ++i) {
      WEFT_TRY(const Json* function, read_tool(at("tools", i), tools->items()[i]));
      functions.push_back(function);
      out.tool_names.push_back(function->find("name")->as_string());
      if (const Json* parameters = function->find("parameters"))
        parameters_of.emplace_back(out.tool_names.back(), *parameters);
      const Json* flag = function->find("strict");
      strict = strict || (flag && flag->is_bool() && flag->as_bool());
    }
    if (!parameters_of.empty()) {
      out.tool_parameters = Json(std::move(parameters_of));
      out.tool_parameters.drop_repeated();
    }
  }
  std::string mode = functions.empty() ? "none" : "auto", named;
  if (tool_choice && !tool_choice->is_null()) {
    if (tool_choice->is_string()) {
      mode = tool_choice->as_string();
      if (mode != "none" && mode != "auto" && mode != "required")
        return wrong("tool_choice", "\"none\", \"auto\", \"required\" or a function", *tool_choice);
    } else {
      mode = "named";
      WEFT_TRY(named, chosen_name(*tool_choice));
    }
  }
  if (functions.empty()) {
    if (mode == "required" || mode == "named")
      return fail(Code::invalid_argument, "tool_choice asks for a call, but there are no tools").about("tool_choice");
    return {};
  }
  if (mode == "none") return {};
  request.tools = *tools;
  out.tool_mode = ToolMode::automatic;
  out.parallel_tool_calls = parallel_calls;
  using Kind = GuideSpec::Kind;
  const bool json = request.guide.kind == Kind::json_object || request.guide.kind == Kind::json_schema;
  if (mode == "auto" && json) {
    auto guide = call_or_answer_guide(functions, form, request.guide);
    if (!guide.ok() && !strict) return {};  // calls of this form cannot be told from the answer: there are none
    if (!guide.ok()) return guide.error();
    out.strict_tools = true;
    request.guide = std::move(guide).value();
    return {};
  }
  if (mode == "auto" && !strict) return {};
  if (request.guide.kind != Kind::none && !json)
    return fail(Code::invalid_argument, mode == "auto" ? "a strict function" : "tool_choice forces a call, which",
                " cannot be combined with another constraint on the answer")
        .about(mode == "auto" ? "tools" : "tool_choice");
  if (mode == "auto") {
    out.strict_tools = true;
    WEFT_TRY(request.guide, strict_call_guide(functions, form));
    return {};
  }
  if (mode == "named") {
    std::erase_if(functions, [&](const Json* function) { return function->find("name")->as_string() != named; });
    if (functions.empty())
      return fail(Code::invalid_argument, "tool_choice names ", shown(Json(named)), ", which is not among the tools")
          .about("tool_choice");
    out.tool_names = {named};
  }
  out.tool_mode = mode == "named" ? ToolMode::named : ToolMode::any;
  WEFT_TRY(request.guide, forced_call_guide(functions, mode == "named", parallel_calls));
  return {};
}

}  // namespace weft::request_fields
