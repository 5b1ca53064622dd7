// The part of a tokenizer that is not in the bridge: which files a folder has, and the names of its special tokens.
#include "text/tokenizer.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/bridge_call.h"
#include "base/files.h"
#include "base/json.h"
#include "text/gguf_bridge.h"

namespace weft {
namespace {

// "<s>", or {"content": "<s>", ...} as older files have it.
std::string token_name(const Json* value) {
  if (value != nullptr && value->is_object()) value = value->find("content");
  return value != nullptr && value->is_string() ? value->as_string() : std::string();
}

std::shared_ptr<const WeftTokenizer> owned(WeftTokenizer* tokenizer) {
  return {tokenizer, [](const WeftTokenizer* t) { weft_tokenizer_free(const_cast<WeftTokenizer*>(t)); }};
}

}  // namespace

Tokenizer::Tokenizer(std::shared_ptr<const WeftTokenizer> handle)
    : handle_(std::move(handle)), vocab_size_(static_cast<int32_t>(weft_tokenizer_end_id(handle_.get()))) {}

Tokenizer::~Tokenizer() = default;

namespace {

// A file that a tokenizer is read from, the best first.
enum class Source : uint8_t { json, sentencepiece, tekken };
constexpr std::pair<const char*, Source> kSources[] = {
    {"tokenizer.json", Source::json}, {"tokenizer.model", Source::sentencepiece}, {"tekken.json", Source::tekken}};

// A folder without any tokenizer takes token ids alone; one with another kind is a mistake to be told.
Error no_tokenizer(const std::string& folder) {
  const std::string path = folder + "/tokenizer.json";
  for (const char* other :
       {"spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt", "tokenizer.tiktoken", "tiktoken.model"})
    if (is_file(folder + "/" + other))
      return fail(Code::unsupported, "no file ", path, "; the folder has only ", other,
                  ", which is not read: convert it with the transformers library (AutoTokenizer.from_pretrained(...)"
                  ".save_pretrained(...))");
  return fail(Code::not_found, "no file ", path);
}

// tokenizer_config.json. Folders of older libraries have the tokens behind the vocabulary in added_tokens.json.
Result<std::string> config_of(const std::string& folder, Source source) {
  std::string text;
  if (is_file(folder + "/tokenizer_config.json")) {
    WEFT_TRY(text, read_file(folder + "/tokenizer_config.json"));
  }
  if (source != Source::sentencepiece || !is_file(folder + "/added_tokens.json")) return text;
  WEFT_TRY(const Json added, read_json_file(folder + "/added_tokens.json"));
  auto config = text.empty() ? Result<Json>(Json::object()) : parse_json(text);
  if (!config.ok() || !config->is_object() || !added.is_object() || config->find("added_tokens_decoder")) return text;
  Json tokens = Json::object();
  for (const Json::Member& member : added.members())
    tokens.set(member.second.dump(), Json::object({{"content", member.first}, {"special", true}}));
  config->set("added_tokens_decoder", std::move(tokens));
  return config->dump();
}

}  // namespace

Result<std::shared_ptr<const Tokenizer>> Tokenizer::from_folder(const std::string& folder) {
  const auto* const found =
      std::ranges::find_if(kSources, [&](const auto& source) { return is_file(folder + "/" + source.first); });
  if (found == std::end(kSources)) return no_tokenizer(folder);
  const std::string path = folder + "/" + found->first;
  WEFT_TRY(const std::string file, read_file(path, FileLimit::tokenizer));
  WEFT_TRY(const std::string config_text, config_of(folder, found->second));
  WeftError error;
  WeftTokenizer* handle =
      found->second == Source::json
          ? weft_tokenizer_from_json(file.data(), file.size(), config_text.data(), config_text.size(), &error)
          : weft_tokenizer_from_pieces(file.data(), file.size(), found->second == Source::tekken, config_text.data(),
                                       config_text.size(), &error);
  if (handle == nullptr) {
    Error taken = bridge::take(error);
    return fail(taken.code() == Code::unsupported ? Code::unsupported : Code::data_corrupt, path, ": ",
                taken.message());
  }
  auto tokenizer = std::shared_ptr<Tokenizer>(new Tokenizer(owned(handle)));
  if (const int64_t id = weft_tokenizer_end_token(handle, false); id >= 0)
    tokenizer->bos_id_ = static_cast<int32_t>(id);
  if (const int64_t id = weft_tokenizer_end_token(handle, true); id >= 0) tokenizer->eos_id_ = static_cast<int32_t>(id);
  // The map is the older of the two files; what tokenizer_config.json says counts.
  for (const char* name : {"/special_tokens_map.json", "/tokenizer_config.json"}) {
    if (!is_file(folder + name)) continue;
    WEFT_TRY(const Json config, read_json_file(folder + name));
    if (auto id = tokenizer->find_token(token_name(config.find("bos_token")))) tokenizer->bos_id_ = id;
    if (auto id = tokenizer->find_token(token_name(config.find("eos_token")))) tokenizer->eos_id_ = id;
    if (auto id = tokenizer->find_token(token_name(config.find("pad_token")))) tokenizer->padding_id_ = id;
  }
  return std::shared_ptr<const Tokenizer>(std::move(tokenizer));
}

Result<std::shared_ptr<const Tokenizer>> Tokenizer::from_gguf(GgufVocabulary vocabulary) {
  const bridge::BorrowedVocabulary borrowed(vocabulary);
  WeftError error;
  WeftTokenizer* handle = weft_tokenizer_from_gguf(&borrowed.raw, &error);
  if (handle == nullptr) {
    Error taken = bridge::take(error);
    return fail(taken.code() == Code::unsupported ? Code::unsupported : Code::data_corrupt,
                "GGUF metadata: ", taken.message());
  }
  auto tokenizer = std::shared_ptr<Tokenizer>(new Tokenizer(owned(handle)));
  tokenizer->bos_id_ = vocabulary.bos_id;
  tokenizer->eos_id_ = vocabulary.eos_id;
  tokenizer->padding_id_ = vocabulary.padding_id;
  return std::shared_ptr<const Tokenizer>(std::move(tokenizer));
}

Result<std::vector<int32_t>> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  WeftIds ids;
  WeftError error;
  if (!weft_tokenizer_encode(handle_.get(), text.data(), text.size(), options.add_special_tokens, options.parse_special,
                             options.most_tokens, &ids, &error, bridge::byte_of(options.stop))) {
    return bridge::take(error, options.stop);
  }
  return bridge::take(ids);
}

