#include "checkpoint/adapter.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <span>

#include "base/files.h"
#include "checkpoint/gguf_architecture.h"
#include "checkpoint/gguf_metadata.h"
#include "checkpoint/name_pattern.h"
#include "checkpoint/names.h"
#include "checkpoint/safetensors.h"

namespace weft {
namespace {

constexpr size_t kMostBytes = size_t{8} << 30;
constexpr int64_t kMostRank = 4096;
constexpr size_t kMostPattern = 512;    // characters of a key of rank_pattern or alpha_pattern
constexpr size_t kMostPatterns = 4096;  // keys of one of them

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

// ---- adapter_config.json -------------------------------------------------------------------------------------------

// A key that is neither absent nor null, false, 0, "" or an empty list or object.
bool is_set(const Json& config, const char* key) {
  const Json* value = config.find(key);
  if (!value || value->is_null()) return false;
  if (value->is_bool()) return value->as_bool();
  if (value->is_number()) return value->as_number() != 0;
  if (value->is_string()) return !value->as_string().empty();
  return value->is_array() ? !value->items().empty() : !value->members().empty();
}

std::string first_item(const Json& value) {
  if (value.is_array() && value.items().front().is_string()) return value.items().front().as_string();
  return value.dump();
}

// How the scale of a module follows from the configuration.
class PeftScales {
 public:
  static Result<PeftScales> from(const Json& config) {
    PeftScales scales;
    scales.rank_stabilised_ = is_set(config, "use_rslora");
    WEFT_TRY(scales.rank_, number(config, "r"));
    WEFT_TRY(scales.alpha_, number(config, "lora_alpha"));
    if (scales.rank_ < 1 || scales.rank_ != std::floor(scales.rank_))
      return fail(Code::invalid_argument, "r is ", config.find("r")->dump(), ", it must be a whole number above 0");
    WEFT_RETURN_IF_ERROR(patterns(config, "rank_pattern", scales.ranks_));
    WEFT_RETURN_IF_ERROR(patterns(config, "alpha_pattern", scales.alphas_));
    return scales;
  }

  Result<double> rank_of(const std::string& module) const {
    WEFT_TRY(const std::optional<double> own, find(ranks_, module));
    return own.value_or(rank_);
  }
  Result<float> scale_of(const std::string& module, int rank) const {
    WEFT_TRY(const std::optional<double> own, find(alphas_, module));
    const double alpha = own.value_or(alpha_);
    return static_cast<float>(rank_stabilised_ ? alpha / std::sqrt(static_cast<double>(rank)) : alpha / rank);
  }

 private:
  struct Pattern {
    NamePattern expression;
    double value;
  };

  static Result<double> number(const Json& config, const char* key) {
    const Json* value = config.find(key);
    if (!value || !value->is_number())
      return fail(Code::invalid_argument, key, value ? " is " + value->dump() : std::string(" is absent"),
                  ", it must be a number");
    return value->as_number();
  }

  // Keys are the ends of module names, or regular expressions for them (peft.utils.other.get_pattern_key).
  static Status patterns(const Json& config, const char* key, std::vector<Pattern>& into) {
    const Json* object = config.find(key);
    if (!object || object->is_null()) return {};
    if (!object->is_object()) return fail(Code::invalid_argument, key, " is ", object->type_name(), ", not an object");
    if (object->members().size() > kMostPatterns)
      return fail(Code::invalid_argument, key, " has ", object->members().size(), " keys, at most ", kMostPatterns,
                  " are taken");
    for (const auto& [name, value] : object->members()) {
      if (!value.is_number() || value.as_number() <= 0)
        return fail(Code::invalid_argument, key, " has ", value.dump(), " for ", name, ", not a number above 0");
      if (name.size() > kMostPattern)
        return fail(Code::invalid_argument, key, " has a key of ", name.size(), " characters, at most ", kMostPattern,
                    " are taken");
      auto pattern = NamePattern::compile("(?:.*\\.)?(?:" + name + ")", NamePattern::Match::whole);
      if (!pattern.ok())
        return fail(Code::invalid_argument, key, " has the key ", json_quote(name),
                    ", which cannot be used: ", pattern.error().message());
      into.push_back({std::move(pattern).value(), value.as_number()});
    }
    return {};
  }

