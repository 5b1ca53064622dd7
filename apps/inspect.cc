// `weft inspect`: what a checkpoint is and what of it fits in this machine, from config.json and the tensors' headers
// alone; of quantised ones also how their matrices would be held.
#include <algorithm>
#include <cstdio>
#include <map>
#include <set>

#include "api/recorded_plan.h"
#include "base/available_memory.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/quant/coded_matrix.h"
#include "plan/cpu_executor.h"
#include "plan/weight_formats.h"
#include "terminal.h"

namespace weft {

namespace {

struct Weights {
  int64_t parameters = 0, bytes = 0;
  std::map<std::string, int64_t> bytes_of;     // by stored type
  std::map<std::string, std::string> kept_as;  // of quantised types: the form of the codes in memory, or "widened"
  int kv_scales = 0;
};

bool is_kv_scale(std::string_view name) { return name.ends_with(".k_scale") || name.ends_with(".v_scale"); }
bool is_quantised(const TensorInfo& tensor) { return tensor.coded || tensor.scale; }
std::string stored_as(const TensorInfo& tensor) {
  return tensor.coded ? tensor.coded->describe() : std::string(name(tensor.type)) + " with scales";
}

Weights count_weights(const Checkpoint& checkpoint) {
  Weights weights;
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    const auto bytes = tensor.coded ? tensor.coded->stored_bytes() : static_cast<int64_t>(tensor.data.size());
    weights.bytes += bytes;
    weights.bytes_of[tensor.coded ? stored_as(tensor) : weft::name(tensor.type)] += bytes;
    weights.kv_scales += is_kv_scale(name);
    if (is_float(tensor.type)) weights.parameters += tensor.values();
    if (!is_blocked(tensor.type)) continue;
    const auto format = stored_format(tensor, static_cast<int>(tensor.cols()), kernels::Operand::f32);
    weights.kept_as[weft::name(tensor.type)] = format ? kernels::name(format->form) : "widened";
  }
  return weights;
}

const char* rounding_name(InputRounding::Kind kind) {
  switch (kind) {
    case InputRounding::Kind::none: return "";
    case InputRounding::Kind::int8: return "int8";
    case InputRounding::Kind::fp8: return "fp8";
    case InputRounding::Kind::fp4: return "fp4";
    case InputRounding::Kind::other: return "a form that is not supported";
  }
  return "";
}

// How many quantised tensors are held in which form, by how they are stored, and what their format does with the inputs
// of products.
Result<Json> quantised_json(const Checkpoint& checkpoint, const EngineOptions& options) {
  std::map<std::string, std::string> held;  // by tensor
  std::set<std::string> roundings;
  WEFT_TRY(const RecordedPlan recorded, record_plan(checkpoint.path(), options));
  for (const Matrix& m : recorded.plan.matrices)
    for (const TensorRows& source : m.sources) {
      const kernels::WeightForm form = format_of(m, recorded.form).form;
      const bool kept = is_quantized(form) && options.quantize == Quantize::none;
      held[source.tensor] = (kept ? "kept in its bits as " : "widened to ") + std::string(name(form));
      if (!kept && is_quantized(form)) held[source.tensor] = "quantised anew as " + std::string(name(form));
    }
  std::map<std::pair<std::string, std::string>, int> counts;
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    if (!is_quantised(tensor)) continue;
    const auto found = held.find(name);
    ++counts[{stored_as(tensor), found == held.end() ? "not in the language model: widened if used" : found->second}];
    if (tensor.input_rounding.kind != InputRounding::Kind::none)
      roundings.insert(rounding_name(tensor.input_rounding.kind));
  }
  Json list = Json::array(), rounded = Json::array();
  for (const auto& [what, tensors] : counts)
    list.push_back(Json::object({{"stored", what.first}, {"held", what.second}, {"tensors", tensors}}));
  for (const std::string& rounding : roundings) rounded.push_back(rounding);
  return Json::object({{"matrices", std::move(list)},
                       {"inputs_rounded_to", std::move(rounded)},
                       {"rounds_inputs", options.activation_quantization == ActivationQuantization::checkpoint}});
}

// Memory of the weights in each form that the engine can hold them in; block scales counted roughly.
struct Form {
  const char* name;
  double bytes_per_weight;
  int kv_bytes;
};
constexpr Form kForms[] = {{"float32", 4, 4}, {"bfloat16", 2, 2}, {"int8", 1.03, 2}, {"int4", 0.56, 2}};

