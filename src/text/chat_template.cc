// Finding a folder's templates and putting the template's variables together; the rendering is the bridge's.
#include "text/chat_template.h"

#include <algorithm>
#include <string_view>

#include "base/bridge_call.h"
#include "base/files.h"
#include "base/folder.h"
#include "text/conversation.h"

namespace weft {
namespace {

constexpr const char* kSpecialTokens[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                          "pad_token", "cls_token", "mask_token"};

// The special tokens of a tokenizer_config.json or special_tokens_map.json as the reference hands them to templates:
// texts.
void add_special_tokens(const Json& config, Json& out) {
  for (const char* name : kSpecialTokens) {
    const Json* value = config.find(name);
    if (value != nullptr && value->is_object()) value = value->find("content");
    if (value != nullptr && value->is_string()) out.set(name, *value);
  }
}

// A text, or a list of {"name", "template"}.
Result<std::vector<ChatTemplate::Named>> templates_of(const Json& value, const std::string& path) {
  std::vector<ChatTemplate::Named> out;
  if (value.is_string()) {
    out.emplace_back("default", value.as_string());
    return out;
  }
  if (!value.is_array())
    return fail(Code::data_corrupt, path, ": `chat_template` is ", value.type_name(), ", not a text or a list");
  for (const Json& item : value.items()) {
    const Json *name = item.find("name"), *source = item.find("template");
    if (name == nullptr || !name->is_string() || source == nullptr || !source->is_string()) {
      return fail(Code::data_corrupt, path, ": an element of `chat_template` lacks `name` or `template`");
    }
    out.emplace_back(name->as_string(), source->as_string());
  }
  return out;
}

// The `chat_template` of a JSON file; empty if the file or the key is not there.
Result<std::vector<ChatTemplate::Named>> templates_in_json(const std::string& path) {
  if (!is_file(path)) return std::vector<ChatTemplate::Named>();
  WEFT_TRY(const Json config, read_json_file(path));
  const Json* value = config.find("chat_template");
  if (value == nullptr || value->is_null()) return std::vector<ChatTemplate::Named>();
  return templates_of(*value, path);
}

// chat_template.jinja and additional_chat_templates/NAME.jinja.
Result<std::vector<ChatTemplate::Named>> templates_in_files(const std::string& folder) {
  std::vector<ChatTemplate::Named> out;
  if (const std::string path = folder + "/chat_template.jinja"; is_file(path)) {
    WEFT_TRY(std::string source, read_file(path, FileLimit::chat_template));
    out.emplace_back("default", std::move(source));
  }
  const std::string extra = folder + "/additional_chat_templates";
  if (!is_directory(extra)) return out;
  constexpr std::string_view kEnding = ".jinja";
  for (const std::string& name : names_in(extra)) {
    if (!name.ends_with(kEnding) || name.size() == kEnding.size()) continue;
    WEFT_TRY(std::string source, read_file(extra + "/" + name, FileLimit::chat_template));
    out.emplace_back(name.substr(0, name.size() - kEnding.size()), std::move(source));
  }
  return out;
}

}  // namespace

Result<std::shared_ptr<const ChatTemplate>> ChatTemplate::from_sources(std::vector<Named> sources, Json special_tokens,
                                                                       ChatTemplateLimits limits, Faults faults) {
  if (sources.empty()) return fail(Code::invalid_argument, "no chat template is given");
  auto out = std::shared_ptr<ChatTemplate>(new ChatTemplate());
  for (auto& [name, source] : sources) {
    if (source.size() > limits.source_bytes) {
      return fail(Code::invalid_argument, "the chat template \"", name, "\" has more than ", limits.source_bytes,
                  " bytes");
    }
    WeftError error;
    WeftTemplate* compiled = weft_template_new(source.data(), source.size(), limits.steps, limits.output_bytes, &error);
    std::optional<Error> fault;
    if (compiled == nullptr) fault = bridge::take(error).with("chat template \"" + name + "\"");
    if (fault && faults == Faults::refuse) return *std::move(fault);
    out->entries_.push_back({std::move(name), std::move(source),
                             std::shared_ptr<WeftTemplate>(compiled,
                                                           [](WeftTemplate* t) {
                                                             if (t != nullptr) weft_template_free(t);
                                                           }),
                             std::move(fault), std::make_shared<Traits>()});
  }
  out->special_tokens_ = std::move(special_tokens);
  return std::shared_ptr<const ChatTemplate>(std::move(out));
}

Result<std::shared_ptr<const ChatTemplate>> ChatTemplate::from_source(std::string_view source, Json special_tokens,
                                                                      ChatTemplateLimits limits) {
  return from_sources({{"default", std::string(source)}}, std::move(special_tokens), limits);
}

Result<Json> ChatTemplate::special_tokens_of(const std::string& folder) {
  Json special_tokens = Json::object();
  for (const char* name : {"/special_tokens_map.json", "/tokenizer_config.json"}) {
    if (!is_file(folder + name)) continue;
    WEFT_TRY(const Json config, read_json_file(folder + name));
    add_special_tokens(config, special_tokens);
  }
  return special_tokens;
}

Result<std::shared_ptr<const ChatTemplate>> ChatTemplate::from_folder(const std::string& folder,
                                                                      ChatTemplateLimits limits) {
  WEFT_TRY(Json special_tokens, special_tokens_of(folder));
  WEFT_TRY(std::vector<Named> sources, templates_in_files(folder));
  for (const char* name : {"/chat_template.json", "/tokenizer_config.json"}) {
    if (!sources.empty()) break;
    WEFT_TRY(sources, templates_in_json(folder + name));
  }
  if (sources.empty()) return fail(Code::not_found, folder, " has no chat template");
  auto result = from_sources(std::move(sources), std::move(special_tokens), limits, Faults::keep);
  if (!result.ok()) return std::move(result).error().with(folder);
  return result;
}

const ChatTemplate::Entry& ChatTemplate::pick(const Json& tools) const {
  const bool with_tools = tools.is_array() && !tools.items().empty();
  auto named = [&](std::string_view name) { return std::ranges::find(entries_, name, &Entry::name); };
  if (auto entry = named("tool_use"); with_tools && entry != entries_.end()) return *entry;
  if (auto entry = named("default"); entry != entries_.end()) return *entry;
  return entries_.front();
}

const std::string& ChatTemplate::source() const { return pick(Json()).source; }
const std::string& ChatTemplate::tool_source() const { return pick(Json::array({Json::object()})).source; }

std::optional<Error> ChatTemplate::fault() const {
  const auto broken = std::ranges::find_if(entries_, [](const Entry& entry) { return entry.fault.has_value(); });
  return broken == entries_.end() ? std::nullopt : broken->fault;
}

const TemplateTraits& ChatTemplate::traits(const Json& tools) const {
  const Entry& entry = pick(tools);
  std::call_once(entry.traits->once, [&] {
    const auto rendered = [&](const Json& messages, const Json& probe_tools) {
      return render_entry(entry, messages, probe_tools, Json(), {});
    };
    entry.traits->found = find_traits(rendered, entry.source);
  });
  return entry.traits->found;
}

Json ChatTemplate::adapted(const Json& messages, const Json& tools) const {
  return adapt_conversation(messages, traits(tools));
}

Result<std::string> ChatTemplate::render(const Json& messages, const Json& tools, const Json& kwargs,
                                         const ChatTemplateOptions& options) const {
  return render_entry(pick(tools), messages, tools, kwargs, options);
}

Result<std::string> ChatTemplate::render_entry(const Entry& entry, const Json& messages, const Json& tools,
                                               const Json& kwargs, const ChatTemplateOptions& options) const {
  if (entry.fault) return *entry.fault;
  Json context = special_tokens_.is_object() ? special_tokens_ : Json::object();
  if (!options.bos_token.empty()) context.set("bos_token", options.bos_token);
  if (!options.eos_token.empty()) context.set("eos_token", options.eos_token);
  context.set("documents", nullptr);
  context.set("add_generation_prompt", options.add_generation_prompt);
  if (options.continue_final_message && options.add_generation_prompt) {
    return fail(Code::invalid_argument, "continue_final_message and add_generation_prompt exclude each other");
  }
  if (kwargs.is_object()) {
    for (const auto& [key, value] : kwargs.members()) {
      if (key == "messages" || key == "tools" || key == "tokenize" || key == "chat_template") {
        return fail(Code::invalid_argument, "chat_template_kwargs must not set `", key, "`")
            .about("chat_template_kwargs");
      }
      context.set(key, value);
    }
  }
  context.set("messages", messages);
  context.set("tools", tools);
  if (options.now_unix_s) context.set("__now_unix_s", *options.now_unix_s);
  const std::string text = context.dump();
  WeftBytes rendered;
  WeftError error;
  if (!weft_template_render(entry.compiled.get(), text.data(), text.size(), options.continue_final_message, &rendered,
                            &error, bridge::byte_of(options.stop))) {
    return bridge::take(error, options.stop);
  }
  return bridge::take(rendered);
}

}  // namespace weft
