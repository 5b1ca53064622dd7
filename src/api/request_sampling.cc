// The fields of biases, of logits processors and of beam search.
#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>
#include <set>
#include <unordered_map>

#include "api/request_fields.h"
#include "sampling/parameters.h"

namespace weft::request_fields {

namespace {

constexpr size_t kMaxProcessors = 16;        // of one request
constexpr size_t kMaxStopBytes = 64 * 1024;  // of one stop string

// The field's value, or null where it is absent or null.
const Json* given(const Json& body, const char* field) {
  const Json* value = body.find(field);
  return value && !value->is_null() ? value : nullptr;
}

Result<ProcessorChoice> read_choice(const std::string& here, const Json& item) {
  const Json* name = item.is_object() ? item.find("name") : &item;
  if (!name || !name->is_string()) return wrong(here, "an object with a \"name\", or a name", item);
  ProcessorChoice choice;
  choice.name = name->as_string();
  if (!item.is_object()) return choice;
  for (const Json::Member& member : item.members()) {
    if (member.first == "params") choice.params = member.second.dump();
    else if (member.first != "name")
      return fail(Code::invalid_argument, here, " has an unknown member ", shown(Json(member.first)),
                  "; it takes name and params")
          .about(here);
  }
  return choice;
}

Result<EarlyStopping> read_early_stopping(const std::string& field, const Json& value) {
  if (value.is_string() && value.as_string() == "never") return EarlyStopping::never;
  if (!value.is_bool()) return wrong(field, "true, false or \"never\"", value);
  return value.as_bool() ? EarlyStopping::yes : EarlyStopping::no;
}

// Without beam search its fields may only say what is so anyway.
Status check_no_beams(const Json& body, const BeamSpec& beams) {
  const std::pair<const char*, bool> set[] = {{"beam_width", given(body, "beam_width") != nullptr},
                                              {"length_penalty", beams.length_penalty != 1},
                                              {"early_stopping", beams.early_stopping != EarlyStopping::no}};
  for (const auto& [field, is_set] : set)
    if (is_set) return fail(Code::invalid_argument, field, " needs use_beam_search to be true").about(field);
  return {};
}

}  // namespace

Result<std::vector<std::string>> read_stops(const std::string& field, const Json& value, const RequestLimits& limits) {
  std::vector<std::string> stops;
  if (value.is_string()) {
    stops.push_back(value.as_string());
  } else {
    if (!value.is_array()) return wrong(field, "a string or a list of strings", value);
    WEFT_RETURN_IF_ERROR(
        check_limit(limits, &RequestLimits::stop_strings, static_cast<int64_t>(value.items().size()), field));
    WEFT_TRY(stops, read_strings(field, value));
  }
  int64_t bytes = 0;
  for (const std::string& stop : stops) {
    if (stop.empty()) return fail(Code::invalid_argument, "stop holds an empty string").about(field);
    if (stop.size() > kMaxStopBytes)
      return fail(Code::invalid_argument, "a stop string may be at most ", kMaxStopBytes, " bytes long, got ",
                  stop.size())
          .about(field);
    bytes += static_cast<int64_t>(stop.size());
  }
  WEFT_RETURN_IF_ERROR(check_limit(limits, &RequestLimits::stop_bytes, bytes, field));
  return stops;
}

Result<std::vector<std::vector<int32_t>>> read_banned(const std::string& field, const Json& value,
                                                      const RequestRules& rules) {
  WEFT_TRY(const std::vector<std::string> words, read_strings(field, value));
  if (!words.empty() && !rules.encode)
    return fail(Code::unsupported, "bad_words needs a tokenizer, and this model has none").about(field);
  WEFT_RETURN_IF_ERROR(check_limit(rules.limits, &RequestLimits::bad_words, static_cast<int64_t>(words.size()), field));
  int64_t bytes = 0;
  for (const std::string& word : words) bytes += static_cast<int64_t>(word.size());
  WEFT_RETURN_IF_ERROR(check_limit(rules.limits, &RequestLimits::bad_word_bytes, bytes, field));
  std::vector<std::vector<int32_t>> banned;
  std::set<std::vector<int32_t>> known;
  for (const std::string& word : words) {
    if (word.empty()) return fail(Code::invalid_argument, "bad_words holds an empty string").about(field);
    // A word at the start of a text and behind a space are different tokens.
    for (const std::string& text : {word, " " + word}) {
      WEFT_TRY(std::vector<int32_t> ids, rules.encode(text));
      if (!ids.empty() && known.insert(ids).second) banned.push_back(std::move(ids));
    }
  }
  return banned;
}

Result<std::vector<std::pair<int32_t, float>>> read_biases(const std::string& field, const Json& value) {
  if (!value.is_object()) return wrong(field, "an object from token ids to numbers", value);
  std::unordered_map<int32_t, size_t> places;
  std::vector<std::pair<int32_t, float>> biases;
  for (const Json::Member& member : value.members()) {
    int32_t id = 0;
    const char* end = member.first.data() + member.first.size();
    const auto parsed = std::from_chars(member.first.data(), end, id);
    if (parsed.ec != std::errc() || parsed.ptr != end || id < 0)
      return fail(Code::invalid_argument, "logit_bias has the key ", shown(Json(member.first)),
                  "; keys must be token ids")
          .about(field);
    WEFT_TRY(const float bias, read_float(field + "[" + member.first + "]", member.second));
    const auto [place, fresh] = places.try_emplace(id, biases.size());
    if (fresh) biases.emplace_back(id, bias);
    else biases[place->second].second = bias;
  }
  return biases;
}

Result<std::vector<ProcessorChoice>> read_processors(const std::string& field, const Json& value) {
  if (!value.is_array()) return wrong(field, "a list of {\"name\", \"params\"}", value);
  if (value.items().size() > kMaxProcessors)
    return fail(Code::invalid_argument, field, " may hold at most ", kMaxProcessors, " processors, got ",
                value.items().size())
        .about(field);
  std::vector<ProcessorChoice> choices;
  for (const Json& item : value.items()) {
    WEFT_TRY(ProcessorChoice choice, read_choice(field + "[" + std::to_string(choices.size()) + "]", item));
    choices.push_back(std::move(choice));
  }
  return choices;
}

Status read_beams(const Json& body, int64_t max_width, Request& request) {
  for (const char* field : {"beam_search_diversity_rate", "diversity_penalty"})  // groups of beams that keep apart
    if (const Json* value = given(body, field); value && !(value->is_number() && value->as_number() == 0))
      return fail(Code::unsupported, field, " is not supported; leave it out or send 0").about(field);
  bool search = false;
  BeamSpec beams;
  std::optional<int64_t> width;
  if (const Json* value = given(body, "use_beam_search")) {
    WEFT_TRY(search, read_bool("use_beam_search", *value));
  }
  if (const Json* value = given(body, "length_penalty")) {
    WEFT_TRY(beams.length_penalty, read_float("length_penalty", *value));
  }
  if (const Json* value = given(body, "early_stopping")) {
    WEFT_TRY(beams.early_stopping, read_early_stopping("early_stopping", *value));
  }
  if (const Json* value = given(body, "beam_width")) {
    WEFT_TRY(width, read_integer("beam_width", *value));
    if (*width < 1)
      return fail(Code::invalid_argument, "beam_width must be at least 1, got ", *width).about("beam_width");
    if ((max_width > 0 && *width > max_width) || *width > std::numeric_limits<int>::max())
      return fail(Code::invalid_argument, "beam_width must be at most ", max_width, " (--max-choices), got ", *width)
          .about("beam_width");
  }
  if (!search) return check_no_beams(body, beams);
  beams.width = static_cast<int>(width.value_or(std::max(request.n, request.best_of)));
  if (!width) request.best_of = 0;  // it was the width, as in other engines
  request.beams = beams;
  // What the model's file says about sampling is void; what the client says the engine judges.
  for (const SamplingParameter& parameter : sampling_parameters())
    if (parameter.in_generation_config && parameter.unfit_for_beams && !given(body, parameter.name))
      set_to_default(parameter, request.sampling);
  return {};
}

}  // namespace weft::request_fields