  static Result<std::optional<double>> find(const std::vector<Pattern>& patterns, const std::string& module) {
    for (const Pattern& pattern : patterns) {
      WEFT_TRY(const bool matches, pattern.expression.matches(module));
      if (matches) return std::optional(pattern.value);
    }
    return std::optional<double>();
  }

  bool rank_stabilised_ = false;
  double rank_ = 0, alpha_ = 0;
  std::vector<Pattern> ranks_, alphas_;
};

// fan_in_fan_out says how the base model stores its weight, and changes nothing about A and B.
Status check_peft(const Json& config) {
  if (!config.is_object()) return fail(Code::invalid_argument, "it is ", config.type_name(), ", not an object");
  const Json* type = config.find("peft_type");
  if (!type || !type->is_string() || type->as_string() != "LORA")
    return fail(Code::unsupported, "peft_type is ", type ? type->dump() : "absent", "; LORA is supported");
  if (is_set(config, "modules_to_save"))
    return fail(Code::unsupported, "modules_to_save has ", first_item(*config.find("modules_to_save")),
                ": whole modules in place of the model's are not supported");
  const Json* bias = config.find("bias");
  if (bias && !bias->is_null() && (!bias->is_string() || bias->as_string() != "none"))
    return fail(Code::unsupported, "bias is ", bias->dump(), "; \"none\" is supported");
  for (const char* key : {"use_dora", "lora_bias", "use_qalora", "use_bdlora", "arrow_config", "layer_replication",
                          "trainable_token_indices", "alora_invocation_tokens"})
    if (is_set(config, key)) return fail(Code::unsupported, key, " is ", config.find(key)->dump(), ": not supported");
  return {};
}

// ---- Pairs ---------------------------------------------------------------------------------------------------------

struct Halves {
  const TensorInfo *a = nullptr, *b = nullptr;
};

class Reader {
 public:
  explicit Reader(const AdapterFiles& files) : file_(files.file) {
    adapter_->path = files.path, adapter_->file = files.file;
  }

  template <class... Facts>
  Error wrong(const TensorInfo& tensor, const Facts&... facts) const {
    return fail(Code::data_corrupt, "tensor ", tensor.name, facts...).with(file_);
  }

  Status add(const std::string& module, const TensorInfo& tensor, bool is_a) {
    if (tensor.shape.size() != 2) return wrong(tensor, " has ", tensor.shape.size(), " dimensions, a matrix has 2");
    const TensorInfo*& half = is_a ? halves_[module].a : halves_[module].b;
    if (half) return wrong(tensor, " and ", half->name, " are of the same module");
    half = &tensor;
    return {};
  }

  // `scale_of(module, rank)`: or an error.
  template <class ScaleOf>
  Result<std::shared_ptr<const Adapter>> finish(ScaleOf scale_of) {
    if (halves_.empty()) return fail(Code::data_corrupt, "there are no adapter tensors").with(file_);
    for (const auto& [module, half] : halves_) {
      if (!half.a || !half.b)
        return wrong(half.a ? *half.a : *half.b, " has no ", half.a ? "lora_B" : "lora_A", " beside it");
      AdapterPair& pair = adapter_->pairs[module];
      const int64_t rank = half.a->rows();
      if (rank < 1 || rank > kMostRank || half.b->cols() != rank)
        return wrong(*half.b, " has rank ", half.b->cols(), ", and ", half.a->name, " has ", rank);
      pair.rank = static_cast<int>(rank), pair.in = half.a->cols(), pair.out = half.b->rows();
      pair.a_name = half.a->name, pair.b_name = half.b->name;
      WEFT_TRY(pair.scale, scale_of(module, *half.a));
      if (!std::isfinite(pair.scale)) return wrong(*half.a, " would be scaled by ", pair.scale, ", as alpha has it");
      WEFT_TRY(pair.a, values_of(*half.a));
      WEFT_TRY(pair.b, values_of(*half.b));
      adapter_->largest_rank = std::max(adapter_->largest_rank, pair.rank);
    }
    adapter_->digest = digest();
    return std::shared_ptr<const Adapter>(std::move(adapter_));
  }

