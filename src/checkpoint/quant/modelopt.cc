// ModelOpt: one algorithm for the checkpoint, or one per layer (MIXED_PRECISION). Weights keep the name MODULE.weight.
#include <algorithm>

#include "checkpoint/quant/formats.h"
#include "checkpoint/quant/scaled_fp8.h"

namespace weft {
namespace {

enum class Kind : uint8_t { fp8, mxfp8, nvfp4, int4, int8 };

struct Algorithm {
  const char* name;
  Kind kind;
};
constexpr Algorithm kAlgorithms[] = {
    {"FP8", Kind::fp8},
    {"FP8_PER_CHANNEL_PER_TOKEN", Kind::fp8},
    {"MXFP8", Kind::mxfp8},
    {"NVFP4", Kind::nvfp4},
    {"NVFP4_AWQ", Kind::nvfp4},
    {"W4A16_NVFP4", Kind::nvfp4},
    {"W4A8_NVFP4_FP8", Kind::nvfp4},
    {"W4A16_AWQ", Kind::int4},
    {"INT8_SQ", Kind::int8},
    {"W8A8_SQ_PER_CHANNEL", Kind::int8},
};

bool is_bytes(StorageType type) { return is_fp8(type) || type == StorageType::u8 || type == StorageType::i8; }

// Weights of this kind in the file.
bool holds(Kind kind, StorageType type) {
  switch (kind) {
    case Kind::fp8:
    case Kind::mxfp8: return is_fp8(type);
    case Kind::nvfp4:
    case Kind::int4: return type == StorageType::u8;
    case Kind::int8: return type == StorageType::i8;
  }
  return false;
}

std::string upper(std::string text) {
  for (char& c : text) c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c;
  return text;
}

class ModelOptReader {
 public:
  explicit ModelOptReader(Joiner& joiner) : joiner_(joiner), rules_(&joiner.settings()) {
    const Json* nested = joiner.settings().find("quantization");  // as hf_quant_config.json has it
    if (nested && nested->is_object()) rules_ = nested;
  }

  Status join() {
    algorithm_ = upper(text(*rules_, "quant_algo"));
    std::vector<std::string> weights;
    for (const auto& [name, tensor] : joiner_.builder().tensors())
      if (is_bytes(tensor.type) && find_scale(joiner_.builder(), name)) weights.push_back(name);
    for (const auto& [name, tensor] : joiner_.builder().tensors())
      if (name.ends_with(".weight") && is_bytes(tensor.type) && !find_scale(joiner_.builder(), name))
        return fail(Code::not_found, "tensor ", name, " holds ", weft::name(tensor.type), " values, but ", name,
                    "_scale is absent");
    if (weights.empty() && !known(algorithm_) && algorithm_ != "MIXED_PRECISION")
      return fail(Code::unsupported, joiner_.where(), ": quant_algo of modelopt ",
                  algorithm_.empty() ? "is absent" : json_quote(algorithm_) + " is not supported");
    for (const std::string& name : weights) WEFT_RETURN_IF_ERROR(join_weight(name));
    return {};
  }

 private:
  static std::string text(const Json& object, const char* key) {
    const Json* value = object.find(key);
    return value && value->is_string() ? value->as_string() : std::string();
  }
  static const Algorithm* known(const std::string& name) {
    const auto found = std::find_if(std::begin(kAlgorithms), std::end(kAlgorithms),
                                    [&](const Algorithm& a) { return name == a.name; });
    return found == std::end(kAlgorithms) ? nullptr : found;
  }

  // What the layer's own rules say, or else the checkpoint's.
  const Json* layer_rules(const std::string& tensor) const {
    const Json* layers = rules_->find("quantized_layers");
    if (!layers || !layers->is_object()) return nullptr;
    std::string module = joiner_.stored_name(tensor);
    if (module.ends_with(".weight")) module.resize(module.size() - std::string_view(".weight").size());
    return layers->find(module);
  }

  Status join_weight(const std::string& name) {
    const Json* layer = layer_rules(name);
    const std::string algorithm = layer ? upper(text(*layer, "quant_algo")) : algorithm_;
    const Algorithm* found = known(algorithm);
    TensorInfo& weight = *joiner_.builder().find(name);
    if (!found)
      return fail(Code::unsupported, "tensor ", name, ": quant_algo of modelopt ",
                  algorithm.empty() ? "is absent for it" : json_quote(algorithm) + " is not supported");
    if (!holds(found->kind, weight.type))
      return fail(Code::data_corrupt, "tensor ", name, " holds ", weft::name(weight.type), " values, which are not ",
                  algorithm, "'s");
    const std::string module = name.substr(0, name.size() - std::string_view(".weight").size());
    if (is_fp8(weight.type)) {
      if (joiner_.has(module + ".pre_quant_scale"))
        return fail(Code::unsupported, "tensor ", module, ".pre_quant_scale: fp8 weights with factors of their input ",
                    "are not supported");
      TensorInfo scale = *find_scale(joiner_.builder(), name);
      const bool blocks = found->kind == Kind::mxfp8;
      if (blocks && scale.type == StorageType::u8) scale.type = StorageType::f8_e8m0;
      WEFT_TRY(weight.input_rounding, rounding_of(found->kind, algorithm, module, name));
      return join_scale(joiner_.builder(), weight, scale, blocks ? ScaleBlock{1, 32} : ScaleBlock());
    }
    if (!name.ends_with(".weight") || weight.shape.size() != 2)
      return fail(Code::unsupported, "tensor ", name, " is ", shape_text(weight.shape), ": ", algorithm,
                  " is supported for the matrices of modules alone");
    CodedMatrix m{.format = "ModelOpt " + algorithm, .module = module};
    WEFT_TRY(TensorInfo codes, joiner_.take(name, ""));
    WEFT_RETURN_IF_ERROR(expect_matrix(codes));
    WEFT_TRY(m.scales.values, joiner_.take(name + "_scale", "which belongs to a quantised matrix"));
    if (found->kind == Kind::nvfp4) WEFT_RETURN_IF_ERROR(fill_nvfp4(std::move(codes), m));
    if (found->kind == Kind::int4) WEFT_RETURN_IF_ERROR(fill_int4(std::move(codes), layer, m));
    if (found->kind == Kind::int8) WEFT_RETURN_IF_ERROR(fill_int8(std::move(codes), m));
    if (auto factors = joiner_.take_optional(module + ".pre_quant_scale")) {
      WEFT_RETURN_IF_ERROR(expect_float(*factors));
      WEFT_RETURN_IF_ERROR(expect_shape(*factors, {m.cols()}, "there is a factor for each input"));
      m.input_factors = std::move(*factors);
    }
    WEFT_TRY(const InputRounding rounding, rounding_of(found->kind, algorithm, module, name));
    return joiner_.add(std::move(m), "", rounding);
  }

