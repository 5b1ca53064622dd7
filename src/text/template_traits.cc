// See the header. The words of the conversations occur in no template.
#include "text/template_traits.h"

#include <optional>
#include <utility>

namespace weft {

namespace {

constexpr const char* kWord = "weftprobeword";
constexpr const char* kSecondWord = "weftprobesecond";
constexpr const char* kCall = "weftprobecall";
constexpr const char* kSecondCall = "weftprobeother";
constexpr const char* kKey = "weftprobekey";
constexpr const char* kValue = "weftprobevalue";
constexpr const char* kResult = "weftproberesult";
constexpr const char* kId = "abcdefghi";

size_t count(std::string_view text, std::string_view word) {
  size_t times = 0;
  for (size_t at = text.find(word); at != std::string_view::npos; at = text.find(word, at + word.size())) ++times;
  return times;
}

bool has(const std::optional<std::string>& text, std::string_view word) {
  return text && text->find(word) != std::string::npos;
}

Json message(const char* role, Json content) { return Json::object({{"role", role}, {"content", std::move(content)}}); }

Json part(const char* text) { return Json::object({{"type", "text"}, {"text", text}}); }

class Prober {
 public:
  explicit Prober(const TemplateRenderer& render) : render_(render) {
    const Json parameters = Json::object({{"type", "object"}, {"properties", Json::object()}});
    tools_ = Json::array({Json::object(
        {{"type", "function"},
         {"function",
          Json::object({{"name", "weftprobetool"}, {"description", "Probes."}, {"parameters", parameters}})}})});
  }

  TemplateTraits find(std::string_view source) {
    find_calls();
    traits_.system = contents_of("system");
    traits_.user = contents_of("user");
    traits_.assistant = contents_of("assistant");
    if (traits_.results) {
      traits_.tool = contents_of("tool");
      find_images_in_results();
    }
    // A template that prints whatever role there is does not know this one, and neither does its model.
    traits_.developer = (source.find("'developer'") != std::string_view::npos ||
                         source.find("\"developer\"") != std::string_view::npos) &&
                        has(rendered(Json::array({message("developer", kWord), message("user", "Hi")}), Json()), kWord);
    return traits_;
  }

 private:
  std::optional<std::string> rendered(const Json& messages, const Json& tools) const {
    auto text = render_(messages, tools);
    if (!text.ok()) return std::nullopt;
    return std::move(text).value();
  }

  static Json call_of(const char* name, Json arguments, const char* id) {
    return Json::object({{"id", id},
                         {"type", "function"},
                         {"function", Json::object({{"name", name}, {"arguments", std::move(arguments)}})}});
  }
  static Json result_of(Json content, const char* id) {
    Json result = message("tool", std::move(content));
    result.set("tool_call_id", id);
    return result;
  }
  Json arguments() const {
    if (traits_.arguments_as_text) return text_arguments();
    return Json::object({{kKey, kValue}});
  }
  static Json text_arguments() { return std::string("{\"") + kKey + "\": \"" + kValue + "\"}"; }

  // A question, a call beside `content`, its result if the template shows those.
  std::optional<std::string> with_call(Json content, Json given, const char* id = kId) const {
    Json calling = message("assistant", std::move(content));
    calling.set("tool_calls", Json::array({call_of(kCall, std::move(given), id)}));
    Json messages = Json::array({message("user", "Hi"), std::move(calling)});
    if (traits_.results) messages.push_back(result_of(kResult, id));
    return rendered(messages, tools_);
  }
  static bool shows_call(const std::optional<std::string>& text) { return has(text, kCall) && has(text, kValue); }
  // Python's spelling of an object, where JSON was meant.
  static bool spells_object(const std::optional<std::string>& text) {
    return has(text, std::string("'") + kKey + "': ");
  }

  void find_calls() {
    // With results first: some templates refuse a call without one.
    for (const bool results : {true, false}) {
      traits_.results = results;
      for (const Json& content : {Json(), Json("")}) {
        const auto object = with_call(content, arguments());
        const bool as_object = shows_call(object) && !spells_object(object);
        const auto text = as_object ? std::nullopt : with_call(content, text_arguments());
        if (!as_object && !shows_call(text)) continue;
        traits_.calls = true;
        traits_.arguments_as_text = !as_object;
        traits_.results = results && has(as_object ? object : text, kResult);
        return find_call_rules();
      }
    }
    traits_.results = has(
        rendered(Json::array({message("user", "Hi"), message("assistant", kWord), result_of(kResult, kId)}), Json()),
        kResult);
  }

  void find_call_rules() {
    traits_.takes_any_arguments =
        shows_call(with_call(Json(), text_arguments())) || shows_call(with_call("", text_arguments()));
    const auto null = with_call(Json(), arguments()), empty = with_call("", arguments());
    traits_.null_beside_calls = shows_call(null) && count(*null, "None") == (empty ? count(*empty, "None") : 0);
    traits_.empty_beside_calls = shows_call(empty);
    traits_.text_beside_calls = shows_call(with_call(kWord, arguments()));
    const Json content = traits_.null_beside_calls ? Json() : Json("");
    traits_.short_ids = !with_call(content, arguments(), "call_0123456789").has_value();
    traits_.several_calls = shows_two_calls(content);
  }

  bool shows_two_calls(const Json& content) const {
    Json calling = message("assistant", content);
    calling.set("tool_calls",
                Json::array({call_of(kCall, arguments(), kId), call_of(kSecondCall, arguments(), "123456789")}));
    Json messages = Json::array({message("user", "Hi"), std::move(calling)});
    if (traits_.results) {
      messages.push_back(result_of(kResult, kId));
      messages.push_back(result_of(kSecondWord, "123456789"));
    }
    const auto text = rendered(messages, tools_);
    return has(text, kCall) && has(text, kSecondCall);
  }

  // A conversation with a message of the role whose content is `content`.
  std::optional<std::string> with_content(std::string_view role, Json content) const {
    const Json question = message("user", "Hi");
    if (role == "system") return rendered(Json::array({message("system", std::move(content)), question}), Json());
    if (role == "user") return rendered(Json::array({message("user", std::move(content))}), Json());
    if (role == "assistant")
      return rendered(Json::array({question, message("assistant", std::move(content)), question}), Json());
    Json calling = message("assistant", traits_.calls && traits_.null_beside_calls ? Json() : Json(""));
    if (traits_.calls) calling.set("tool_calls", Json::array({call_of(kCall, arguments(), kId)}));
    return rendered(Json::array({question, std::move(calling), result_of(std::move(content), kId)}), tools_);
  }

  TemplateTraits::Contents contents_of(std::string_view role) const {
    const auto text = with_content(role, kWord),
               parts = with_content(role, Json::array({part(kWord), part(kSecondWord)}));
    TemplateTraits::Contents found;
    found.text = has(text, kWord);
    // a list that is printed as such shows its keys
    found.parts =
        has(parts, kWord) && has(parts, kSecondWord) && count(*parts, "type") == (text ? count(*text, "type") : 0);
    return found;
  }

  void find_images_in_results() {
    if (!traits_.tool.parts) return;
    const Json image = Json::object({{"type", "image"}});
    const auto without = with_content("tool", Json::array({part(kWord)})),
               with = with_content("tool", Json::array({part(kWord), image}));
    traits_.images_in_results = has(with, kWord) && with != without && count(*with, "type") == count(*without, "type");
  }

  const TemplateRenderer& render_;
  TemplateTraits traits_;
  Json tools_;
};

}  // namespace

TemplateTraits find_traits(const TemplateRenderer& render, std::string_view source) {
  return Prober(render).find(source);
}

}  // namespace weft