Json report_json(const Checkpoint& checkpoint, const HfConfig& config, const Weights& weights, const CacheShape& kv) {
  Json types = Json::object();
  for (const auto& [type, bytes] : weights.bytes_of) types.set(type, static_cast<long>(bytes));
  Json kept = Json::object();
  for (const auto& [type, form] : weights.kept_as) kept.set(type, form);
  const auto memory = static_cast<int64_t>(available_memory());
  Json forms = Json::array();
  for (const Form& form : kForms) {
    if (weights.parameters == 0) break;
    const auto bytes = static_cast<int64_t>(static_cast<double>(weights.parameters) * form.bytes_per_weight);
    const int64_t kv_bytes = kv.values_per_token * form.kv_bytes;
    const int64_t left = memory - bytes;
    forms.push_back(
        Json::object({{"form", form.name},
                      {"weight_bytes", static_cast<long>(bytes)},
                      {"kv_bytes_per_token", static_cast<long>(kv_bytes)},
                      {"fits", left > 0},
                      {"cache_tokens", static_cast<long>(left > 0 && kv_bytes > 0 ? left / kv_bytes : 0)}}));
  }
  return Json::object({{"path", checkpoint.path()},
                       {"architecture", config.architecture()},
                       {"format", checkpoint.is_gguf() ? "gguf" : "safetensors"},
                       {"files", static_cast<long>(checkpoint.files().size())},
                       {"tensors", static_cast<long>(checkpoint.tensors().size())},
                       {"parameters", static_cast<long>(weights.parameters)},
                       {"stored_bytes", static_cast<long>(weights.bytes)},
                       {"bytes_by_dtype", std::move(types)},
                       {"quantized_in_memory", std::move(kept)},
                       {"layers", kv.layers},
                       {"context", kv.context},
                       {"kv_scales", weights.kv_scales},
                       {"kv_values_per_token", static_cast<long>(kv.values_per_token)},
                       {"kv_int8_bytes_per_token", static_cast<long>(kv.int8_bytes_per_token)},
                       {"memory_available_bytes", static_cast<long>(memory)},
                       {"fits", std::move(forms)}});
}

// What becomes of a quantised type when it is loaded.
std::string in_memory(const Json& report, const std::string& type) {
  const Json* form = report.find("quantized_in_memory")->find(type);
  if (!form) return "";
  if (form->as_string() == "widened") return ", widened when loading: no kernel computes from it";
  return ", computed from in " + form->as_string() + " codes (embeddings are widened)";
}

double gigabytes(const Json& value) { return value.as_number() / 1e9; }

void print_text(const Json& report) {
  const auto integer = [&](const char* key) { return static_cast<long long>(report.find(key)->as_integer()); };
  std::printf("%s\n", report.find("path")->as_string().c_str());
  std::printf("architecture    %s, %lld layers, context %lld\n", report.find("architecture")->as_string().c_str(),
              integer("layers"), integer("context"));
  std::printf("stored          %s, %lld files, %lld tensors, %.3f GB\n", report.find("format")->as_string().c_str(),
              integer("files"), integer("tensors"), gigabytes(*report.find("stored_bytes")));
  if (integer("parameters") == 0)
    std::printf("parameters      unknown: there are no weights here (--load-format dummy makes random ones)\n");
  else std::printf("parameters      %.3f million\n", static_cast<double>(integer("parameters")) / 1e6);
  for (const auto& [type, bytes] : report.find("bytes_by_dtype")->members())
    std::printf("  %-13s %.3f GB%s\n", type.c_str(), gigabytes(bytes), in_memory(report, type).c_str());
  if (const Json* quantised = report.find("quantised")) {
    for (const Json& entry : quantised->find("matrices")->items())
      std::printf("quantised       %lld tensors, %s: %s\n", static_cast<long long>(entry.find("tensors")->as_integer()),
                  entry.find("stored")->as_string().c_str(), entry.find("held")->as_string().c_str());
    for (const Json& entry : quantised->find("inputs_rounded_to")->items())
      std::printf("inputs          the format rounds them to %s; %s\n", entry.as_string().c_str(),
                  quantised->find("rounds_inputs")->as_bool()
                      ? "so they are"
                      : "here they are not rounded (--activation-quantization)");
  }
  if (integer("kv_scales") > 0)
    std::printf("KV scales       %lld, not used (--kv-cache-dtype int8 finds a scale for each token)\n",
                integer("kv_scales"));
  std::printf("KV per token    %lld values (%.1f KB in bfloat16, %.1f KB in int8)\n", integer("kv_values_per_token"),
              static_cast<double>(integer("kv_values_per_token")) * 2 / 1024,
              static_cast<double>(integer("kv_int8_bytes_per_token")) / 1024);
  std::printf("memory free     %.2f GB\n", gigabytes(*report.find("memory_available_bytes")));
  for (const Json& form : report.find("fits")->items()) {
    std::printf("  %-13s weights %.2f GB: ", form.find("form")->as_string().c_str(),
                gigabytes(*form.find("weight_bytes")));
    if (!form.find("fits")->as_bool()) std::printf("does not fit\n");
    else if (form.find("kv_bytes_per_token")->as_integer() == 0) std::printf("fits\n");
    else
      std::printf("fits, with room for %lld tokens in the KV cache\n",
                  static_cast<long long>(form.find("cache_tokens")->as_integer()));
  }
}

}  // namespace

Status inspect_command(const Arguments& arguments) {
  const bool dummy = arguments.engine.load_format == LoadFormat::dummy;
  WEFT_TRY(const std::shared_ptr<const Checkpoint> checkpoint,
           dummy ? Checkpoint::open_dummy(arguments.model, arguments.engine.mmproj)
                 : Checkpoint::open(arguments.model, LoadMode::mmap, arguments.engine.mmproj));
  const HfConfig config(checkpoint->config());
  WEFT_TRY(const CacheShape kv, cache_shape(*checkpoint));
  WEFT_RETURN_IF_ERROR(config.status());
  Json report = report_json(*checkpoint, config, count_weights(*checkpoint), kv);
  const auto& tensors = checkpoint->tensors();
  if (std::any_of(tensors.begin(), tensors.end(), [](const auto& entry) { return is_quantised(entry.second); })) {
    WEFT_TRY(Json quantised, quantised_json(*checkpoint, arguments.engine));
    report.set("quantised", std::move(quantised));
  }
  if (arguments.json) print_out(report.dump() + "\n");
  else print_text(report);
  return {};
}

}  // namespace weft
