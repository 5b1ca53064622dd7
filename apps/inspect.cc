// `weft inspect`: what a checkpoint is and what of it fits in this machine, from config.json and the tensors' headers
// alone.
#include <cstdio>
#include <map>

#include "base/available_memory.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/hf_config.h"
#include "plan/weight_formats.h"
#include "terminal.h"

namespace weft {

namespace {

struct Weights {
  int64_t parameters = 0, bytes = 0;
  std::map<std::string, int64_t> bytes_of;     // by stored type
  std::map<std::string, std::string> kept_as;  // of quantised types: the form of the codes in memory, or "widened"
};

Weights count_weights(const Checkpoint& checkpoint) {
  Weights weights;
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    const auto bytes = static_cast<int64_t>(tensor.data.size());
    weights.bytes += bytes;
    weights.bytes_of[weft::name(tensor.type)] += bytes;
    if (is_float(tensor.type)) weights.parameters += tensor.values();
    if (!is_blocked(tensor.type)) continue;
    const auto format = stored_format(tensor, static_cast<int>(tensor.cols()), kernels::Operand::f32);
    weights.kept_as[weft::name(tensor.type)] = format ? kernels::name(format->form) : "widened";
  }
  return weights;
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
  const Json report = report_json(*checkpoint, config, count_weights(*checkpoint), kv);
  if (arguments.json) print_out(report.dump() + "\n");
  else print_text(report);
  return {};
}

}  // namespace weft
