// The sampling parameters that are one number each, as one table. From its rows follow what requests may bring
// (api/request_json.cc), which values are valid (validate.cc), what generation_config.json may set (api/load.cc), the
// options of `weft run` and `weft chat` (apps/arguments.cc) and what beam search refuses (api/beam_request.cc). How to
// add one: docs/adding-a-parameter.md.
#pragma once

#include <limits>
#include <span>
#include <string_view>
#include <variant>

#include "base/result.h"
#include "core/sampling_params.h"

namespace weft {

// A temperature below this is its limit, 0: always the most likely token.
constexpr float kGreedyTemperature = 1e-5f;

// Valid are the finite numbers from `low` to `high`.
struct ParameterRange {
  double low = std::numeric_limits<double>::lowest(), high = std::numeric_limits<double>::max();
  bool low_is_valid = true;
  const char* must = "";  // the middle of the error: NAME, then this, then the value
};

struct SamplingParameter {
  // In requests (of every kind), generation_config.json and errors; with dashes on the command line.
  const char* name;
  std::variant<float SamplingParams::*, int SamplingParams::*> member;  // its initialiser is the default
  ParameterRange range;
  const char* help;                   // what it does: a line of --help and of docs/contract.md
  bool in_generation_config = false;  // the model's own file may set the default
  int option = 0;                     // place among the options of --help, from 1; 0: none
  // Says whether the value has no meaning for beam search, which then refuses the request. Null: it always has.
  bool (*unfit_for_beams)(const SamplingParams& params) = nullptr;
};

// All rows, in the order in which values are checked.
std::span<const SamplingParameter> sampling_parameters();
// Null for a name that is not in the table.
const SamplingParameter* find_sampling_parameter(std::string_view name);

double value_of(const SamplingParameter& parameter, const SamplingParams& params);
// A whole-number parameter takes the value without its fraction. False, and nothing is set, if it does not fit the
// parameter's type.
bool set_value(const SamplingParameter& parameter, double value, SamplingParams& params);
void set_to_default(const SamplingParameter& parameter, SamplingParams& params);
// invalid_argument for a value out of range, about the parameter's name.
Status check_range(const SamplingParameter& parameter, const SamplingParams& params);

}  // namespace weft
