#include "checkpoint/quant/describe.h"

#include <algorithm>

#include "checkpoint/quant/joiner.h"
#include "checkpoint/quant/module_match.h"

namespace weft {
namespace {

// What decides how a matrix is held.
struct Traits {
  int bits = 4;
  bool levels = false, zeros = false;
  int64_t group = 0;  // 0: one scale for each row
  StorageType scale = StorageType::f16;
};

int64_t number(const Json& object, std::initializer_list<const char*> keys, int64_t absent) {
  for (const char* key : keys)
    if (const Json* value = object.find(key); value && value->is_integer()) return value->as_integer();
  return absent;
}

bool flag(const Json& object, const char* key, bool absent) {
  const Json* value = object.find(key);
  return value && value->is_bool() ? value->as_bool() : absent;
}

std::string text(const Json& object, const char* key) {
  const Json* value = object.find(key);
  return value && value->is_string() ? value->as_string() : std::string();
}

Result<std::optional<Traits>> compressed_traits(const Json& settings, const std::string& module) {
  const Json* groups = settings.find("config_groups");
  const Json* best = nullptr;
  Closeness how = Closeness::none;
  if (groups && groups->is_object())
    for (const auto& [name, group] : groups->members()) {
      WEFT_TRY(const Closeness close, closeness(group.find("targets"), module));
      if (close > how) best = &group, how = close;
    }
  const Json* weights = best ? best->find("weights") : nullptr;
  if (!weights) return std::optional<Traits>();
  const int bits = static_cast<int>(number(*weights, {"num_bits"}, 8));
  const bool is_float = text(*weights, "type") == "float";
  if (is_float && bits == 8) return std::optional<Traits>();
  const int64_t group = number(*weights, {"group_size"}, 0);
  return std::optional(Traits{bits, is_float, !flag(*weights, "symmetric", true), std::max<int64_t>(group, 0),
                              is_float ? StorageType::f32 : StorageType::bf16});
}

Result<std::optional<Traits>> traits_of(const std::string& method, const Json& settings, const std::string& module) {
  const int bits = static_cast<int>(number(settings, {"bits", "w_bit"}, 4));
  const int64_t group = std::max<int64_t>(number(settings, {"group_size", "q_group_size"}, 128), 0);
  if (method == "awq") return std::optional(Traits{.bits = bits, .zeros = true, .group = group});
  if (method == "gptq")
    return std::optional(Traits{.bits = bits, .zeros = !flag(settings, "sym", true), .group = group});
  if (method == "compressed-tensors") return compressed_traits(settings, module);
  if (method == "mxfp4") return std::optional(Traits{.levels = true, .group = 32, .scale = StorageType::f8_e8m0});
  if (method == "bitsandbytes") {
    if (!flag(settings, "load_in_4bit", false)) return std::optional(Traits{.bits = 8, .scale = StorageType::f32});
    return std::optional(Traits{.levels = true, .group = 64, .scale = StorageType::f32});
  }
  if (method == "modelopt") {
    const Json* nested = settings.find("quantization");
    const Json& rules = nested && nested->is_object() ? *nested : settings;
    const std::string algorithm = text(rules, "quant_algo");
    if (algorithm.find("NVFP4") != std::string::npos)
      return std::optional(Traits{.levels = true, .group = 16, .scale = StorageType::f8_e4m3});
    if (algorithm == "W4A16_AWQ")
      return std::optional(Traits{.group = number(rules, {"group_size"}, 128), .scale = StorageType::f32});
  }
  return std::optional<Traits>();
}

}  // namespace

Result<std::optional<CodedMatrix>> describe_coded(const std::string& method, const Json& settings,
                                                  const std::string& name, int64_t rows, int64_t cols) {
  WEFT_TRY(const std::optional<Traits> traits, traits_of(method, settings, name.substr(0, name.rfind('.'))));
  if (!traits) return std::optional<CodedMatrix>();
  if (traits->bits < 1 || traits->bits > 8)
    return fail(Code::unsupported, "quant_method ", json_quote(method), " with ", traits->bits,
                " bits is not supported");
  CodedMatrix m{.format = method, .module = name.substr(0, name.rfind('.'))};
  m.codes = row_fields({}, rows, cols, traits->bits, 1);
  m.group_size = traits->group > 0 ? traits->group : cols;
  m.groups = divided_up(cols, m.group_size);
  m.scales.values.type = traits->scale;
  if (traits->levels) m.levels = kE2m1;
  m.zero = 1 << (traits->bits - 1);
  if (!traits->zeros) m.sole_zero = m.zero;
  return std::optional(std::move(m));
}

}  // namespace weft
