#include "checkpoint/quant/scaled_fp8.h"

#include <algorithm>
#include <cstdlib>
#include <limits>

#include "checkpoint/quant/formats.h"

namespace weft {
namespace {

constexpr int64_t kMaxBlock = 1 << 20;

// The grid of factors in the shape that read_rows() indexes, and the block that one factor is for.
Result<TensorInfo> fit_scale(TensorInfo& weight, const TensorInfo& scale, ScaleBlock block) {
  constexpr int64_t kMax = std::numeric_limits<int>::max();
  const int64_t rows = weight.rows(), cols = weight.cols();
  const bool experts = weight.shape.size() == 3;
  if ((weight.shape.size() != 2 && !experts) || rows > kMax || cols > kMax)
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
    if (shape == grid && !experts) return set(block.rows, block.cols);
    return fail(Code::data_corrupt, "tensor ", scale.name, " is not the [", grid[0], ", ", grid[1],
                "] grid that belongs to [", rows, ", ", cols, "] weights in blocks of ", block.rows, " x ", block.cols);
  }
  if (shape.size() <= 3 && scale.values() == 1) {
    fitted.shape = {1, 1};
    return set(rows, cols);
  }
  if (experts) {
    const int64_t count = weight.shape[0];
    if (shape == std::vector<int64_t>{count} || shape == std::vector<int64_t>{count, 1, 1}) {
      fitted.shape = {count, 1};
      return set(rows / std::max<int64_t>(count, 1), cols);
    }
    if (shape == std::vector<int64_t>{count, 1, cols}) {
      fitted.shape = {count, cols};
      return set(rows / std::max<int64_t>(count, 1), 1);
    }
    return fail(Code::data_corrupt, "tensor ", scale.name,
                " has neither one value nor one for each expert, nor one "
                "for each expert's outputs");
  }
  if (shape == std::vector<int64_t>{rows} || shape == std::vector<int64_t>{rows, 1}) {
    fitted.shape = {rows, 1};
    return set(1, cols);
  }
  return fail(Code::data_corrupt, "tensor ", scale.name, " has neither one value nor one for each of the ", rows,
              " rows of the weights");
}

}  // namespace

bool is_fp8(StorageType type) { return type == StorageType::f8_e4m3 || type == StorageType::f8_e5m2; }

Result<ScaleBlock> scale_block(const Json& settings, const char* key) {
  const Json* size = settings.find(key);
  if (!size || size->is_null()) return ScaleBlock();
  if (size->is_string()) {  // "128x128"
    const std::string& text = size->as_string();
    char* end = nullptr;
    const int64_t rows = std::strtoll(text.c_str(), &end, 10), cols = *end == 'x' ? std::strtoll(end + 1, &end, 10) : 0;
    if (*end == 0 && rows >= 1 && rows <= kMaxBlock && cols >= 1 && cols <= kMaxBlock) return ScaleBlock{rows, cols};
  }
  const auto valid = [](const Json& j) { return j.is_integer() && j.as_integer() >= 1 && j.as_integer() <= kMaxBlock; };
  if (!size->is_array() || size->items().size() != 2 || !valid(size->items()[0]) || !valid(size->items()[1]))
    return fail(Code::invalid_argument, "config.json: quantization_config.", key,
                " is not two whole numbers of at least 1");
  return ScaleBlock{size->items()[0].as_integer(), size->items()[1].as_integer()};
}

const TensorInfo* find_scale(CheckpointBuilder& builder, const std::string& weight) {
  for (const char* end : {"_scale_inv", "_scale", "_weight_scale"})
    if (const TensorInfo* scale = builder.find(weight + end)) return scale;
  return nullptr;
}

Status join_scale(CheckpointBuilder& builder, TensorInfo& weight, const TensorInfo& scale, ScaleBlock block) {
  WEFT_TRY(TensorInfo fitted, fit_scale(weight, scale, block));
  weight.scale = builder.keep_scale(std::move(fitted));
  return {};
}

namespace {

// Static scales are tensors of their own. Else scales are found for each token: for all of it, or where weights have
// blocks for as many columns as those. fbgemm limits the magnitudes that they are found from.
Result<InputRounding> rounding_of(Joiner& joiner, const std::string& weight, ScaleBlock block) {
  InputRounding rounding{.kind = InputRounding::Kind::fp8};
  const std::string module = weight.substr(0, weight.rfind('.'));
  for (const std::string& name : {module + ".input_scale", module + ".activation_scale"}) {
    if (joiner.text("activation_scheme") != "static" || !joiner.has(name)) continue;
    WEFT_TRY(rounding.scale, sole_factor(*joiner.builder().find(name)));
    return rounding;
  }
  rounding.group = static_cast<int>(block.cols);
  const Json* limit = joiner.settings().find("activation_scale_ub");
  if (limit && limit->is_number()) rounding.limit = static_cast<float>(limit->as_number());
  return rounding;
}

}  // namespace

// "fp8" (DeepSeek, Qwen) and "fbgemm_fp8" (Llama).
Status join_fp8(Joiner& joiner) {
  const std::string format = joiner.text("fmt");
  const Json* stated = joiner.settings().find("fmt");
  if (stated && !stated->is_null() && format != "e4m3")
    return fail(Code::unsupported, joiner.where(), ".fmt is not \"e4m3\", which is all that is supported");
  WEFT_TRY(const ScaleBlock block, scale_block(joiner.settings(), "weight_block_size"));
  CheckpointBuilder& builder = joiner.builder();
  for (auto& [name, tensor] : builder.tensors()) {
    if (!is_fp8(tensor.type)) continue;
    const TensorInfo* scale = find_scale(builder, name);
    if (!scale) return fail(Code::not_found, "tensor ", name, " is fp8, but ", name, "_scale_inv is absent");
    WEFT_RETURN_IF_ERROR(join_scale(builder, tensor, *scale, block));
    WEFT_TRY(tensor.input_rounding, rounding_of(joiner, name, block));
  }
  return {};
}

}  // namespace weft
