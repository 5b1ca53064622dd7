#include "text/gguf_tokenizer_files.h"

#include <utility>

#include "base/bridge_call.h"
#include "base/files.h"
#include "base/json.h"
#include "text/gguf_bridge.h"

namespace weft {

Status write_tokenizer_files(const GgufVocabulary& vocabulary, const NamedTemplates& templates,
                             const std::string& folder) {
  const auto works = Tokenizer::from_gguf(vocabulary);
  if (!works.ok()) return Error(works.error());
  const bridge::BorrowedVocabulary borrowed(vocabulary);
  WeftBytes json;
  WeftError error;
  if (!weft_gguf_to_tokenizer_json(&borrowed.raw, &json, &error)) return bridge::take(error);
  WEFT_RETURN_IF_ERROR(write_file(folder + "/tokenizer.json", bridge::take(json)));

  Json config = Json::object({{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}});
  const std::pair<const char*, std::optional<int32_t>> named[] = {{"bos_token", vocabulary.bos_id},
                                                                  {"eos_token", vocabulary.eos_id},
                                                                  {"unk_token", vocabulary.unknown_id},
                                                                  {"pad_token", vocabulary.padding_id}};
  for (const auto& [name, id] : named)
    if (id && *id >= 0 && static_cast<size_t>(*id) < vocabulary.tokens.size())
      config.set(name, vocabulary.tokens[static_cast<size_t>(*id)]);
  if (templates.size() == 1) {
    config.set("chat_template", templates[0].second);
  } else if (!templates.empty()) {
    Json list = Json::array();
    for (const auto& [name, source] : templates) list.push_back(Json::object({{"name", name}, {"template", source}}));
    config.set("chat_template", std::move(list));
  }
  return write_file(folder + "/tokenizer_config.json", config.dump() + "\n");
}

namespace {

// A folder's own name of its first and last token, and what the post-processor puts there.
Status set_ends(const Json& found, const Tokenizer& tokenizer, GgufVocabulary& v) {
  const auto set = [&](const char* key, const char* what, std::optional<int32_t> named, std::optional<int32_t>& id,
                       std::optional<bool>& add) -> Status {
    const Json* const put = found.find(key);
    id = named;
    add = put->is_integer();
    if (!*add) return {};
    const auto put_id = static_cast<int32_t>(put->as_integer());
    if (named && *named != put_id)
      return fail(Code::unsupported, "tokenizer.json puts the token ", tokenizer.token_text(put_id), " at the text's ",
                  what, ", and tokenizer_config.json names ", tokenizer.token_text(*named),
                  ", which a GGUF file cannot express");
    id = put_id;
    return {};
  };
  WEFT_RETURN_IF_ERROR(set("starts_with", "beginning", tokenizer.bos_id(), v.bos_id, v.add_bos));
  return set("ends_with", "end", tokenizer.eos_id(), v.eos_id, v.add_eos);
}

}  // namespace

Result<GgufVocabulary> gguf_vocabulary_of(const std::string& folder, size_t rows) {
  const std::string path = folder + "/tokenizer.json";
  if (!is_file(path))
    return fail(Code::unsupported, "no file ", path, "; tokenizers are written into GGUF files from that file alone");
  WEFT_TRY(const std::string text, read_file(path, FileLimit::tokenizer));
  WEFT_TRY(const std::shared_ptr<const Tokenizer> tokenizer, Tokenizer::from_folder(folder));
  WeftBytes bytes;
  WeftError error;
  if (!weft_gguf_from_tokenizer_json(text.data(), text.size(), rows, &bytes, &error))
    return bridge::take(error).with(path);
  WEFT_TRY(const Json found, parse_json(bridge::take(bytes)));
  GgufVocabulary v;
  v.model = found.find("model")->as_string(), v.pre = found.find("pre")->as_string();
  for (const Json& token : found.find("tokens")->items()) v.tokens.push_back(token.as_string());
  for (const Json& kind : found.find("token_type")->items())
    v.token_types.push_back(static_cast<int32_t>(kind.as_integer()));
  if (const Json* merges = found.find("merges"))
    for (const Json& merge : merges->items()) v.merges.push_back(merge.as_string());
  if (const Json* scores = found.find("scores"))
    for (const Json& score : scores->items()) v.scores.push_back(static_cast<float>(score.as_number()));
  if (const Json* prefix = found.find("add_space_prefix")) v.add_space_prefix = prefix->as_bool();
  for (size_t id = 0; id < v.token_types.size(); ++id)
    if (v.token_types[id] == 2) v.unknown_id = static_cast<int32_t>(id);
  v.padding_id = tokenizer->padding_id();
  auto ends = set_ends(found, *tokenizer, v);
  if (!ends.ok()) return Error(ends.error()).with(path);
  return v;
}

}  // namespace weft
