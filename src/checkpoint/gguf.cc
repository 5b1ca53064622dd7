// Reading GGUF: the header (metadata, list of tensors), then the tensors under Hugging Face's names with notes on what
// the converter did to their values.
#include <cstring>
#include <optional>

#include "checkpoint/builder.h"
#include "checkpoint/gguf_metadata.h"
#include "checkpoint/hf_config.h"

namespace weft {
namespace {

constexpr uint64_t kMaxEntries = 1 << 20, kMaxArray = uint64_t{1} << 26;

// GGUF's value types.
enum Type : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

// Reads little-endian values; every step is checked against the end of the file.
class Reader {
 public:
  Reader(std::span<const std::byte> file, const MappedFile* source) : file_(file), source_(source) {}
  size_t at() const { return at_; }
  // Of all that was read.
  std::vector<MappedFile::Pin> take_pins() { return std::move(pins_); }

  template <class T>
  Result<T> scalar() {
    if (file_.size() - at_ < sizeof(T))
      return fail(Code::data_corrupt, "the file ends inside its header (byte ", at_, ")");
    WEFT_RETURN_IF_ERROR(bring(sizeof(T)));
    T value;
    std::memcpy(&value, file_.data() + at_, sizeof value);
    at_ += sizeof value;
    return value;
  }

  Result<std::string_view> text() {
    WEFT_TRY(const uint64_t length, scalar<uint64_t>());
    if (length > file_.size() - at_)
      return fail(Code::data_corrupt, "a string of ", length, " bytes at byte ", at_, " goes beyond the file");
    WEFT_RETURN_IF_ERROR(bring(length));
    const std::string_view value(reinterpret_cast<const char*>(file_.data()) + at_, length);
    at_ += length;
    return value;
  }

  Result<GgufValue> value(uint32_t type) {
    switch (type) {
      case u8: return integer<uint8_t>();
      case i8: return integer<int8_t>();
      case u16: return integer<uint16_t>();
      case i16: return integer<int16_t>();
      case u32: return integer<uint32_t>();
      case i32: return integer<int32_t>();
      case u64: return integer<uint64_t>();
      case i64: return integer<int64_t>();
      case f32: return number<float>();
      case f64: return number<double>();
      case boolean: {
        WEFT_TRY(const uint8_t bit, scalar<uint8_t>());
        return GgufValue{bit != 0};
      }
      case string: {
        WEFT_TRY(const std::string_view words, text());
        return GgufValue{words};
      }
      case array: return list();
    }
    return fail(Code::data_corrupt, "unknown metadata type ", type, " at byte ", at_);
  }

 private:
  template <class T>
  Result<GgufValue> integer() {
    WEFT_TRY(const T value, scalar<T>());
    return GgufValue{static_cast<int64_t>(value)};
  }
  template <class T>
  Result<GgufValue> number() {
    WEFT_TRY(const T value, scalar<T>());
    return GgufValue{static_cast<double>(value)};
  }

  Result<GgufValue> list() {
    WEFT_TRY(const uint32_t type, scalar<uint32_t>());
    WEFT_TRY(const uint64_t count, scalar<uint64_t>());
    if (type == array)
      return fail(Code::unsupported, "an array inside an array in the metadata at byte ", at_,
                  ", which is not supported");
    if (count > kMaxArray || count > file_.size() - at_)
      return fail(Code::data_corrupt, "an array of ", count, " entries at byte ", at_,
                  "; the file, or this reader, has no room for so many");
    std::vector<std::string_view> texts;
    std::vector<int64_t> integers;
    std::vector<double> numbers;
    for (uint64_t i = 0; i < count; ++i) {
      WEFT_TRY(const GgufValue item, value(type));
      if (const auto* words = std::get_if<std::string_view>(&item.value)) texts.push_back(*words);
      else if (const auto* whole = std::get_if<int64_t>(&item.value)) integers.push_back(*whole);
      else if (const auto* real = std::get_if<double>(&item.value)) numbers.push_back(*real);
      else integers.push_back(std::get<bool>(item.value));
    }
    if (type == string) return GgufValue{std::move(texts)};
    if (type == f32 || type == f64) return GgufValue{std::move(numbers)};
    return GgufValue{std::move(integers)};
  }

