// Chat templates: messages to the prompt text, as the Hugging Face tokenizer's apply_chat_template does with its
// sandboxed Jinja2. Rendering is done by minijinja behind bridge/, with limits, since a template comes with a
// checkpoint and may be hostile.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "text/template_traits.h"

struct WeftTemplate;

namespace weft {

class StopFlag;

struct ChatTemplateOptions {
  bool add_generation_prompt = true;
  // Leaves the last message open, so that the model goes on with it (then add_generation_prompt must be false).
  bool continue_final_message = false;
  // Replace what the model's folder says; empty: keep.
  std::string bos_token, eos_token;
  // The time that strftime_now shows (seconds since 1970, UTC); empty: the clock, local time.
  std::optional<int64_t> now_unix_s;
  // Looked at while the template renders: cancelled or deadline_exceeded once it is set. Null: never.
  const StopFlag* stop = nullptr;
};

struct ChatTemplateLimits {
  uint64_t steps = 2'000'000;       // template instructions, and data that it makes at 64 bytes each: 0.1 s, 128 MB
  size_t output_bytes = 16u << 20;  // text written
  size_t source_bytes = 1u << 20;
};

// Immutable; all functions may be called from any thread at once.
class ChatTemplate {
 public:
  using Named = std::pair<std::string, std::string>;  // name ("default", "tool_use", ...), source

  // What happens to a template that does not parse: an error at once, or one whenever it would be rendered.
  enum class Faults : unsigned char { refuse, keep };

  // Compiles one or several named templates; errors name the template and the line. `special_tokens` are variables of
  // every rendering (bos_token, eos_token, ...).
  static Result<std::shared_ptr<const ChatTemplate>> from_sources(std::vector<Named> sources,
                                                                  Json special_tokens = Json::object(),
                                                                  ChatTemplateLimits limits = {},
                                                                  Faults faults = Faults::refuse);
  static Result<std::shared_ptr<const ChatTemplate>> from_source(std::string_view source,
                                                                 Json special_tokens = Json::object(),
                                                                 ChatTemplateLimits limits = {});
  // Looks in a model folder as the reference does: chat_template.jinja (and additional_chat_templates/*.jinja), else
  // chat_template.json, else `chat_template` of tokenizer_config.json (a text, or a list of named ones). not_found if
  // there is none. Templates that do not parse are kept (Faults::keep): fault() tells.
  static Result<std::shared_ptr<const ChatTemplate>> from_folder(const std::string& folder,
                                                                 ChatTemplateLimits limits = {});
  // The special tokens that a model folder names, as templates get them.
  static Result<Json> special_tokens_of(const std::string& folder);

  // `messages`: array of {role, content, ...} as the client sent them. `tools`: array or null. `kwargs`: object or
  // null; further template variables (enable_thinking, documents, ...), which override the special tokens and
  // add_generation_prompt; messages, tools, tokenize and chat_template among them are refused. Of several templates,
  // `tool_use` is taken when tools are given, else `default`, as the reference does. A template that raises, runs out
  // of a limit or meets a value it cannot use gives invalid_argument with its message.
  Result<std::string> render(const Json& messages, const Json& tools, const Json& kwargs,
                             const ChatTemplateOptions& options = {}) const;

  // What the template that goes with the tools takes. The first call renders some dozen small conversations.
  const TemplateTraits& traits(const Json& tools) const;
  // Messages as clients send them, brought to the form that the template which goes with the tools takes
  // (adapt_conversation).
  Json adapted(const Json& messages, const Json& tools) const;

  // What is wrong with the first template that does not parse.
  std::optional<Error> fault() const;

  // The source of the template that `render` takes without tools; for detecting tool-call and reasoning formats.
  const std::string& source() const;
  // The source of the one it takes with tools.
  const std::string& tool_source() const;
  // Special tokens as the folder gives them: {"bos_token": "<s>", ...}.
  const Json& special_tokens() const { return special_tokens_; }

 private:
  struct Traits {
    std::once_flag once;
    TemplateTraits found;
  };
  struct Entry {
    std::string name, source;
    std::shared_ptr<WeftTemplate> compiled;  // null: `fault` says why
    std::optional<Error> fault;
    std::shared_ptr<Traits> traits;  // found when they are first needed
  };
  ChatTemplate() = default;
  const Entry& pick(const Json& tools) const;
  Result<std::string> render_entry(const Entry& entry, const Json& messages, const Json& tools, const Json& kwargs,
                                   const ChatTemplateOptions& options) const;

  std::vector<Entry> entries_;
  Json special_tokens_;
};

}  // namespace weft
