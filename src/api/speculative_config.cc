// See the header. First every key is brought to weft's own name for it, then each of these is read once. Keys of other
// systems whose defaults say what weft does anyway are accepted with these values only.
#include "api/speculative_config.h"

#include <algorithm>
#include <cctype>
#include <map>

#include "api/request_fields.h"

namespace weft {
namespace {

using namespace request_fields;

constexpr char kOption[] = "speculative_config";
constexpr int kMostThreads = 1024, kLongestNgram = 32, kMostLayers = 4096;

constexpr unsigned bit(DraftMethod method) { return 1u << static_cast<unsigned>(method); }
constexpr unsigned kNgram = bit(DraftMethod::ngram), kDraftModel = bit(DraftMethod::draft_model);
constexpr unsigned kEagle3 = bit(DraftMethod::eagle3), kMtp = bit(DraftMethod::mtp);
constexpr unsigned kAuto = bit(DraftMethod::automatic), kAll = kNgram | kDraftModel | kEagle3 | kMtp | kAuto;

struct Key {
  const char *name, *means;  // `means`: weft's own name for it
  unsigned methods;          // that it has a meaning for
};

constexpr Key kKeys[] = {
    {"method", "method", kAll},
    {"decoding_type", "method", kAll},
    {"model", "model", kDraftModel | kEagle3},
    {"speculative_model", "model", kDraftModel | kEagle3},
    {"speculative_model_dir", "model", kDraftModel | kEagle3},
    {"num_tokens", "num_tokens", kAll},
    {"num_speculative_tokens", "num_tokens", kAll},
    {"max_draft_len", "num_tokens", kAll},
    {"max_total_draft_tokens", "num_tokens", kAll},  // more than max_draft_len would be a tree
    {"num_nextn_predict_layers", "num_tokens", kMtp},
    {"max_tokens", "max_tokens", kAll},
    {"one_model", "one_model", kEagle3 | kMtp | kDraftModel},
    {"eagle3_one_model", "one_model", kEagle3},
    {"mtp_eagle_one_model", "one_model", kMtp},
    {"dtype", "dtype", kEagle3 | kDraftModel},
    {"threads", "threads", kEagle3 | kDraftModel},
    {"layers", "layers", kEagle3},
    {"eagle3_layers_to_capture", "layers", kEagle3},
    {"ngram_min", "ngram_min", kNgram | kAuto},
    {"prompt_lookup_min", "ngram_min", kNgram | kAuto},
    {"ngram_max", "ngram_max", kNgram | kAuto},
    {"prompt_lookup_max", "ngram_max", kNgram | kAuto},
    {"max_ngram_size", "ngram_max", kNgram | kAuto},
    {"max_matching_ngram_size", "ngram_max", kNgram | kAuto},
    {"ngram_shared", "ngram_shared", kNgram | kAuto},
    {"is_public_pool", "ngram_shared", kNgram | kAuto},
};

// Keys of other systems that have one value here, as JSON ("": only null), and why.
struct Fixed {
  const char *name, *value, *why;
};

constexpr char kExact[] = "a draft is accepted if it is the token that the model samples, so answers do not change";
constexpr char kChain[] = "drafts are a chain, not a tree";
constexpr char kMeasured[] = "whether drafts pay is measured for each sequence";
constexpr char kCheckpoint[] = "the draft's checkpoint says it";

constexpr Fixed kFixed[] = {
    {"use_relaxed_acceptance_for_thinking", "false", kExact},
    {"relaxed_topk", "1", kExact},
    {"relaxed_delta", "0", kExact},
    {"begin_thinking_phase_token", "128798", kExact},
    {"end_thinking_phase_token", "128799", kExact},
    {"posterior_threshold", "", kExact},
    {"typical_acceptance_sampler_posterior_threshold", "", kExact},
    {"use_rejection_sampling", "false", kExact},
    {"greedy_sampling", "true", kExact},
    {"use_dynamic_tree", "false", kChain},
    {"dynamic_tree_max_topK", "", kChain},
    {"eagle_choices", "", kChain},
    {"speculative_token_tree", "", kChain},
    {"max_concurrency", "", kMeasured},
    {"disable_by_batch_size", "", kMeasured},
    {"draft_len_schedule", "", kMeasured},
    {"acceptance_window", "", kMeasured},
    {"acceptance_length_threshold", "", kMeasured},
    {"use_mtp_vanilla", "false", "the model's checkpoint says how many layers there are"},
    {"num_eagle_layers", "", kCheckpoint},
    {"eagle3_model_arch", "\"llama3\"", kCheckpoint},
    {"quantization", "", kCheckpoint},
    {"is_keep_all", "true", "all of a sequence's text is searched"},
    {"is_use_oldest", "false", "the latest match is taken"},
    {"draft_tensor_parallel_size", "1", "there is one rank"},
};

std::string named(const std::string& key) { return std::string(kOption) + "." + key; }

// ---- Names of methods

// Letters only, in lower case: "Draft_Target" and "DraftTarget" are the same.
std::string plain(const std::string& name) {
  std::string letters;
  for (const unsigned char c : name)
    if (std::isalnum(c)) letters += static_cast<char>(std::tolower(c));
  return letters;
}

// Values of decoding_type.
Result<DraftMethod> reference_method(const std::string& field, const Json& value) {
  static const std::map<std::string, DraftMethod> kTypes = {{"none", DraftMethod::none},
                                                            {"auto", DraftMethod::automatic},
                                                            {"mtp", DraftMethod::mtp},
                                                            {"eagle", DraftMethod::eagle3},
                                                            {"eagle3", DraftMethod::eagle3},
                                                            {"ngram", DraftMethod::ngram},
                                                            {"drafttarget", DraftMethod::draft_model}};
  WEFT_TRY(const std::string name, read_string(field, value));
  const auto found = kTypes.find(plain(name));
  if (found == kTypes.end()) return wrong(field, "one of MTP, Eagle, Eagle3, NGram, DraftTarget, Auto", value);
  return found->second;
}

Result<DraftMethod> own_method(const std::string& field, const Json& value) {
  WEFT_TRY(const std::string name, read_string(field, value));
  if (name == "deepseek_mtp") return DraftMethod::mtp;
  if (name == "[ngram]") return DraftMethod::ngram;
  if (const auto method = value_named<DraftMethod>(name)) return *method;
  std::string names;
  for (const std::string& known : all_names<DraftMethod>()) names += (names.empty() ? "" : ", ") + known;
  return wrong(field, "one of " + names, value);
}

// ---- Values

Result<int> read_within(const std::string& field, const Json& value, int low, int high) {
  WEFT_TRY(const int64_t number, read_integer(field, value));
  if (number < low || number > high)
    return fail(Code::invalid_argument, field, " must be between ", low, " and ", high, ", got ", number).about(field);
  return static_cast<int>(number);
}

// The items of a list, or of a set: in YAML that is a map without values, {1, 2}.
Result<Json::Array> read_set(const std::string& field, const Json& value) {
  if (value.is_array()) return value.items();
  const auto is_set = [](const Json& map) {
    return map.is_object() &&
           std::ranges::all_of(map.members(), [](const Json::Member& m) { return m.second.is_null(); });
  };
  if (!is_set(value)) return wrong(field, "a list of layers", value);
  Json::Array items;
  for (const Json::Member& member : value.members()) {
    const auto item = parse_json(member.first);
    items.push_back(item.ok() ? *item : Json(member.first));
  }
  return items;
}

// weft counts layers in front of the tapped state; the reference system names the layer whose output it is, in a set.
Result<std::vector<int>> read_layers(const std::string& field, const Json& value, bool by_output) {
  WEFT_TRY(const Json::Array items, read_set(field, value));
  if (items.empty()) return wrong(field, "a list of layers", value);
  std::vector<int> layers;
  for (const Json& item : items) {
    WEFT_TRY(const int layer, read_within(field, item, 0, kMostLayers));
    layers.push_back(layer + (by_output ? 1 : 0));
    if (std::count(layers.begin(), layers.end(), layers.back()) > 1)
      return fail(Code::invalid_argument, field, " has ", layer, " twice").about(field);
  }
  if (by_output) std::ranges::sort(layers);
  return layers;
}

Json layers_json(const std::vector<int>& layers) { return Json(Json::Array(layers.begin(), layers.end())); }

// ---- The keys

// A value under weft's own name, and the key that it was given under.
struct Given {
  std::string key;
  Json value;
  unsigned methods = kAll;
};
using Values = std::map<std::string, Given>;  // by weft's own name

// Values whose form differs between systems, in weft's form.
Result<Json> own_value(const Key& key, const Json& value) {
  const std::string field = named(key.name);
  if (key.means == std::string("method")) {
    WEFT_TRY(const DraftMethod method,
             key.name == std::string("decoding_type") ? reference_method(field, value) : own_method(field, value));
    return Json(name_of(method));
  }
  if (key.means == std::string("layers")) {
    WEFT_TRY(const std::vector<int> layers, read_layers(field, value, key.name != std::string("layers")));
    return layers_json(layers);
  }
  return value;
}

Status add(Values& values, const std::string& means, Given given) {
  const auto [place, fresh] = values.try_emplace(means, given);
  if (fresh) return {};
  if (place->second.value == given.value) {
    place->second.methods &= given.methods;
    return {};
  }
  return fail(Code::invalid_argument, kOption, " says ", place->second.key, " ", place->second.value.dump(), " and ",
              given.key, " ", given.value.dump(), ", which mean the same thing; give one of them")
      .about(named(given.key));
}

Status check_fixed(const Fixed& fixed, const Json& value) {
  const std::string only = fixed.value;
  if (!only.empty() && value == *parse_json(only)) return {};
  return fail(Code::unsupported, named(fixed.name), " ", shown(value), " is not supported: ", fixed.why,
              only.empty() ? "; leave it out" : "; leave it out or set it to " + only)
      .about(named(fixed.name));
}

Status add_key(Values& values, const std::string& name, const Json& value) {
  // vLLM names the method in place of a model.
  if (name == "model" && value.is_string() && value.as_string() == "[ngram]")
    return add(values, "method", {name, name_of(DraftMethod::ngram)});
  for (const Key& key : kKeys) {
    if (name != key.name) continue;
    WEFT_TRY(Json own, own_value(key, value));
    return add(values, key.means, {name, std::move(own), key.methods});
  }
  for (const Fixed& fixed : kFixed)
    if (name == fixed.name) return check_fixed(fixed, value);
  return fail(Code::invalid_argument, kOption, " has no key ", json_quote(name)).about(named(name));
}

Result<Values> read_keys(const Json& config) {
  Values values;
  for (const auto& [name, value] : config.members()) {
    if (config.find(name) != &value)
      return fail(Code::invalid_argument, kOption, " has the key ", name, " twice").about(named(name));
    if (!value.is_null()) WEFT_RETURN_IF_ERROR(add_key(values, name, value));
  }
  return values;
}

Status read_numbers(const Values& values, SpeculationOptions& o) {
  const auto number = [&](const char* name, int& target, int low, int high) -> Status {
    const auto found = values.find(name);
    if (found == values.end()) return {};
    WEFT_TRY(target, read_within(named(found->second.key), found->second.value, low, high));
    return {};
  };
  WEFT_RETURN_IF_ERROR(number("num_tokens", o.num_tokens, 1, kMostDrafts));
  WEFT_RETURN_IF_ERROR(number("max_tokens", o.max_tokens, 1, kMostDrafts));
  WEFT_RETURN_IF_ERROR(number("threads", o.threads, 0, kMostThreads));
  WEFT_RETURN_IF_ERROR(number("ngram_min", o.ngram_min, 1, kLongestNgram));
  WEFT_RETURN_IF_ERROR(number("ngram_max", o.ngram_max, 1, kLongestNgram));
  // The default of one of these gives way to the other.
  if (!values.contains("ngram_min")) o.ngram_min = std::min(o.ngram_min, o.ngram_max);
  if (!values.contains("ngram_max")) o.ngram_max = std::max(o.ngram_min, o.ngram_max);
  return {};
}

Status read_others(const Values& values, SpeculationOptions& o) {
  const auto given = [&](const char* name) -> const Given* {
    const auto found = values.find(name);
    return found == values.end() ? nullptr : &found->second;
  };
  if (const Given* model = given("model")) {
    WEFT_TRY(o.model, read_string(named(model->key), model->value));
    if (o.model.empty()) return fail(Code::invalid_argument, named(model->key), " is empty").about(named(model->key));
  }
  if (o.method == DraftMethod::draft_model) o.one_model = false;
  if (const Given* one = given("one_model")) {
    WEFT_TRY(o.one_model, read_bool(named(one->key), one->value));
  }
  if (const Given* shared = given("ngram_shared")) {
    WEFT_TRY(o.ngram_shared, read_bool(named(shared->key), shared->value));
  }
  if (const Given* dtype = given("dtype")) {
    WEFT_TRY(const std::string name, read_string(named(dtype->key), dtype->value));
    const auto type = value_named<ComputeType>(name);
    if (!type) return wrong(named(dtype->key), "one of auto, float32, bfloat16", dtype->value);
    o.dtype = *type;
  }
  if (const Given* layers = given("layers"))
    for (const Json& layer : layers->value.items()) o.layers.push_back(static_cast<int>(layer.as_integer()));
  return {};
}

// ---- What keys say together

Status check_methods(const Values& values, DraftMethod method) {
  for (const auto& [means, given] : values) {
    if ((given.methods & bit(method)) != 0) continue;
    std::string methods;
    for (const DraftMethod other :
         {DraftMethod::automatic, DraftMethod::ngram, DraftMethod::draft_model, DraftMethod::eagle3, DraftMethod::mtp})
      if ((given.methods & bit(other)) != 0) methods += (methods.empty() ? "" : " and ") + std::string(name_of(other));
    return fail(Code::invalid_argument, named(given.key), " is for the method ", methods, ", not for ", name_of(method))
        .about(named(given.key));
  }
  return {};
}

Status check_together(const Values& values, const SpeculationOptions& o) {
  const auto refuse = [&](const char* name, const std::string& why) -> Status {
    const std::string field = named(values.at(name).key);
    return fail(Code::invalid_argument, field, " ", why).about(field);
  };
  if (values.contains("num_tokens") && values.contains("max_tokens"))
    return refuse("max_tokens", "bounds a number that the engine chooses, and " + values.at("num_tokens").key +
                                    " fixes it; give one of them");
  if (values.contains("one_model") && o.method == DraftMethod::mtp && !o.one_model)
    return refuse("one_model", "must be true for mtp: its layers are the model's own");
  if (values.contains("one_model") && o.method == DraftMethod::draft_model && o.one_model)
    return refuse("one_model", "must be false for draft_model: it is an engine of its own");
  for (const char* own : {"dtype", "threads"})
    if (values.contains(own) && o.one_model)
      return refuse(own, "is of a draft that is an engine of its own; set one_model to false");
  if (o.ngram_min > o.ngram_max)
    return refuse("ngram_min", "(" + std::to_string(o.ngram_min) + ") must not be above " + values.at("ngram_max").key +
                                   " (" + std::to_string(o.ngram_max) + ")");
  return {};
}

Error needs_model(DraftMethod method) {
  return fail(Code::invalid_argument, named("model"), " is missing: ", name_of(method), " needs the draft's checkpoint")
      .about(named("model"));
}

Result<SpeculationOptions> read_object(const Json& config) {
  SpeculationOptions options;
  WEFT_TRY(const Values values, read_keys(config));
  if (std::ranges::all_of(config.members(), [](const Json::Member& member) { return member.second.is_null(); }))
    return options;
  if (!values.contains("method"))
    return fail(Code::invalid_argument, named("method"), " is missing").about(named("method"));
  options.method = *value_named<DraftMethod>(values.at("method").value.as_string());
  if (options.method == DraftMethod::none) {
    if (values.size() == 1) return options;
    const auto other = std::ranges::find_if(values, [](const auto& entry) { return entry.first != "method"; });
    return fail(Code::invalid_argument, named(other->second.key), " has no meaning for the method none")
        .about(named(other->second.key));
  }
  WEFT_RETURN_IF_ERROR(check_methods(values, options.method));
  WEFT_RETURN_IF_ERROR(read_numbers(values, options));
  WEFT_RETURN_IF_ERROR(read_others(values, options));
  WEFT_RETURN_IF_ERROR(check_together(values, options));
  if ((bit(options.method) & (kDraftModel | kEagle3)) != 0 && options.model.empty()) return needs_model(options.method);
  return options;
}

}  // namespace

Result<SpeculationOptions> read_speculation(const std::string& config) {
  if (config.find_first_not_of(" \t\r\n") == std::string::npos) return SpeculationOptions();
  auto parsed = parse_json(config);
  // A word that is no JSON is a method's name; a longer text was meant as JSON.
  const bool word = std::ranges::all_of(config, [](unsigned char c) { return std::isalnum(c) || c == '_'; });
  if (!parsed.ok() && !word) return std::move(parsed).error().with("--speculative-config").about(kOption);
  const Json value = parsed.ok() ? *parsed : Json(config);
  if (value.is_null() || (value.is_bool() && !value.as_bool())) return SpeculationOptions();
  if (value.is_string()) {
    WEFT_TRY(const DraftMethod method, own_method(kOption, value));
    return read_object(Json::object({{"method", name_of(method)}}));
  }
  if (!value.is_object()) return wrong(kOption, "a JSON object or a method's name", value);
  return read_object(value);
}

Status check_speculation(const SpeculationOptions& o) {
  const auto within = [](const char* key, int value, int low, int high) -> Status {
    if (value >= low && value <= high) return {};
    return fail(Code::invalid_argument, "speculation.", key, " must be between ", low, " and ", high, ", not ", value)
        .about(named(key));
  };
  if (o.method == DraftMethod::none) return {};
  WEFT_RETURN_IF_ERROR(within("num_tokens", o.num_tokens, 0, kMostDrafts));
  WEFT_RETURN_IF_ERROR(within("max_tokens", o.max_tokens, 1, kMostDrafts));
  WEFT_RETURN_IF_ERROR(within("threads", o.threads, 0, kMostThreads));
  WEFT_RETURN_IF_ERROR(within("ngram_max", o.ngram_max, 1, kLongestNgram));
  WEFT_RETURN_IF_ERROR(within("ngram_min", o.ngram_min, 1, o.ngram_max));
  for (const int layer : o.layers) WEFT_RETURN_IF_ERROR(within("layers", layer, 0, kMostLayers));
  if ((bit(o.method) & (kDraftModel | kEagle3)) != 0 && o.model.empty()) return needs_model(o.method);
  return {};
}

}  // namespace weft