  // Pins the next `bytes`, which the file has, and some more at a time.
  Status bring(size_t bytes) {
    if (!source_ || at_ + bytes <= pinned_) return {};
    const size_t end = std::min(file_.size(), std::max(at_ + bytes, pinned_ + kAhead));
    WEFT_TRY(MappedFile::Pin pin, source_->pin(file_.subspan(pinned_, end - pinned_)));
    pins_.push_back(std::move(pin));
    pinned_ = end;
    return {};
  }

  static constexpr size_t kAhead = size_t{1} << 20;
  std::span<const std::byte> file_;
  const MappedFile* source_;
  std::vector<MappedFile::Pin> pins_;
  size_t at_ = 0, pinned_ = 0;
};

struct Placed {
  TensorInfo tensor;
  uint64_t offset = 0;
};

Result<Placed> read_tensor_info(Reader& reader) {
  Placed placed;
  WEFT_TRY(const std::string_view name, reader.text());
  if (name.empty()) return fail(Code::data_corrupt, "a tensor has no name");
  placed.tensor.name = name;
  WEFT_TRY(const uint32_t dims, reader.scalar<uint32_t>());
  if (dims > 4) return fail(Code::data_corrupt, "tensor ", name, " has ", dims, " dimensions; at most 4 are possible");
  int64_t values = 1;
  for (uint32_t d = 0; d < dims; ++d) {
    WEFT_TRY(const uint64_t extent, reader.scalar<uint64_t>());
    if (extent == 0 || extent > (uint64_t{1} << 40))
      return fail(Code::data_corrupt, "tensor ", name, " has a dimension of size ", extent);
    if (__builtin_mul_overflow(values, static_cast<int64_t>(extent), &values))
      return fail(Code::data_corrupt, "tensor ", name, " has more values than a file can hold");
    placed.tensor.shape.insert(placed.tensor.shape.begin(), static_cast<int64_t>(extent));
  }
  WEFT_TRY(const uint32_t type, reader.scalar<uint32_t>());
  const std::optional<StorageType> storage = storage_from_ggml(type);
  placed.tensor.type = storage.value_or(StorageType::unknown);
  if (!storage) placed.tensor.unknown_type = "ggml type " + std::to_string(type);
  WEFT_TRY(placed.offset, reader.scalar<uint64_t>());
  return placed;
}

}  // namespace

Result<GgufHeader> parse_gguf(std::span<const std::byte> file, const MappedFile* source) {
  Reader reader(file, source);
  WEFT_TRY(const uint32_t magic, reader.scalar<uint32_t>());
  if (magic != 0x46554747) return fail(Code::data_corrupt, "not a GGUF file");
  WEFT_TRY(const uint32_t version, reader.scalar<uint32_t>());
  if (version != 3 && version != 2) return fail(Code::unsupported, "GGUF version ", version, " (3 is supported)");
  WEFT_TRY(const uint64_t tensor_count, reader.scalar<uint64_t>());
  WEFT_TRY(const uint64_t value_count, reader.scalar<uint64_t>());
  if (tensor_count > kMaxEntries || value_count > kMaxEntries)
    return fail(Code::data_corrupt, "the header claims ", tensor_count, " tensors and ", value_count,
                " metadata values; at most ", kMaxEntries, " of each are read");
  GgufHeader header;
  for (uint64_t i = 0; i < value_count; ++i) {
    WEFT_TRY(const std::string_view key, reader.text());
    WEFT_TRY(const uint32_t type, reader.scalar<uint32_t>());
    auto value = reader.value(type);
    if (!value.ok()) return std::move(value).error().with("key " + std::string(key));
    if (!header.metadata.values.emplace(std::string(key), std::move(value).value()).second)
      return fail(Code::data_corrupt, "metadata key ", key, " occurs twice");
  }
  std::vector<Placed> placed;
  for (uint64_t i = 0; i < tensor_count; ++i) {
    WEFT_TRY(Placed tensor, read_tensor_info(reader));
    placed.push_back(std::move(tensor));
  }
  const int64_t alignment = header.metadata.integer("general.alignment", 32);
  if (alignment < 1 || alignment > 65536)
    return fail(Code::data_corrupt, "general.alignment is ", alignment, "; it must be from 1 to 65536");
  const uint64_t data = (reader.at() + alignment - 1) / alignment * alignment;
  for (Placed& p : placed) {
    if (p.tensor.type == StorageType::unknown) {  // its size is not known, and its bytes are not read
      header.tensors.push_back(std::move(p.tensor));
      continue;
    }
    const StorageLayout shape = layout(p.tensor.type);
    if (p.tensor.cols() % shape.block_values != 0)
      return fail(Code::data_corrupt, "tensor ", p.tensor.name, " has rows of ", p.tensor.cols(), " values; ",
                  name(p.tensor.type), " stores them in blocks of ", shape.block_values,
                  ", so the length of a row must be a multiple of that");
    uint64_t bytes = static_cast<uint64_t>(p.tensor.values() / shape.block_values);
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(shape.block_bytes), &bytes) || data > file.size() ||
        p.offset > file.size() - data || bytes > file.size() - data - p.offset)
      return fail(Code::data_corrupt, "tensor ", p.tensor.name, " goes beyond the end of the file; it is truncated");
    p.tensor.data = file.subspan(data + p.offset, bytes);
    header.tensors.push_back(std::move(p.tensor));
  }
  header.pins = reader.take_pins();
  return header;
}