Result<EncodedPair> Tokenizer::encode_pair(std::string_view a, std::string_view b, EncodeOptions options) const {
  const std::string texts = std::string(a) + std::string(b);
  WeftIds ids, type_ids;
  WeftError error;
  if (!weft_tokenizer_encode_pair(handle_.get(), texts.data(), a.size(), b.size(), options.add_special_tokens,
                                  options.parse_special, &ids, &type_ids, &error, bridge::byte_of(options.stop))) {
    return bridge::take(error, options.stop);
  }
  return EncodedPair{bridge::take(ids), bridge::take(type_ids)};
}

std::string Tokenizer::decode(const std::vector<int32_t>& ids, bool skip_special) const {
  WeftBytes text;
  WeftError error;
  // Negative ids become huge ones, which are outside every vocabulary.
  const auto* data = reinterpret_cast<const uint32_t*>(ids.data());
  if (weft_tokenizer_decode(handle_.get(), data, ids.size(), skip_special, &text, &error)) return bridge::take(text);
  bridge::take(error.message);  // a decoder that fails on its own vocabulary: nothing that a caller could do about it
  return {};
}

std::string Tokenizer::token_bytes(int32_t id) const {
  return bridge::take(weft_tokenizer_token_bytes(handle_.get(), static_cast<uint32_t>(id)));
}

std::string Tokenizer::token_text(int32_t id) const {
  return bridge::take(weft_tokenizer_token_text(handle_.get(), static_cast<uint32_t>(id)));
}

std::optional<int32_t> Tokenizer::find_token(std::string_view text) const {
  const int64_t id = weft_tokenizer_find(handle_.get(), text.data(), text.size());
  return id < 0 ? std::nullopt : std::optional(static_cast<int32_t>(id));
}

bool Tokenizer::is_special(int32_t id) const {
  return weft_tokenizer_is_special(handle_.get(), static_cast<uint32_t>(id));
}

}  // namespace weft
