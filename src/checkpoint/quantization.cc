#include "checkpoint/quantization.h"

#include <algorithm>
#include <limits>

#include "base/files.h"

namespace weft {
namespace {

constexpr int64_t kMaxBlock = 1 << 20;

struct BlockSize {
  int64_t rows = 0, cols = 0;  // 0: no blocks
};

bool is_fp8(StorageType type) { return type == StorageType::f8_e4m3 || type == StorageType::f8_e5m2; }

// quantization_config, wherever it lies; null if there is none or an empty one.
const Json* find_settings(const Json& config) {
  for (const Json* parent : {&config, config.find("text_config")}) {
    if (!parent) continue;
    for (const char* key : {"quantization_config", "compression_config"}) {
      const Json* found = parent->find(key);
      if (found && !found->is_null() && !(found->is_object() && found->members().empty())) return found;
    }
  }
  return nullptr;
}

Result<BlockSize> block_size(const Json& settings, const char* key) {
  const Json* size = settings.find(key);
  if (!size || size->is_null()) return BlockSize();
  const auto valid = [](const Json& j) { return j.is_integer() && j.as_integer() >= 1 && j.as_integer() <= kMaxBlock; };
  if (!size->is_array() || size->items().size() != 2 || !valid(size->items()[0]) || !valid(size->items()[1]))
    return fail(Code::invalid_argument, "config.json: quantization_config.", key,
                " is not two whole numbers of at least 1");
  return BlockSize{size->items()[0].as_integer(), size->items()[1].as_integer()};
}

Error unsupported_method(const std::string& method, const std::string& what) {
  return fail(Code::unsupported, "config.json: quantization_config.quant_method ", json_quote(method), ": ", what,
              "; of the quantised methods \"fp8\", \"modelopt\" with FP8 and \"compressed-tensors\" with floats of 8 "
              "bits are supported");
}

std::string text_of(const Json* value) { return value && value->is_string() ? value->as_string() : std::string(); }

// compressed-tensors: every group of layers must hold floats of 8 bits. Scales are one per tensor, per row or per
// block.
Result<BlockSize> check_compressed(const Json& settings) {
  const std::string method = "compressed-tensors", format = text_of(settings.find("format"));
  if (format != "float-quantized" && format != "naive-quantized")
    return unsupported_method(method,
                              "format " + (format.empty() ? "is absent" : json_quote(format) + " is not supported"));
  const Json* groups = settings.find("config_groups");
  if (!groups || !groups->is_object() || groups->members().empty())
    return unsupported_method(method, "config_groups is absent");
  BlockSize block;
  for (const auto& [name, group] : groups->members()) {
    const Json* weights = group.is_object() ? group.find("weights") : nullptr;
    const Json* bits = weights && weights->is_object() ? weights->find("num_bits") : nullptr;
    if (!bits || !bits->is_integer() || bits->as_integer() != 8 || text_of(weights->find("type")) != "float")
      return unsupported_method(method, "the weights of config_groups." + name + " are not floats of 8 bits");
    const std::string strategy = text_of(weights->find("strategy"));
    if (strategy == "tensor" || strategy == "channel") continue;
    if (strategy != "block")
      return unsupported_method(
          method, "the strategy " + json_quote(strategy) + " of config_groups." + name + " is not supported");
    WEFT_TRY(block, block_size(*weights, "block_structure"));
  }
  return block;
}

// ModelOpt: one scale per tensor.
Result<BlockSize> check_modelopt(const Json& settings) {
  const Json* nested = settings.find("quantization");  // as hf_quant_config.json has it
  std::string algorithm = text_of((nested && nested->is_object() ? *nested : settings).find("quant_algo"));
  std::transform(algorithm.begin(), algorithm.end(), algorithm.begin(),
                 [](unsigned char c) { return c >= 'a' && c <= 'z' ? c - 32 : c; });
  if (algorithm != "FP8")
    return unsupported_method(
        "modelopt", "quant_algo " + (algorithm.empty() ? "is absent" : json_quote(algorithm) + " is not supported"));
  return BlockSize();
}

Result<BlockSize> check_settings(const Json& settings) {
  if (!settings.is_object())
    return fail(Code::invalid_argument, "config.json: quantization_config is ", settings.type_name(),
                ", not an object");
  const Json* method = settings.find("quant_method");
  if (!method || !method->is_string())
    return fail(Code::unsupported,
                "config.json: quantization_config has no quant_method, so its weights cannot be read");
  if (method->as_string() == "compressed-tensors") return check_compressed(settings);
  if (method->as_string() == "modelopt") return check_modelopt(settings);
  if (method->as_string() != "fp8") return unsupported_method(method->as_string(), "is not supported");
  const Json* format = settings.find("fmt");
  if (format && !format->is_null() && !(format->is_string() && format->as_string() == "e4m3"))
    return fail(Code::unsupported,
                "config.json: quantization_config.fmt is not \"e4m3\", which is all that is supported");
  return block_size(settings, "weight_block_size");
}

// The grid of factors in the shape that read_rows() indexes, and the block that one factor is for.
Result<TensorInfo> fit_scale(TensorInfo& weight, const TensorInfo& scale, BlockSize block) {
  constexpr int64_t kMax = std::numeric_limits<int>::max();
  const int64_t rows = weight.rows(), cols = weight.cols();
  if (weight.shape.size() != 2 || rows > kMax || cols > kMax)
    return fail(Code::unsupported, "tensor ", weight.name, " has a scale but is not a matrix");
  if (!is_float(scale.type))
    return fail(Code::data_corrupt, "tensor ", scale.name, " holds ", name(scale.type), " values, not floats");
  TensorInfo fitted = scale;
  const auto set = [&](int64_t block_rows, int64_t block_cols) {
    weight.scale_block_rows = static_cast<int>(std::max<int64_t>(block_rows, 1));
    weight.scale_block_cols = static_cast<int>(std::max<int64_t>(block_cols, 1));
    return fitted;
  };
  const std::vector<int64_t>& shape = scale.shape;
  if (block.rows > 0) {
    const std::vector<int64_t> grid = {(rows + block.rows - 1) / block.rows, (cols + block.cols - 1) / block.cols};
    if (shape == grid) return set(block.rows, block.cols);
    return fail(Code::data_corrupt, "tensor ", scale.name, " is not the [", grid[0], ", ", grid[1],
                "] grid that belongs to [", rows, ", ", cols, "] weights in blocks of ", block.rows, " x ", block.cols);
  }
  if (shape.size() <= 2 && scale.values() == 1) {
    fitted.shape = {1, 1};
    return set(rows, cols);
  }
  if (shape == std::vector<int64_t>{rows} || shape == std::vector<int64_t>{rows, 1}) {
    fitted.shape = {rows, 1};
    return set(1, cols);
  }
  return fail(Code::data_corrupt, "tensor ", scale.name, " has neither one value nor one for each of the ", rows,
              " rows of the weights");
}

const TensorInfo* find_scale(CheckpointBuilder& builder, const std::string& weight) {
  const TensorInfo* inverse = builder.find(weight + "_scale_inv");
  return inverse ? inverse : builder.find(weight + "_scale");
}

}  // namespace

Status apply_quantization(CheckpointBuilder& builder, const Json& config, const std::string& folder) {
  const Json* settings = find_settings(config);
  BlockSize block;
  Json own;  // the settings where they have a file of their own
  if (settings) {
    WEFT_TRY(block, check_settings(*settings));
  } else {
    if (const std::string file = folder + "/hf_quant_config.json"; is_file(file)) {
      WEFT_TRY(own, builder.read_json(file));
      settings = &own;
      auto checked = check_modelopt(own);
      if (!checked.ok()) return fail(checked.error().code(), file, ": ", checked.error().message());
    }
    for (const char* file : {"quantize_config.json", "quant_config.json"})
      if (is_file(folder + "/" + file))
        return fail(Code::unsupported, folder, "/", file, ": this kind of quantised checkpoint is not supported");
  }
  for (auto& [name, tensor] : builder.tensors()) {
    if (!is_fp8(tensor.type)) continue;
    const TensorInfo* scale = find_scale(builder, name);
    if (!scale && !settings) continue;  // plain numbers that happen to be stored in 8 bits
    if (!scale) return fail(Code::not_found, folder, ": tensor ", name, " is fp8, but ", name, "_scale_inv is absent");
    if (!settings)
      return fail(Code::unsupported, folder, ": tensor ", name,
                  " has a scale, but config.json has no quantization_config to explain it");
    auto fitted = fit_scale(tensor, *scale, block);
    if (!fitted.ok()) return fail(fitted.error().code(), folder, ": ", fitted.error().message());
    tensor.scale = builder.keep_scale(std::move(*fitted));
  }
  return {};
}

namespace {

// Whether a list of modules that are not quantised names the module of a tensor, or one that it is a part of.
bool is_exception(const Json& settings, const std::string& tensor) {
  for (const char* key : {"modules_to_not_convert", "ignore", "ignored_layers", "exclude_modules"}) {
    const Json* list = settings.find(key);
    if (!list || !list->is_array()) continue;
    for (const Json& module : list->items())
      if (module.is_string() && tensor.starts_with(module.as_string() + ".")) return true;
  }
  return false;
}

}  // namespace

Status describe_quantized(CheckpointBuilder& builder, const std::string& folder,
                          std::span<const MatrixShape> matrices) {
  const Json& config = builder.checkpoint->config();
  const Json* settings = find_settings(config);
  if (!settings && !is_file(folder + "/hf_quant_config.json")) return apply_quantization(builder, config, folder);
  BlockSize block;
  if (settings) {
    WEFT_TRY(block, check_settings(*settings));
  }
  for (const MatrixShape& matrix : matrices) {
    if (settings && is_exception(*settings, matrix.name)) continue;
    TensorInfo tensor{.name = matrix.name, .type = StorageType::f8_e4m3, .shape = {matrix.rows, matrix.cols}};
    TensorInfo scale{.name = matrix.name + "_scale_inv", .type = StorageType::f32, .shape = {matrix.rows, 1}};
    if (block.rows > 0)
      scale.shape = {(matrix.rows + block.rows - 1) / block.rows, (matrix.cols + block.cols - 1) / block.cols};
    WEFT_RETURN_IF_ERROR(builder.add(std::move(tensor)));
    WEFT_RETURN_IF_ERROR(builder.add(std::move(scale)));
  }
  return apply_quantization(builder, config, folder);
}

}  // namespace weft
