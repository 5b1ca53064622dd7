#include "checkpoint/quantization.h"

#include <algorithm>
#include <optional>

#include "base/files.h"
#include "checkpoint/quant/describe.h"
#include "checkpoint/quant/formats.h"
#include "checkpoint/quant/scaled_fp8.h"

namespace weft {
namespace {

// What a folder says about its quantised weights, and where.
struct Settings {
  std::string method, where;
  Json json;
};

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

// The method of settings that do not name it, by the keys that only one has; "" if none does.
std::string guess_method(const Json& settings, std::string otherwise) {
  const Json* method = settings.find("quant_method");
  if (method && method->is_string()) return method->as_string();
  const Json* nested = settings.find("quantization");
  if (settings.find("quant_algo") || (nested && nested->find("quant_algo"))) return "modelopt";
  if (settings.find("config_groups")) return "compressed-tensors";
  return otherwise;
}

// config.json first, then the files of their own that older writers made.
Result<std::optional<Settings>> read_settings(CheckpointBuilder& builder, const Json& config,
                                              const std::string& folder) {
  if (const Json* found = find_settings(config)) {
    Settings settings{.method = "", .where = "config.json: quantization_config", .json = *found};
    if (!found->is_object())
      return fail(Code::invalid_argument, settings.where, " is ", found->type_name(), ", not an object");
    settings.method = guess_method(*found, "");
    return std::optional(std::move(settings));
  }
  for (const auto& [file, method] :
       {std::pair("hf_quant_config.json", "modelopt"), std::pair("quantize_config.json", "gptq"),
        std::pair("quant_config.json", "awq")}) {
    if (!is_file(folder + "/" + file)) continue;
    Settings settings{.method = "", .where = file, .json = {}};
    WEFT_TRY(settings.json, builder.read_json(folder + "/" + file));
    if (!settings.json.is_object())
      return fail(Code::invalid_argument, file, " is ", settings.json.type_name(), ", not an object");
    settings.method = guess_method(settings.json, method);
    return std::optional(std::move(settings));
  }
  return std::optional<Settings>();
}

// The first tensor that is no plain matrix of floats, for messages; null if all are.
const TensorInfo* first_quantised(CheckpointBuilder& builder) {
  for (const auto& [name, tensor] : builder.tensors())
    if (tensor.type == StorageType::i8 || tensor.type == StorageType::u8 || tensor.type == StorageType::i32 ||
        is_fp8(tensor.type))
      return &tensor;
  return nullptr;
}

Error unsupported_method(CheckpointBuilder& builder, const Settings& settings) {
  const TensorInfo* first = first_quantised(builder);
  std::string supported;
  for (const QuantFormat& format : quant_formats())
    supported += (supported.empty() ? "" : ", ") + std::string(format.method);
  return fail(Code::unsupported, settings.where, settings.method.empty() ? " has no quant_method" : ".quant_method ",
              settings.method.empty() ? "" : json_quote(settings.method) + " is not supported",
              ", so its weights cannot be read", first ? "; the first is tensor " + first->name : std::string(),
              "; supported are ", supported);
}

// Quantised weights that the settings, if there are any, did not explain.
Status refuse_unexplained(CheckpointBuilder& builder, const Settings* settings) {
  for (const auto& [name, tensor] : builder.tensors()) {
    const bool packed = name.ends_with(".qweight") || name.ends_with(".weight_packed");
    const bool bytes = is_fp8(tensor.type) || tensor.type == StorageType::i8 || tensor.type == StorageType::u8;
    if (!packed && (tensor.scale || !bytes || !find_scale(builder, name))) continue;
    return fail(Code::unsupported, "tensor ", name, " is quantised, but ",
                settings
                    ? settings->where + " with quant_method " + json_quote(settings->method) + " does not explain it"
                    : "config.json has no quantization_config to explain it");
  }
  return {};
}

Status join_by(CheckpointBuilder& builder, const Json& config, const Settings& settings) {
  const QuantFormat* format = find_quant_format(settings.method);
  if (!format) return unsupported_method(builder, settings);
  Joiner joiner(builder, config, settings.json, settings.where);
  WEFT_RETURN_IF_ERROR(format->join(joiner));
  return refuse_unexplained(builder, &settings);
}

}  // namespace

Status apply_quantization(CheckpointBuilder& builder, const Json& config, const std::string& folder) {
  auto settings = read_settings(builder, config, folder);
  Status joined = !settings.ok() ? Status(settings.error())
                  : *settings    ? join_by(builder, config, **settings)
                                 : refuse_unexplained(builder, nullptr);
  if (!joined.ok()) return fail(joined.error().code(), folder, ": ", joined.error().message());
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
  WEFT_TRY(const std::optional<Settings> settings, read_settings(builder, config, folder));
  if (!settings) return {};
  if (!find_quant_format(settings->method)) return unsupported_method(builder, *settings);
  WEFT_TRY(const ScaleBlock block, scale_block(settings->json, "weight_block_size"));
  for (const MatrixShape& matrix : matrices) {
    if (is_exception(settings->json, matrix.name)) continue;
    WEFT_TRY(std::optional<CodedMatrix> coded,
             describe_coded(settings->method, settings->json, matrix.name, matrix.rows, matrix.cols));
    TensorInfo tensor{.name = matrix.name, .type = StorageType::f8_e4m3, .shape = {matrix.rows, matrix.cols}};
    if (coded) tensor.type = StorageType::coded, tensor.coded = builder.keep_coded(std::move(*coded));
    WEFT_RETURN_IF_ERROR(builder.add(tensor));
    if (tensor.coded) continue;
    TensorInfo scale{.name = matrix.name + "_scale_inv", .type = StorageType::f32, .shape = {matrix.rows, 1}};
    if (block.rows > 0) scale.shape = {divided_up(matrix.rows, block.rows), divided_up(matrix.cols, block.cols)};
    WEFT_RETURN_IF_ERROR(builder.add(std::move(scale)));
  }
  return apply_quantization(builder, config, folder);
}

}  // namespace weft