  // What the algorithm does with the input of products; fused experts have their scale under their own name.
  Result<InputRounding> rounding_of(Kind kind, const std::string& algorithm, const std::string& module,
                                    const std::string& weight) {
    const TensorInfo* scale = joiner_.builder().find(module + ".input_scale");
    if (!scale) scale = joiner_.builder().find(weight + "_input_scale");
    InputRounding rounding;
    if (algorithm == "FP8" && scale) {
      rounding.kind = InputRounding::Kind::fp8;
      WEFT_TRY(rounding.scale, sole_factor(*scale));
    } else if (algorithm == "FP8_PER_CHANNEL_PER_TOKEN") {
      rounding.kind = InputRounding::Kind::fp8;
    } else if (kind == Kind::nvfp4 && scale && algorithm.starts_with("NVFP4")) {
      rounding.kind = InputRounding::Kind::fp4, rounding.group = 16;
      WEFT_TRY(rounding.outer, sole_factor(*scale));
    } else if (kind == Kind::int8 || kind == Kind::mxfp8 || algorithm.starts_with("W4A8")) {
      rounding.kind = InputRounding::Kind::other;
    }
    return rounding;
  }

  // Two values of a row in a byte, the even column in its low bits; e4m3 scales for 16 columns, times a float.
  Status fill_nvfp4(TensorInfo codes, CodedMatrix& m) {
    const int64_t rows = codes.shape[0], cols = codes.shape[1] * 2;
    m.codes = row_fields(std::move(codes), rows, cols, 4, 1);
    m.levels = kE2m1;
    m.group_size = 16, m.groups = divided_up(cols, 16);
    m.scales.row_stride = m.groups, m.scales.group_stride = 1;
    WEFT_RETURN_IF_ERROR(expect_type(m.scales.values, StorageType::f8_e4m3));
    WEFT_RETURN_IF_ERROR(expect_shape(m.scales.values, {rows, m.groups}, "there is a scale for 16 columns"));
    WEFT_TRY(const TensorInfo outer, joiner_.take(m.module + ".weight_scale_2", "which NVFP4 needs"));
    WEFT_TRY(m.scales.factor, sole_factor(outer));
    return {};
  }

  // Two rows in a byte, the even one in its low bits, in two's complement.
  Status fill_int4(TensorInfo codes, const Json* layer, CodedMatrix& m) {
    const int64_t rows = codes.shape[0] * 2, cols = codes.shape[1];
    WEFT_TRY(m.group_size,
             joiner_.whole(layer && layer->find("group_size") ? *layer : *rules_, {"group_size"}, 128, 1));
    m.codes = {.tensor = std::move(codes), .rows = rows, .cols = cols, .bits = 4, .along_rows = true};
    m.codes.word_stride = cols, m.codes.line_stride = 1, m.codes.flip = 8;
    m.zero = 8, m.groups = divided_up(cols, m.group_size);
    m.scales.row_stride = m.groups, m.scales.group_stride = 1;
    WEFT_RETURN_IF_ERROR(expect_float(m.scales.values));
    return expect_shape(m.scales.values, {rows, m.groups}, "the weights and the group size have it");
  }

  Status fill_int8(TensorInfo codes, CodedMatrix& m) {
    const int64_t rows = codes.shape[0], cols = codes.shape[1];
    m.codes = row_fields(std::move(codes), rows, cols, 8, 1);
    m.codes.flip = 0x80, m.zero = 128, m.group_size = cols;
    m.scales.row_stride = 1;
    WEFT_RETURN_IF_ERROR(expect_float(m.scales.values));
    if (m.scales.values.shape == std::vector<int64_t>{rows, 1}) return {};
    return expect_shape(m.scales.values, {rows}, "there is a scale for each row");
  }

  Joiner& joiner_;
  const Json* rules_;
  std::string algorithm_;
};

}  // namespace

Status join_modelopt(Joiner& joiner) { return ModelOptReader(joiner).join(); }

}  // namespace weft
