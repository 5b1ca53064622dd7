#include "api/text_side.h"

#include "base/files.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"
#include "media/settings.h"

namespace weft {

GgufVocabulary vocabulary_of(const GgufTokenizer& t) {
  const auto id = [](const std::optional<int64_t>& value) {
    return value ? std::optional<int32_t>(static_cast<int32_t>(*value)) : std::nullopt;
  };
  GgufVocabulary v;
  v.model = t.model, v.pre = t.pre;
  v.tokens.assign(t.tokens.begin(), t.tokens.end());
  v.scores = t.scores, v.token_types = t.token_type;
  v.merges.assign(t.merges.begin(), t.merges.end());
  v.bos_id = id(t.bos), v.eos_id = id(t.eos), v.unknown_id = id(t.unknown), v.padding_id = id(t.padding);
  v.separator_id = id(t.separator), v.mask_id = id(t.mask);
  v.add_bos = t.add_bos, v.add_eos = t.add_eos, v.add_space_prefix = t.add_space_prefix;
  v.remove_extra_spaces = t.remove_extra_spaces, v.charsmap = t.charsmap;
  return v;
}

std::vector<ChatTemplate::Named> templates_of(const GgufTokenizer& t) {
  std::vector<ChatTemplate::Named> templates;
  if (!t.chat_template.empty()) templates.emplace_back("default", t.chat_template);
  for (const auto& [name, source] : t.named_chat_templates) templates.emplace_back(name, source);
  return templates;
}

namespace {

constexpr std::string_view kEndNames[] = {"<|eot_id|>",    "<|im_end|>",      "<|end|>",     "<|return|>",
                                          "<|call|>",      "<|flush|>",       "<|calls|>",   "<turn|>",
                                          "</s>",          "<end_of_turn>",   "<|eom_id|>",  "<|endoftext|>",
                                          "<EOT>",         "_<EOT>",          "[EOT]",       "[EOS]",
                                          "<eos>",         "<|end_of_text|>", "<|fim_pad|>", "<fim-pad>",
                                          "<fim_pad>",     "<|fim_repo|>",    "<fim-repo>",  "<end_of_utterance>",
                                          "<|repo_name|>", "<|file_sep|>",    "<reponame>",  "<｜end▁of▁sentence｜>"};

Result<std::shared_ptr<const ChatTemplate>> template_in_file(const std::string& file, Json special_tokens) {
  WEFT_TRY(const std::string source, read_file(file, FileLimit::chat_template));
  auto made = ChatTemplate::from_source(source, std::move(special_tokens));
  if (!made.ok()) return std::move(made).error().with(file).about("chat-template");
  return made;
}

Result<TextSide> load_gguf_text(const GgufTokenizer& gguf, const std::string& template_file) {
  TextSide text;
  Json special = Json::object();
  // A file without a vocabulary takes token ids alone.
  if (!gguf.model.empty() && gguf.model != "none" && gguf.model != "no_vocab") {
    WEFT_TRY(text.tokenizer, Tokenizer::from_gguf(vocabulary_of(gguf)));
  }
  if (text.tokenizer) {
    if (const auto bos = text.tokenizer->bos_id()) special.set("bos_token", text.tokenizer->token_text(*bos));
    if (const auto eos = text.tokenizer->eos_id()) special.set("eos_token", text.tokenizer->token_text(*eos));
  }
  if (!template_file.empty()) {
    WEFT_TRY(text.chat_template, template_in_file(template_file, std::move(special)));
  } else if (auto templates = templates_of(gguf); !templates.empty()) {
    WEFT_TRY(text.chat_template,
             ChatTemplate::from_sources(std::move(templates), std::move(special), {}, ChatTemplate::Faults::keep));
  }
  return text;
}

void warn_of_fault(const TextSide& text) {
  if (!text.chat_template) return;
  if (const auto fault = text.chat_template->fault())
    log_warning("chats are refused, since the model's chat template does not parse: ", fault->message());
}

}  // namespace

std::vector<int32_t> named_end_ids(const Tokenizer& tokenizer) {
  // Where answers have several channels, <|end|> closes a message only.
  const auto both = [&](const char* one, const char* other) {
    return tokenizer.find_token(one) && tokenizer.find_token(other);
  };
  const bool channels = both("<|return|>", "<|call|>") || both("<|calls|>", "<|flush|>");
  std::vector<int32_t> ids;
  for (const std::string_view name : kEndNames)
    if (const auto id = tokenizer.find_token(name); id && !(channels && name == "<|end|>")) ids.push_back(*id);
  return ids;
}

FileStamps text_files(const std::string& path) {
  FileStamps files;
  if (!is_directory(path)) return files;  // all is in a GGUF file
  for (const char* part : {"/", "/llm/"})
    for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                             "tokenizer.model", "tekken.json", "chat_template.jinja", "chat_template.json",
                             "processor_config.json", "preprocessor_config.json"})
      files.add(path + part + name);
  return files;
}

Result<TextSide> load_text(const std::string& path, const std::string& template_file, const std::string& mmproj) {
  WEFT_TRY(const std::shared_ptr<const Checkpoint> checkpoint, Checkpoint::open_dummy(path, mmproj));
  if (const GgufTokenizer* gguf = checkpoint->gguf_tokenizer()) {
    WEFT_TRY(TextSide text, load_gguf_text(*gguf, template_file));
    if (text.tokenizer && !checkpoint->gguf_media_settings().is_null()) {
      WEFT_TRY(text.media, MediaProcessor::from(SettingsSource(checkpoint->gguf_media_settings())));
    }
    warn_of_fault(text);
    return text;
  }
  TextSide text;
  // VILA keeps its tokenizer with the language model.
  const Json* part = checkpoint->config().find("llm_cfg");
  const std::string text_path = part && !is_file(path + "/tokenizer.json") ? path + "/llm" : path;
  auto tokenizer = Tokenizer::from_folder(text_path);
  if (tokenizer.ok()) text.tokenizer = std::move(tokenizer).value();
  else if (tokenizer.error().code() != Code::not_found) return std::move(tokenizer).error();
  auto chat_template = [&]() -> Result<std::shared_ptr<const ChatTemplate>> {
    if (template_file.empty()) return ChatTemplate::from_folder(text_path);
    WEFT_TRY(Json special, ChatTemplate::special_tokens_of(text_path));
    return template_in_file(template_file, std::move(special));
  }();
  if (chat_template.ok()) text.chat_template = std::move(chat_template).value();
  else if (!template_file.empty() || chat_template.error().code() != Code::not_found)
    return std::move(chat_template).error();
  warn_of_fault(text);
  if (text.tokenizer) {
    WEFT_TRY(text.media, MediaProcessor::from_folder(path));
  }
  return text;
}

}  // namespace weft