 private:
  Result<std::vector<float>> values_of(const TensorInfo& tensor) const {
    auto values = read_all(tensor);
    if (!values.ok()) return std::move(values).error().with(file_);
    for (const float value : *values)
      if (!std::isfinite(value)) return wrong(tensor, " has values that are not finite");
    return values;
  }

  Digest digest() const {
    Sha256 hash;
    const auto put = [&](const auto& number) { hash.update(&number, sizeof number); };
    for (const auto& [module, pair] : adapter_->pairs) {
      put(module.size()), hash.update(module.data(), module.size());
      put(pair.rank), put(pair.in), put(pair.out), put(pair.scale);
      hash.update(pair.a.data(), pair.a.size() * sizeof(float));
      hash.update(pair.b.data(), pair.b.size() * sizeof(float));
    }
    return hash.digest();
  }

  const std::string& file_;
  std::shared_ptr<Adapter> adapter_ = std::make_shared<Adapter>();
  std::map<std::string, Halves> halves_;
};

std::optional<std::string> without_end(const std::string& name, std::string_view end) {
  if (!name.ends_with(end)) return std::nullopt;
  return name.substr(0, name.size() - end.size());
}

std::string module_in_checkpoint(const Json& base, const std::string& module) {
  constexpr std::string_view kWeight = ".weight";
  std::string name = name_of_tensor(base, module + std::string(kWeight));
  name.resize(name.size() - kWeight.size());
  return name;
}

Result<std::shared_ptr<const Adapter>> parse_peft(const AdapterFiles& files, const Json& base) {
  const auto of_config = [&](Error error) { return std::move(error).with(files.path + "/adapter_config.json"); };
  auto config = parse_json(files.config);
  if (!config.ok()) return of_config(std::move(config).error());
  if (Status checked = check_peft(*config); !checked.ok()) return of_config(checked.error());
  auto scales = PeftScales::from(*config);
  if (!scales.ok()) return of_config(std::move(scales).error());
  WEFT_TRY(const std::vector<TensorInfo> tensors, parse_safetensors(bytes_of(files.tensors), files.file));
  Reader reader(files);
  std::map<std::string, std::string> given_names;  // by the checkpoint's
  for (const TensorInfo& tensor : tensors) {
    std::string name = tensor.name;
    if (constexpr std::string_view kPrefix = "base_model.model."; name.starts_with(kPrefix))
      name.erase(0, kPrefix.size());
    const auto a = without_end(name, ".lora_A.weight"), b = without_end(name, ".lora_B.weight");
    if (!a && !b) return reader.wrong(tensor, " is no lora_A.weight or lora_B.weight");
    const std::string module = module_in_checkpoint(base, *(a ? a : b));
    given_names[module] = *(a ? a : b);
    WEFT_RETURN_IF_ERROR(reader.add(module, tensor, a.has_value()));
  }
  return reader.finish([&](const std::string& module, const TensorInfo& a) -> Result<float> {
    const std::string& given = given_names[module];
    WEFT_TRY(const double rank, scales->rank_of(given));
    if (static_cast<double>(a.rows()) != rank)
      return reader.wrong(a, " has rank ", a.rows(), ", and adapter_config.json says ", rank);
    return scales->scale_of(given, static_cast<int>(a.rows()));
  });
}

// ---- GGUF, as convert_lora_to_gguf.py writes it -------------------------------------------------------------------

constexpr std::pair<std::string_view, std::string_view> kGgufNames[] = {
    {"attn_q", "self_attn.q_proj"},      {"attn_k", "self_attn.k_proj"}, {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"}, {"ffn_gate", "mlp.gate_proj"},  {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
};

// Of "blk.LAYER.PART.weight"; empty: not known.
std::string module_of_gguf(std::string_view name) {
  if (!name.starts_with("blk.") || !name.ends_with(".weight")) return "";
  name.remove_prefix(4), name.remove_suffix(7);
  const size_t dot = name.find('.');
  if (dot == std::string_view::npos || dot == 0) return "";
  for (const auto& [gguf, module] : kGgufNames)
    if (name.substr(dot + 1) == gguf)
      return "model.layers." + std::string(name.substr(0, dot)) + "." + std::string(module);
  return "";
}

// The converter reorders the rows of q and k within each head, where the model's are; B has them.
Status undo_row_order(TensorInfo& b, const std::string& module, const Json& base) {
  const bool q = module.ends_with("q_proj");
  if (!q && !module.ends_with("k_proj")) return {};
  const Json* heads = base.find("num_attention_heads");
  if (const Json* kv = base.find("num_key_value_heads"); !q && kv && kv->is_integer()) heads = kv;
  const int64_t count = heads && heads->is_integer() ? heads->as_integer() : 0;
  if (count < 1 || count > b.rows() || b.rows() % (2 * count) != 0)
    return fail(Code::data_corrupt, "tensor ", b.name, " has ", b.rows(), " rows, the model's attention has ", count,
                " heads");
  b.rotary_heads = static_cast<int>(count);
  return {};
}

// The model's architecture may be called in several ways in GGUF, or in none.
Status check_architecture(const std::string& stated, const Json& base, const std::string& file) {
  const Json* list = base.find("architectures");
  if (stated.empty() || !list || !list->is_array() || list->items().empty() || !list->items()[0].is_string()) return {};
  const std::string& own = list->items()[0].as_string();
  std::string names;
  for (const GgufArchitecture& known : gguf_architectures()) {
    if (known.architecture != own) continue;
    if (known.name == stated) return {};
    names += (names.empty() ? "" : ", ") + std::string(known.name);
  }
  if (names.empty()) return {};
  return fail(Code::invalid_argument, "the adapter is for the architecture ", stated, ", and the model is ", own, " (",
              names, ")")
      .with(file);
}

// The scale is alpha / rank, and 1 without an alpha.
Result<std::shared_ptr<const Adapter>> parse_gguf_adapter(const AdapterFiles& files, const Json& base) {
  auto parsed = parse_gguf(bytes_of(files.tensors));
  if (!parsed.ok()) return std::move(parsed).error().with(files.file);
  const GgufMetadata& m = parsed->metadata;
  if (m.text("general.type") != "adapter" || m.text("adapter.type") != "lora")
    return fail(Code::invalid_argument, "general.type is \"", m.text("general.type"), "\" and adapter.type \"",
                m.text("adapter.type"), "\": it is no LoRA adapter")
        .with(files.file);
  WEFT_RETURN_IF_ERROR(check_architecture(std::string(m.text("general.architecture")), base, files.file));
  const double alpha = m.number("adapter.lora.alpha", 0);
  Reader reader(files);
  for (TensorInfo& tensor : parsed->tensors) {
    const auto a = without_end(tensor.name, ".lora_a"), b = without_end(tensor.name, ".lora_b");
    if (!a && !b) return reader.wrong(tensor, " is no lora_a or lora_b");
    std::string module = module_of_gguf(*(a ? a : b));
    if (module.empty()) return reader.wrong(tensor, " is of a module that is not known in GGUF adapters");
    if (b && m.text("general.architecture") == "llama") WEFT_RETURN_IF_ERROR(undo_row_order(tensor, module, base));
    module = module_in_checkpoint(base, module);
    WEFT_RETURN_IF_ERROR(reader.add(module, tensor, a.has_value()));
  }
  return reader.finish([&](const std::string&, const TensorInfo& a) -> Result<float> {
    return alpha == 0 ? 1.0f : static_cast<float>(alpha / static_cast<double>(a.rows()));
  });
}

}  // namespace

Result<AdapterFiles> read_adapter_files(const std::string& path) {
  AdapterFiles files{.path = path, .file = path, .config = {}, .tensors = {}};
  if (is_directory(path)) {
    files.file = path + "/adapter_model.safetensors";
    WEFT_TRY(files.config, read_file(path + "/adapter_config.json"));
    if (files.config.empty()) return fail(Code::data_corrupt, "the file is empty").with(path + "/adapter_config.json");
  } else if (!is_file(path)) {
    return fail(Code::not_found, path, " is not there");
  } else if (!path.ends_with(".gguf")) {
    return fail(Code::invalid_argument, path, " is neither a folder with adapter_config.json nor a .gguf file");
  }
  WEFT_TRY(files.tensors, read_file(files.file, kMostBytes));
  return files;
}

Result<std::shared_ptr<const Adapter>> parse_adapter(const AdapterFiles& files, const Json& base) {
  return files.config.empty() ? parse_gguf_adapter(files, base) : parse_peft(files, base);
}

}  // namespace weft