namespace {

// GGUF's names of a layer's parts, and Hugging Face's.
constexpr std::pair<std::string_view, std::string_view> kLayerNames[] = {
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"attn_norm", "input_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
    {"ffn_norm", "post_attention_layernorm"},
};
constexpr std::pair<std::string_view, std::string_view> kGemmaNames[] = {
    {"post_attention_norm", "post_attention_layernorm"},
    {"ffn_norm", "pre_feedforward_layernorm"},
    {"post_ffw_norm", "post_feedforward_layernorm"},
};

// Empty if the name is not known; it then stays GGUF's own and shows up as unused.
std::string hf_name(std::string_view name, bool gemma) {
  if (name == "token_embd.weight") return "model.embed_tokens.weight";
  if (name == "output_norm.weight") return "model.norm.weight";
  if (name == "output.weight") return "lm_head.weight";
  if (name == "rope_freqs.weight") return "rope_factors";
  if (!name.starts_with("blk.")) return "";
  const size_t dot = name.find('.', 4), end = name.rfind('.');
  if (dot == std::string_view::npos || end <= dot) return "";
  const std::string_view layer = name.substr(4, dot - 4), part = name.substr(dot + 1, end - dot - 1),
                         kind = name.substr(end);
  const auto full = [&](std::string_view hf) {
    return "model.layers." + std::string(layer) + "." + std::string(hf) + std::string(kind);
  };
  if (gemma)
    for (const auto& [gguf, hf] : kGemmaNames)
      if (part == gguf) return full(hf);
  for (const auto& [gguf, hf] : kLayerNames)
    if (part == gguf) return full(hf);
  return "";
}

std::unique_ptr<GgufTokenizer> tokenizer_of(const GgufMetadata& m) {
  auto t = std::make_unique<GgufTokenizer>();
  t->model = m.text("tokenizer.ggml.model"), t->pre = m.text("tokenizer.ggml.pre");
  if (const auto* list = m.texts("tokenizer.ggml.tokens")) t->tokens = *list;
  if (const auto* list = m.texts("tokenizer.ggml.merges")) t->merges = *list;
  if (const auto* list = m.numbers("tokenizer.ggml.scores")) t->scores.assign(list->begin(), list->end());
  if (const auto* list = m.integers("tokenizer.ggml.token_type")) t->token_type.assign(list->begin(), list->end());
  if (t->scores.size() != t->tokens.size()) t->scores.clear();
  if (t->token_type.size() != t->tokens.size()) t->token_type.clear();
  t->bos = m.id("tokenizer.ggml.bos_token_id"), t->eos = m.id("tokenizer.ggml.eos_token_id"),
  t->eot = m.id("tokenizer.ggml.eot_token_id");
  t->unknown = m.id("tokenizer.ggml.unknown_token_id"), t->separator = m.id("tokenizer.ggml.seperator_token_id");
  t->padding = m.id("tokenizer.ggml.padding_token_id"), t->mask = m.id("tokenizer.ggml.mask_token_id");
  t->add_bos = m.flag("tokenizer.ggml.add_bos_token"), t->add_eos = m.flag("tokenizer.ggml.add_eos_token");
  t->add_space_prefix = m.flag("tokenizer.ggml.add_space_prefix");
  t->chat_template = m.text("tokenizer.chat_template");
  if (const auto* names = m.texts("tokenizer.chat_templates"))
    for (const std::string_view name : *names)
      if (const std::string_view source = m.text("tokenizer.chat_template." + std::string(name)); !source.empty())
        t->named_chat_templates.emplace_back(name, source);
  return t;
}

// The converter reorders the rows of these matrices (the values of these biases) within each head.
Status set_rotary_heads(TensorInfo& tensor, int64_t heads) {
  const int64_t rows = tensor.shape.size() <= 1 ? tensor.cols() : tensor.rows();
  if (heads < 1 || heads > rows || rows % (2 * heads) != 0)
    return fail(Code::data_corrupt, "tensor ", tensor.name, " has ", rows, " rows, which cannot be divided into ",
                heads, " attention heads with an even number of rows each");
  if (heads > HfConfig::kMaxCount) return fail(Code::data_corrupt, "tensor ", tensor.name, " has ", heads, " heads");
  tensor.rotary_heads = static_cast<int>(heads);
  return {};
}

Status add_tensors(CheckpointBuilder& builder, GgufHeader& header, int file) {
  const std::string_view arch = header.metadata.text("general.architecture");
  const bool gemma = arch == "gemma3", rotary_order = arch == "llama";
  const int64_t heads = header.metadata.integer(std::string(arch) + ".attention.head_count", 0);
  const int64_t kv_heads = header.metadata.integer(std::string(arch) + ".attention.head_count_kv", heads);
  for (TensorInfo& tensor : header.tensors) {
    const std::string hf = hf_name(tensor.name, gemma);
    if (!hf.empty()) tensor.name = hf;
    tensor.file = file, tensor.source = &builder.file(file);
    if (gemma && tensor.name.ends_with("norm.weight")) tensor.offset = -1;  // stored as 1 + w
    const bool is_q = tensor.name.ends_with("q_proj.weight") || tensor.name.ends_with("q_proj.bias");
    const bool is_k = tensor.name.ends_with("k_proj.weight") || tensor.name.ends_with("k_proj.bias");
    if (rotary_order && (is_q || is_k)) WEFT_RETURN_IF_ERROR(set_rotary_heads(tensor, is_q ? heads : kv_heads));
    WEFT_RETURN_IF_ERROR(builder.add(std::move(tensor)));
  }
  return {};
}

}  // namespace

Status read_gguf(CheckpointBuilder& builder, const std::string& path, bool config_only) {
  WEFT_TRY(const int file, builder.map(path));
  auto parsed = parse_gguf(builder.file(file).bytes(), &builder.file(file));
  if (!parsed.ok()) return std::move(parsed).error().with(path);
  GgufHeader header = std::move(parsed).value();
  builder.keep_pins(std::move(header.pins));
  auto config = gguf_config(header);
  if (!config.ok()) return std::move(config).error().with(path);
  if (config_only) config->set("rope_scaling", nullptr);  // its factors are a tensor, and divisors cannot be invented
  Json generation = Json::object();
  for (const char* key : {"bos_token_id", "eos_token_id"})
    if (const Json* id = config->find(key)) generation.set(key, *id);
  builder.set_generation_config(std::move(generation));
  builder.set_config(std::move(config).value());
  builder.set_gguf_tokenizer(tokenizer_of(header.metadata));
  if (config_only) return {};
  if (Status added = add_tensors(builder, header, file); !added.ok()) return Error(added.error()).with(path);
  return {};
}

}  // namespace weft
