// From a request to the prompt's tokens: chat templates, images, and what of it the model cannot take.
#include "api/core_engine.h"

namespace weft {

// The model's or the request's own; null if there is none.
Result<std::shared_ptr<const ChatTemplate>> CoreEngine::template_of(const Request& request) const {
  if (!request.chat_template) return text_.chat_template;
  return ChatTemplate::from_source(*request.chat_template,
                                   text_.chat_template ? text_.chat_template->special_tokens() : Json::object());
}

AnswerFormat CoreEngine::format_of(const ChatTemplate& chat) const {
  AnswerFormat format = detect_answer_format(chat.source(), chat.tool_source());
  if (options_.reasoning_parser != ReasoningParser::automatic)
    format.thinks = options_.reasoning_parser == ReasoningParser::think;
  if (const ToolForm* named = find_tool_form(options_.tool_call_parser)) format.tools = named;
  return format;
}

Result<std::string> CoreEngine::render_chat(const Request& request) const { return render(request, {}); }

// Names go into prompts and grammars as they are, so one that holds a special token would be that token.
Status CoreEngine::check_tool_names(const Request& request) const {
  if (!text_.tokenizer || !request.tools.is_array()) return {};
  for (size_t i = 0; i < request.tools.items().size(); ++i) {
    const Json* function = request.tools.items()[i].find("function");
    const Json* name = function ? function->find("name") : nullptr;
    if (!name || !name->is_string()) continue;
    const StopFlag* stop = request.stop_flag.get();
    const auto special = text_.tokenizer->encode(name->as_string(), {.add_special_tokens = false, .stop = stop});
    const auto plain =
        text_.tokenizer->encode(name->as_string(), {.add_special_tokens = false, .parse_special = false, .stop = stop});
    WEFT_RETURN_IF_ERROR(check_stop(stop));
    if (special.ok() && plain.ok() && *special == *plain) continue;
    const std::string field = "tools[" + std::to_string(i) + "].function.name";
    return fail(Code::invalid_argument, field, " is ", name->dump(), ", which holds a special token of this model")
        .about(field);
  }
  return {};
}

Result<std::string> CoreEngine::render(const Request& request, std::span<const PreparedMedia> media) const {
  WEFT_RETURN_IF_ERROR(check_tool_names(request));
  WEFT_TRY(const std::shared_ptr<const ChatTemplate> chat, template_of(request));
  if (!chat)
    return fail(Code::invalid_argument,
                "the model has no chat template; send a prompt instead of messages, or a chat_template")
        .about("messages");
  const ChatTemplateOptions how{
      .add_generation_prompt = request.add_generation_prompt && !request.continue_final_message,
      .continue_final_message = request.continue_final_message,
      .stop = request.stop_flag.get()};
  Json messages = chat->adapted(*request.messages, request.tools);
  if (text_.media && text_.media->form().rewrites_messages)
    messages = text_.media->template_messages(std::move(messages), media);
  auto text = chat->render(messages, request.tools, request.chat_template_kwargs, how);
  if (!text.ok()) return std::move(text).error().about("messages");
  return text;
}

AnswerFormat CoreEngine::answer_format(const Request& request) const {
  if (!request.chat_template) return format_;
  const auto chat = template_of(request);
  return chat.ok() ? format_of(**chat) : AnswerFormat{};  // render_chat() says what is wrong with it
}

Result<std::vector<int32_t>> CoreEngine::prompt_tokens(const Request& request) const {
  WEFT_TRY(ImagePrompt prompt, build_prompt(request, false));
  return std::move(prompt.tokens);
}

// The prompt's tokens, and its images.
Result<ImagePrompt> CoreEngine::build_prompt(const Request& request, bool fits) const {
  const bool images = !request.images.empty() || !request.videos.empty();
  // A placeholder that a user typed into a prompt without images is the processor's to find.
  if (!images && (!text_.media || request.prompt_token_ids)) {
    WEFT_TRY(std::vector<int32_t> tokens, text_tokens(request, fits));
    return ImagePrompt{std::move(tokens), {}, nullptr, {}};
  }
  if (!text_.media)
    return fail(Code::invalid_argument, "the model ", info_.name, " takes no images")
        .about(request.images.empty() ? "videos" : "images");
  const PromptText text = [&](std::span<const PreparedMedia> media) -> Result<std::string> {
    if (request.messages) {
      // A family whose messages name each tile of an image: the text rendered so far names the image once.
      const bool again = !media.empty() && text_.media->form().rewrites_messages;
      return request.rendered && !again ? *request.rendered : render(request, media);
    }
    return request.prompt.value_or("");
  };
  const MediaLimits& limits = options_.media_limits;
  const MediaSource source{.urls = {.allowed_hosts = options_.allowed_media_domains,
                                    .max_bytes = static_cast<size_t>(limits.max_file_bytes),
                                    .stop = request.stop_flag.get()},
                           .limits = limits,
                           .account = &media_account_};
  return image_prompt(request, text, !request.messages && request.add_special_tokens, *text_.media, *text_.tokenizer,
                      source, core_->model());
}

Result<std::vector<int32_t>> CoreEngine::encode_prompt(const Request& request, const std::string& text,
                                                       bool add_special_tokens, bool fits) const {
  const char* field = request.messages ? "messages" : "prompt";
  WEFT_RETURN_IF_ERROR(
      check_limit(options_.limits, &RequestLimits::prompt_bytes, static_cast<int64_t>(text.size()), field));
  // Prompts that are a little too long are told how long they are.
  const size_t most = 2 * static_cast<size_t>(info_.max_seq_len) + (size_t{1} << 16);
  EncodeOptions options{.add_special_tokens = add_special_tokens, .stop = request.stop_flag.get()};
  if (fits) options.most_tokens = most;
  auto tokens = text_.tokenizer->encode(text, options);
  if (tokens.ok()) return tokens;
  const bool many = tokens.error().message() == "the text has more than " + std::to_string(most) + " tokens";
  if (!many) return std::move(tokens).error().about(field);
  return fail(Code::context_overflow, "This model's maximum context length is ", info_.max_seq_len,
              " tokens. However, your ", field, " resulted in more than ", most,
              " tokens. Please reduce the length of the ", field, ".")
      .about(field);
}

Result<std::vector<int32_t>> CoreEngine::text_tokens(const Request& request, bool fits) const {
  if (request.prompt_token_ids) return *request.prompt_token_ids;
  if (!text_.tokenizer)
    return fail(Code::invalid_argument, "the model has no tokenizer; send prompt_token_ids")
        .about(request.messages ? "messages" : "prompt");
  if (!request.messages) return encode_prompt(request, *request.prompt, request.add_special_tokens, fits);
  // Templates write the special tokens themselves.
  if (request.rendered) return encode_prompt(request, *request.rendered, false, fits);
  WEFT_TRY(const std::string text, render_chat(request));
  return encode_prompt(request, text, false, fits);
}

Status CoreEngine::check_prompt(const Request& request, const ImagePrompt& whole) const {
  const std::vector<int32_t>& prompt = whole.tokens;
  const char* field = request.prompt_token_ids ? "prompt_token_ids" : request.messages ? "messages" : "prompt";
  if (prompt.empty()) return fail(Code::invalid_argument, "the prompt is empty").about(field);
  // the image's token has a row in the table, behind the logits' rows
  const bool cross = whole.places && !whole.places->cross.empty();
  size_t span = 0;  // places of features hold ids that may lie behind the vocabulary
  for (size_t i = 0; i < prompt.size(); ++i) {
    while (whole.places && span < whole.places->spans.size() &&
           static_cast<int>(i) >= whole.places->spans[span].position + whole.places->spans[span].count)
      ++span;
    const bool in_vocabulary = prompt[i] >= 0 && prompt[i] < info_.vocab_size;
    if (in_vocabulary) continue;
    const bool of_image =
        whole.places && span < whole.places->spans.size() && static_cast<int>(i) >= whole.places->spans[span].position;
    if (of_image || (cross && prompt[i] >= 0 && prompt[i] < info_.vocab_size + 8)) {
      if (request.sampling.prompt_logprobs < 0) continue;
      return fail(Code::unsupported, "prompt_logprobs are not available here: the image's token ", prompt[i],
                  " has no logit")
          .about("prompt_logprobs");
    }
    return fail(Code::invalid_argument, "token id ", prompt[i], " is outside the vocabulary of ", info_.vocab_size)
        .about(field);
  }
  if (static_cast<int>(prompt.size()) > info_.max_seq_len)
    return context_exceeded(static_cast<int64_t>(prompt.size()), info_.max_seq_len, field);
  return {};
}

Error context_exceeded(int64_t prompt_tokens, int64_t limit, std::string field) {
  const char* const rest = prompt_tokens == limit ? " tokens, which leaves no room for an answer. Please reduce the "
                                                  : " tokens. Please reduce the ";
  return fail(Code::context_overflow, "This model's maximum context length is ", limit, " tokens. However, your ",
              field, " resulted in ", prompt_tokens, rest, "length of the ", field, ".")
      .about(field);
}

Thinking thinking_of(const AnswerFormat& format, const Request& request, std::string_view rendered) {
  std::optional<std::string_view> continued;
  if (request.continue_final_message && request.messages && !request.messages->items().empty()) {
    const Json* content = request.messages->items().back().find("content");
    if (content && content->is_array() && !content->items().empty()) content = content->items().back().find("text");
    if (content && content->is_string()) continued = content->as_string();
  }
  return thinking_after(format.thinks, rendered, continued);
}

}  // namespace weft
