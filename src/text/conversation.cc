// See the header. Each step takes the whole list, so that later ones see what earlier ones made.
#include "text/conversation.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <string>
#include <utility>

#include "base/short_id.h"

namespace weft {

namespace {

using Messages = Json::Array;

bool has_role(const Json& message, std::string_view role) {
  const Json* value = message.find("role");
  return value && value->is_string() && value->as_string() == role;
}

const Json* calls_of(const Json& message) {
  const Json* calls = message.find("tool_calls");
  return calls && calls->is_array() && !calls->items().empty() ? calls : nullptr;
}

void erase(Json& message, std::string_view name) {
  std::erase_if(message.members(), [&](const Json::Member& member) { return member.first == name; });
}

Json text_part(std::string text) { return Json::object({{"type", "text"}, {"text", std::move(text)}}); }

bool is_text_part(const Json& part) { return part.find("text") != nullptr; }

// JSON as Python's json.dumps writes it, which is how the reference prints objects.
std::string spaced_dump(const Json& value) {
  std::string text;
  if (value.is_object()) {
    for (const Json::Member& member : value.members())
      text += (text.empty() ? "" : ", ") + json_quote(member.first) + ": " + spaced_dump(member.second);
    return "{" + text + "}";
  }
  if (value.is_array()) {
    for (const Json& item : value.items()) text += (text.empty() ? "" : ", ") + spaced_dump(item);
    return "[" + text + "]";
  }
  return value.dump();
}

// ---- arguments and ids of calls

Json adapted_arguments(const Json& arguments, const TemplateTraits& traits) {
  const bool as_text = traits.calls && traits.arguments_as_text;
  if (!arguments.is_string()) return as_text && arguments.is_object() ? Json(spaced_dump(arguments)) : arguments;
  const std::string& text = arguments.as_string();
  const bool blank = text.find_first_not_of(" \t\r\n") == std::string::npos || text == "null";
  if (as_text) return blank ? Json("{}") : arguments;
  if (blank) return Json::object();
  auto parsed = parse_json(text);
  if (parsed.ok() && parsed->is_object()) return std::move(parsed).value();
  return traits.takes_any_arguments ? arguments : Json::object({{"arguments", text}});
}

void adapt_arguments(Messages& messages, const TemplateTraits& traits) {
  for (Json& message : messages) {
    if (!calls_of(message)) continue;
    Json calls = *message.find("tool_calls");
    for (Json& call : calls.items()) {
      Json function = *call.find("function");
      const Json* arguments = function.find("arguments");
      function.set("arguments", adapted_arguments(arguments ? *arguments : Json(""), traits));
      call.set("function", std::move(function));
    }
    message.set("tool_calls", std::move(calls));
  }
}

// The id in nine letters; `place` names a call that has none.
std::string adapted_id(const Json* id, const std::string& place) {
  if (id && id->is_string()) return is_short_id(id->as_string()) ? id->as_string() : short_id(id->as_string());
  return short_id(place);
}

void shorten_ids(Messages& messages) {
  std::vector<std::string> open;  // of the last message with calls: those without a result
  for (size_t at = 0; at < messages.size(); ++at) {
    Json& message = messages[at];
    if (calls_of(message)) {
      open.clear();
      Json calls = *message.find("tool_calls");
      for (Json& call : calls.items()) {
        open.push_back(adapted_id(call.find("id"), std::to_string(at) + "." + std::to_string(open.size())));
        call.set("id", open.back());
      }
      message.set("tool_calls", std::move(calls));
    } else if (has_role(message, "tool")) {
      const Json* given = message.find("tool_call_id");
      const std::string id = given || open.empty() ? adapted_id(given, std::to_string(at)) : open.front();
      std::erase(open, id);
      message.set("tool_call_id", id);
    }
  }
}

// ---- several calls

// Each call in a message of its own, followed by its result. Results stand behind the calls, in any order.
Messages one_call_each(Messages messages) {
  Messages out;
  for (size_t at = 0; at < messages.size(); ++at) {
    const Json* calls = calls_of(messages[at]);
    if (!calls || calls->items().size() == 1) {
      out.push_back(std::move(messages[at]));
      continue;
    }
    Messages results;
    for (; at + 1 < messages.size() && has_role(messages[at + 1], "tool"); ++at)
      results.push_back(std::move(messages[at + 1]));
    const Json whole = messages[at - results.size()];
    for (const Json& call : whole.find("tool_calls")->items()) {
      const bool first = &call == &whole.find("tool_calls")->items().front();
      Json one = first ? whole : Json::object({{"role", "assistant"}, {"content", nullptr}});
      one.set("tool_calls", Json::array({call}));
      out.push_back(std::move(one));
      const Json* id = call.find("id");
      const auto of_call = std::ranges::find_if(results, [&](const Json& result) {
        const Json* named = result.find("tool_call_id");
        return !id || !named || *named == *id;
      });
      if (of_call == results.end()) continue;
      out.push_back(std::move(*of_call));
      results.erase(of_call);
    }
    std::ranges::move(results, std::back_inserter(out));
  }
  return out;
}

// ---- contents

// What a message says, as parts.
Json::Array parts_of(const Json& message) {
  const Json* content = message.find("content");
  if (!content || content->is_null()) return {};
  if (content->is_array()) return content->items();
  if (content->as_string().empty()) return {};
  return {text_part(content->as_string())};
}

// Parts as content: one text if all are texts.
Json content_of(Json::Array parts, const char* separator) {
  if (!std::ranges::all_of(parts, is_text_part)) return Json(std::move(parts));
  std::string text;
  for (size_t i = 0; i < parts.size(); ++i) text += (i == 0 ? "" : separator) + parts[i].find("text")->as_string();
  return Json(std::move(text));
}

// A message that says what both say.
void append_content(Json& message, const Json& more) {
  Json::Array parts = parts_of(message);
  std::ranges::move(parts_of(more), std::back_inserter(parts));
  message.set("content", content_of(std::move(parts), "\n\n"));
}

TemplateTraits::Contents contents_for(const Json& message, const TemplateTraits& traits) {
  if (has_role(message, "system") || has_role(message, "developer")) return traits.system;
  if (has_role(message, "assistant")) return traits.assistant;
  if (has_role(message, "tool")) return traits.tool;
  return traits.user;
}

Json adapted_content(const Json& content, bool beside_calls, const TemplateTraits& traits,
                     TemplateTraits::Contents takes) {
  if (beside_calls && traits.calls) {
    const bool empty = content.is_string() && content.as_string().empty();
    if (content.is_null() && traits.null_beside_calls) return content;
    if (empty && !traits.empty_beside_calls) return Json();
  }
  if (content.is_null()) return takes.text || !takes.parts ? Json("") : Json::array();
  if (content.is_array()) {
    const bool images = !std::ranges::all_of(content.items(), is_text_part);
    return images || takes.parts ? content : content_of(content.items(), "\n");
  }
  return takes.text || !takes.parts ? content : Json::array({text_part(content.as_string())});
}

void adapt_contents(Messages& messages, const TemplateTraits& traits) {
  for (Json& message : messages) {
    const Json* content = message.find("content");
    message.set("content", adapted_content(content ? *content : Json(), calls_of(message) != nullptr, traits,
                                           contents_for(message, traits)));
  }
}

// ---- what a template does not show

// Where text beside calls would be lost, or would lose them: the text first, then the calls.
Messages apart_from_calls(Messages messages) {
  Messages out;
  for (Json& message : messages) {
    if (calls_of(message) && !parts_of(message).empty()) {
      Json text = message;
      erase(text, "tool_calls");
      out.push_back(std::move(text));
      message.set("content", nullptr);
      erase(message, "reasoning_content");
    }
    out.push_back(std::move(message));
  }
  return out;
}

// The calls as the text that weft reads from models of any form.
std::string written_calls(const Json& calls) {
  Json list = Json::array();
  for (const Json& call : calls.items()) {
    const Json& function = *call.find("function");
    list.push_back(Json::object({{"name", *function.find("name")}, {"arguments", *function.find("arguments")}}));
  }
  return spaced_dump(list);
}

void write_calls(Messages& messages) {
  for (Json& message : messages) {
    const Json* calls = calls_of(message);
    if (!calls) continue;
    append_content(message, Json::object({{"content", written_calls(*calls)}}));
    erase(message, "tool_calls");
  }
}

// Results as messages of the user. Many templates take no two messages of one role in a row.
Messages results_as_user(Messages messages) {
  Messages out;
  bool made = false;  // the last message was a result
  for (Json& message : messages) {
    const bool result = has_role(message, "tool");
    if (result) {
      message.set("role", "user");
      erase(message, "tool_call_id");
      erase(message, "name");
    }
    if ((result || made) && has_role(message, "user") && !out.empty() && has_role(out.back(), "user"))
      append_content(out.back(), message);
    else out.push_back(std::move(message));
    made = result || (made && has_role(out.back(), "user"));
  }
  return out;
}

Messages images_to_user(Messages messages) {
  Messages out;
  Json::Array images;
  const auto place = [&] {
    if (!images.empty()) out.push_back(Json::object({{"role", "user"}, {"content", std::exchange(images, {})}}));
  };
  for (Json& message : messages) {
    if (!has_role(message, "tool")) {
      const bool beside = !images.empty() && has_role(message, "user");
      place();
      if (beside) append_content(out.back(), message);
      else out.push_back(std::move(message));
      continue;
    }
    Json::Array texts, parts = parts_of(message);
    for (Json& part : parts) (is_text_part(part) ? texts : images).push_back(std::move(part));
    if (const Json* content = message.find("content"); content && content->is_array())
      message.set("content", std::move(texts));
    out.push_back(std::move(message));
  }
  place();
  return out;
}

}  // namespace

Json adapt_conversation(const Json& given, const TemplateTraits& traits) {
  Messages messages = given.items();
  if (!traits.developer)
    for (Json& message : messages)
      if (has_role(message, "developer")) message.set("role", "system");
  adapt_arguments(messages, traits);
  if (traits.calls) {
    if (!traits.text_beside_calls) messages = apart_from_calls(std::move(messages));
    if (!traits.several_calls) messages = one_call_each(std::move(messages));
  } else {
    write_calls(messages);
  }
  if (traits.short_ids) shorten_ids(messages);
  if (!traits.results) messages = results_as_user(std::move(messages));
  else if (!traits.images_in_results) messages = images_to_user(std::move(messages));
  adapt_contents(messages, traits);
  return Json(std::move(messages));
}

}  // namespace weft
