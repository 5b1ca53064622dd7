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

Result<BlockSize> block_size(const Json& settings) {
  const Json* size = settings.find("weight_block_size");
  if (!size || size->is_null()) return BlockSize();
  const auto valid = [](const Json& j) { return j.is_integer() && j.as_integer() >= 1 && j.as_integer() <= kMaxBlock; };
  if (!size->is_array() || size->items().size() != 2 || !valid(size->items()[0]) || !valid(size->items()[1]))
    return fail(Code::invalid_argument,
                "config.json: quantization_config.weight_block_size is not two whole numbers of at least 1");
  return BlockSize{size->items()[0].as_integer(), size->items()[1].as_integer()};
}

Result<BlockSize> check_settings(const Json& settings) {
  if (!settings.is_object())
    return fail(Code::invalid_argument, "config.json: quantization_config is ", settings.type_name(), ", not an object");
  const Json* method = settings.find("quant_method");
  if (!method || !method->is_string())
    return fail(Code::unsupported, "config.json: quantization_config has no quant_method, so its weights cannot be read");
  if (method->as_string() != "fp8")
    return fail(Code::unsupported, "config.json: quantization_config.quant_method ", json_quote(method->as_string()),
                " is not supported; of the quantised methods only \"fp8\" is");
  const Json* format = settings.find("fmt");
  if (format && !format->is_null() && !(format->is_string() && format->as_string() == "e4m3"))
    return fail(Code::unsupported, "config.json: quantization_config.fmt is not \"e4m3\", which is all that is supported");
  return block_size(settings);
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
    return fail(Code::data_corrupt, "tensor ", scale.name, " is not the [", grid[0], ", ", grid[1], "] grid that belongs to [",
                rows, ", ", cols, "] weights in blocks of ", block.rows, " x ", block.cols);
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
  if (settings) {
    WEFT_TRY(block, check_settings(*settings));
  } else {
    for (const char* file : {"hf_quant_config.json", "quantize_config.json", "quant_config.json"})
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

}  // namespace weft
