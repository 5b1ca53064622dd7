#include "api/gguf_items.h"

#include <algorithm>
#include <filesystem>

#include "api/text_side.h"
#include "base/files.h"
#include "checkpoint/gguf_architecture.h"
#include "checkpoint/hf_config.h"

namespace weft {
namespace {

void put_vocabulary(const GgufVocabulary& v, GgufItems& items) {
  const auto put = [&](const char* name, GgufItem item) {
    items.emplace_back(std::string("tokenizer.ggml.") + name, std::move(item));
  };
  put("model", v.model);
  if (!v.pre.empty()) put("pre", v.pre);
  put("tokens", v.tokens);
  if (!v.token_types.empty()) put("token_type", v.token_types);
  if (!v.scores.empty()) put("scores", v.scores);
  if (!v.merges.empty()) put("merges", v.merges);
  const std::pair<const char*, std::optional<int32_t>> ids[] = {{"unknown_token_id", v.unknown_id},
                                                                {"padding_token_id", v.padding_id},
                                                                {"bos_token_id", v.bos_id},
                                                                {"seperator_token_id", v.separator_id},
                                                                {"mask_token_id", v.mask_id}};
  for (const auto& [name, id] : ids)
    if (id) put(name, static_cast<uint32_t>(*id));
  const std::pair<const char*, std::optional<bool>> flags[] = {{"add_bos_token", v.add_bos},
                                                               {"add_eos_token", v.add_eos},
                                                               {"add_space_prefix", v.add_space_prefix},
                                                               {"remove_extra_whitespaces", v.remove_extra_spaces}};
  for (const auto& [name, flag] : flags)
    if (flag) put(name, *flag);
}

// The ids that end an answer: the tokenizer's own end of a text, of a turn and of a message are the keys for them.
void put_ends(const Checkpoint& checkpoint, std::optional<int32_t> own, GgufExtras& extras) {
  const Json* list = checkpoint.generation_config().find("eos_token_id");
  if (!list || list->is_null()) list = checkpoint.config().find("eos_token_id");
  std::vector<int32_t> ends;
  if (own) ends.push_back(*own);
  const auto add = [&](const Json& id) {
    if (!id.is_integer() || id.as_integer() < 0) return;
    const auto value = static_cast<int32_t>(id.as_integer());
    if (std::ranges::find(ends, value) == ends.end()) ends.push_back(value);
  };
  if (list && list->is_array()) std::ranges::for_each(list->items(), add);
  else if (list) add(*list);
  constexpr const char* kKeys[] = {"eos", "eot", "eom"};
  for (size_t i = 0; i < ends.size() && i < std::size(kKeys); ++i)
    extras.items.emplace_back(std::string("tokenizer.ggml.") + kKeys[i] + "_token_id", static_cast<uint32_t>(ends[i]));
  if (ends.size() > std::size(kKeys))
    extras.notes.push_back("the file says three of the " + std::to_string(ends.size()) + " tokens that end an answer");
}

void put_templates(const std::vector<ChatTemplate::Named>& templates, GgufItems& items) {
  std::vector<std::string> names;
  for (const auto& [name, source] : templates) {
    if (name == "default") {
      items.emplace_back("tokenizer.chat_template", source);
      continue;
    }
    items.emplace_back("tokenizer.chat_template." + name, source);
    names.push_back(name);
  }
  if (!names.empty()) items.emplace_back("tokenizer.chat_templates", std::move(names));
}

Result<std::vector<ChatTemplate::Named>> templates_in(const std::string& folder) {
  const auto found = ChatTemplate::from_folder(folder);
  if (!found.ok()) {
    if (found.error().code() == Code::not_found) return std::vector<ChatTemplate::Named>();
    return Error(found.error());
  }
  std::vector<ChatTemplate::Named> templates{{"default", (*found)->source()}};
  if ((*found)->tool_source() != (*found)->source()) templates.emplace_back("tool_use", (*found)->tool_source());
  return templates;
}

bool has_tokenizer(const Checkpoint& checkpoint) {
  if (const GgufTokenizer* gguf = checkpoint.gguf_tokenizer())
    return !gguf->model.empty() && gguf->model != "none" && gguf->model != "no_vocab";
  return std::ranges::any_of(std::initializer_list<const char*>{"tokenizer.json", "tokenizer.model", "tekken.json"},
                             [&](const char* name) { return is_file(checkpoint.path() + "/" + name); });
}

}  // namespace

Result<GgufExtras> gguf_extras(const Checkpoint& checkpoint, size_t rows) {
  GgufExtras extras;
  std::filesystem::path path(checkpoint.path());
  if (!path.has_filename()) path = path.parent_path();
  extras.items.emplace_back("general.name", checkpoint.is_gguf() ? path.stem().string() : path.filename().string());
  for (const auto& [key, name] : gguf_sampling_keys())
    if (const Json* value = checkpoint.generation_config().find(name); value && value->is_number()) {
      if (value->is_integer()) extras.items.emplace_back(key, static_cast<int32_t>(value->as_integer()));
      else extras.items.emplace_back(key, static_cast<float>(value->as_number()));
    }
  if (!has_tokenizer(checkpoint)) {
    extras.items.emplace_back("tokenizer.ggml.model", std::string("none"));
    extras.notes.emplace_back("the model has no tokenizer, so the file has none");
    put_ends(checkpoint, std::nullopt, extras);
    return extras;
  }
  GgufVocabulary vocabulary;
  std::vector<ChatTemplate::Named> templates;
  if (const GgufTokenizer* gguf = checkpoint.gguf_tokenizer()) {
    vocabulary = vocabulary_of(*gguf), templates = templates_of(*gguf);
  } else {
    WEFT_TRY(vocabulary, gguf_vocabulary_of(checkpoint.path(), rows));
    WEFT_TRY(templates, templates_in(checkpoint.path()));
  }
  put_vocabulary(vocabulary, extras.items);
  put_ends(checkpoint, vocabulary.eos_id, extras);
  put_templates(templates, extras.items);
  return extras;
}

}  // namespace weft
