// Opening a GGUF file, or all parts of a split one.
#include <cstdio>

#include "checkpoint/builder.h"
#include "checkpoint/gguf_architecture.h"
#include "checkpoint/gguf_mmproj.h"

namespace weft {
namespace {

std::unique_ptr<GgufTokenizer> tokenizer_of(const GgufMetadata& m) {
  auto t = std::make_unique<GgufTokenizer>();
  t->model = m.text("tokenizer.ggml.model"), t->pre = m.text("tokenizer.ggml.pre");
  if (const auto* list = m.texts("tokenizer.ggml.tokens")) t->tokens = *list;
  if (const auto* list = m.texts("tokenizer.ggml.merges")) t->merges = *list;
  if (const auto* list = m.numbers("tokenizer.ggml.scores")) t->scores.assign(list->begin(), list->end());
  if (const auto* list = m.integers("tokenizer.ggml.token_type")) t->token_type.assign(list->begin(), list->end());
  if (t->scores.size() != t->tokens.size()) t->scores.clear();
  if (t->token_type.size() != t->tokens.size()) t->token_type.clear();
  t->bos = gguf_token_id(m, "bos"), t->eos = gguf_token_id(m, "eos"), t->eot = gguf_token_id(m, "eot");
  t->unknown = gguf_token_id(m, "unknown"), t->separator = gguf_token_id(m, "seperator");
  t->padding = gguf_token_id(m, "padding"), t->mask = gguf_token_id(m, "mask");
  t->add_bos = m.flag("tokenizer.ggml.add_bos_token"), t->add_eos = m.flag("tokenizer.ggml.add_eos_token");
  t->add_space_prefix = m.flag("tokenizer.ggml.add_space_prefix");
  t->remove_extra_spaces = m.flag("tokenizer.ggml.remove_extra_whitespaces");
  if (const auto* bytes = m.integers("tokenizer.ggml.precompiled_charsmap"))
    for (const int64_t byte : *bytes) t->charsmap.push_back(static_cast<char>(byte));
  t->chat_template = m.text("tokenizer.chat_template");
  if (const auto* names = m.texts("tokenizer.chat_templates"))
    for (const std::string_view name : *names)
      if (const std::string_view source = m.text("tokenizer.chat_template." + std::string(name)); !source.empty())
        t->named_chat_templates.emplace_back(name, source);
  return t;
}

// "PREFIX-00001-of-00003.gguf": the path up to the dash, and how many parts there are.
struct SplitName {
  std::string prefix;
  int64_t parts = 0;
};
std::optional<SplitName> split_name(const std::string& path) {
  constexpr size_t kLength = sizeof "-00001-of-00003.gguf" - 1;
  if (path.size() <= kLength) return std::nullopt;
  const std::string end = path.substr(path.size() - kLength);
  int number = 0, parts = 0, read = 0;
  if (std::sscanf(end.c_str(), "-%5d-of-%5d.gguf%n", &number, &parts, &read) != 2 ||
      read != static_cast<int>(kLength) || number < 1 || parts < number)
    return std::nullopt;
  return SplitName{path.substr(0, path.size() - kLength), parts};
}
std::string part_path(const SplitName& name, int64_t number) {
  char end[64];
  std::snprintf(end, sizeof end, "-%05d-of-%05d.gguf", static_cast<int>(number), static_cast<int>(name.parts));
  return name.prefix + end;
}

// One file; its tensors know where they are.
Result<GgufHeader> read_file_header(CheckpointBuilder& builder, const std::string& path) {
  WEFT_TRY(const int file, builder.map(path));
  auto parsed = parse_gguf(builder.file(file).bytes(), &builder.file(file));
  if (!parsed.ok()) return std::move(parsed).error().with(path);
  builder.keep_pins(std::move(parsed->pins));
  for (TensorInfo& tensor : parsed->tensors) tensor.file = file;
  return parsed;
}

// Appends the tensors of the other parts to the first part's header.
Status read_parts(CheckpointBuilder& builder, const std::string& path, GgufHeader& header) {
  const int64_t count = header.metadata.integer("split.count", 1);
  if (count <= 1) return {};
  const std::optional<SplitName> name = split_name(path);
  if (!name || name->parts != count)
    return fail(Code::data_corrupt, path, ": metadata key split.count is ", count,
                ", so the file's name must end in -00001-of-", part_path({"", count}, count).substr(10));
  for (int64_t number = 2; number <= count; ++number) {
    const std::string other = part_path(*name, number);
    if (!is_file(other)) return fail(Code::not_found, "part ", other, " is missing; the model has ", count, " parts");
    WEFT_TRY(GgufHeader part, read_file_header(builder, other));
    for (const auto& [key, want] : {std::pair<const char*, int64_t>{"split.no", number - 1}, {"split.count", count}})
      if (const int64_t found = part.metadata.integer(key, -1); found != want)
        return fail(Code::data_corrupt, other, ": metadata key ", key, " is ", found, ", but must be ", want);
    for (TensorInfo& tensor : part.tensors) header.tensors.push_back(std::move(tensor));
  }
  const auto tensors = static_cast<int64_t>(header.tensors.size());
  if (const int64_t stated = header.metadata.integer("split.tensors.count", tensors); stated != tensors)
    return fail(Code::data_corrupt, path, ": metadata key split.tensors.count is ", stated, ", but the parts have ",
                tensors, " tensors");
  return {};
}

// What newer converters keep of generation_config.json.
constexpr std::pair<const char*, const char*> kSampling[] = {{"general.sampling.temp", "temperature"},
                                                             {"general.sampling.top_k", "top_k"},
                                                             {"general.sampling.top_p", "top_p"},
                                                             {"general.sampling.min_p", "min_p"},
                                                             {"general.sampling.penalty_repeat", "repetition_penalty"}};

}  // namespace

std::span<const std::pair<const char*, const char*>> gguf_sampling_keys() { return kSampling; }

Status read_gguf(CheckpointBuilder& builder, const std::string& given, bool config_only) {
  // Any part stands for the whole.
  const std::optional<SplitName> split = split_name(given);
  const std::string path = split ? part_path(*split, 1) : given;
  if (!is_file(path)) return fail(Code::not_found, "part ", path, " is missing; the first part has the metadata");
  WEFT_TRY(GgufHeader header, read_file_header(builder, path));
  if (const int64_t number = header.metadata.integer("split.no", 0); number != 0)
    return fail(Code::data_corrupt, path, ": metadata key split.no is ", number, ", but this is not the first part");
  WEFT_RETURN_IF_ERROR(read_parts(builder, path, header));
  const auto architecture = gguf_architecture(header.metadata);
  if (!architecture.ok()) return Error(architecture.error()).with(path);
  auto config = gguf_config(header);
  if (!config.ok()) return std::move(config).error().with(path);
  Json whole = *config;
  std::optional<GgufHeader> encoder;
  if (!builder.mmproj.empty()) {
    WEFT_TRY(encoder, read_file_header(builder, builder.mmproj));
    auto media = gguf_media(*encoder, *config, header.metadata);
    if (!media.ok()) return std::move(media).error().with(builder.mmproj).about("mmproj");
    whole = std::move(media->config);
    builder.set_media_settings(std::move(media->settings));
    builder.prefix = media->text_prefix;
  }
  if (config_only && config->find("rope_scaling")->find("rope_type") &&
      config->find("rope_scaling")->find("rope_type")->as_string() == "factors")
    whole.set("rope_scaling", nullptr);  // the factors are a tensor, and divisors cannot be invented
  Json generation = Json::object();
  for (const char* key : {"bos_token_id", "eos_token_id"})
    if (const Json* id = config->find(key)) generation.set(key, *id);
  for (const auto& [key, name] : kSampling)
    if (header.metadata.has(key)) generation.set(name, header.metadata.number(key, 0));
  builder.set_generation_config(std::move(generation));
  builder.set_config(std::move(whole));
  builder.set_gguf_tokenizer(tokenizer_of(header.metadata));
  if (config_only) return {};
  Status added = add_gguf_tensors(builder, **architecture, header);
  if (!added.ok()) return Error(added.error()).with(path);
  builder.prefix.clear();
  if (encoder) added = add_gguf_media_tensors(builder, *encoder);
  if (!added.ok()) return Error(added.error()).with(builder.mmproj);
  return {};
}

}  // namespace weft
