#include "sampling/parameters.h"

#include <algorithm>
#include <iterator>
#include <type_traits>

namespace weft {
namespace {

using P = SamplingParams;

constexpr float kLargestFloat = std::numeric_limits<float>::max();
constexpr ParameterRange kAny{};
constexpr ParameterRange kNotNegative{.low = 0, .must = " must not be negative, but is "};
constexpr ParameterRange kShare{.low = 0, .high = 1, .must = " must be between 0 and 1, not "};
constexpr ParameterRange kShareAbove0{
    .low = 0, .high = 1, .low_is_valid = false, .must = " must be above 0 and at most 1, not "};
constexpr ParameterRange kPenalty{.low = -2, .high = 2, .must = " must be between -2 and 2, not "};
constexpr ParameterRange kFactor{
    .low = 0, .high = kLargestFloat, .low_is_valid = false, .must = " must be a finite number above 0, not "};
constexpr ParameterRange kTemperature{
    .low = 0, .high = kLargestFloat, .must = " must be a finite number of at least 0, not "};
constexpr ParameterRange kDrafts{.low = -1, .must = " must be -1 (as the engine chooses) or at least 0, not "};
constexpr ParameterRange kTopK{.low = -1, .must = " must be -1 or 0 (off) or positive, not "};

template <auto kMember>
bool is_set(const P& p) {
  return p.*kMember != P().*kMember;
}

constexpr SamplingParameter kParameters[] = {
    {.name = "temperature",
     .member = &P::temperature,
     .range = kTemperature,
     .help = "0: always the most likely token",
     .in_generation_config = true,
     .option = 1,
     .unfit_for_beams = [](const P& p) { return p.temperature != 0 && p.temperature != 1; }},
    {.name = "top_k",
     .member = &P::top_k,
     .range = kTopK,
     .help = "Sample from this many most likely tokens; 0: all",
     .in_generation_config = true,
     .option = 3,
     .unfit_for_beams = [](const P& p) { return p.top_k > 0; }},
    {.name = "top_p",
     .member = &P::top_p,
     .range = kShareAbove0,
     .help = "Sample from the most likely tokens of this total probability",
     .in_generation_config = true,
     .option = 2,
     .unfit_for_beams = is_set<&P::top_p>},
    {.name = "min_p",
     .member = &P::min_p,
     .range = kShare,
     .help = "Leave out tokens less likely than this share of the best",
     .in_generation_config = true,
     .option = 4,
     .unfit_for_beams = is_set<&P::min_p>},
    {.name = "top_p_decay",
     .member = &P::top_p_decay,
     .range = kShareAbove0,
     .help = "Multiply top_p by this after each token",
     .unfit_for_beams = is_set<&P::top_p_decay>},
    {.name = "top_p_min", .member = &P::top_p_min, .range = kShareAbove0, .help = "Let top_p shrink no further"},
    {.name = "top_p_reset_id", .member = &P::top_p_reset_id, .range = kAny, .help = "Set top_p back at this token"},
    {.name = "presence_penalty",
     .member = &P::presence_penalty,
     .range = kPenalty,
     .help = "Against tokens that occurred",
     .option = 6},
    {.name = "frequency_penalty",
     .member = &P::frequency_penalty,
     .range = kPenalty,
     .help = "Against tokens by how often they occurred",
     .option = 7},
    {.name = "repetition_penalty",
     .member = &P::repetition_penalty,
     .range = kFactor,
     .help = "Above 1: repeat less",
     .in_generation_config = true,
     .option = 5},
    {.name = "prompt_ignore_length",
     .member = &P::prompt_ignore_length,
     .range = kNotNegative,
     .help = "Leave this many tokens at the start of the prompt out of repetition_penalty"},
    {.name = "no_repeat_ngram_size",
     .member = &P::no_repeat_ngram_size,
     .range = kNotNegative,
     .help = "Let no sequence of this many tokens occur twice; 0: off"},
    {.name = "max_draft_tokens",
     .member = &P::max_draft_tokens,
     .range = kDrafts,
     .help = "Speculation drafts this many tokens of a step at most; 0: none; -1: as the engine chooses",
     .option = 8},
};

}  // namespace

std::span<const SamplingParameter> sampling_parameters() { return kParameters; }

const SamplingParameter* find_sampling_parameter(std::string_view name) {
  const auto found = std::find_if(std::begin(kParameters), std::end(kParameters),
                                  [&](const SamplingParameter& parameter) { return parameter.name == name; });
  return found == std::end(kParameters) ? nullptr : found;
}

double value_of(const SamplingParameter& parameter, const SamplingParams& params) {
  return std::visit([&](auto member) { return static_cast<double>(params.*member); }, parameter.member);
}

bool set_value(const SamplingParameter& parameter, double value, SamplingParams& params) {
  return std::visit(
      [&](auto member) {
        using Number = std::remove_reference_t<decltype(params.*member)>;
        using Limits = std::numeric_limits<Number>;
        if (!(value >= static_cast<double>(Limits::lowest()) && value <= static_cast<double>(Limits::max())))
          return false;
        params.*member = static_cast<Number>(value);
        return true;
      },
      parameter.member);
}

void set_to_default(const SamplingParameter& parameter, SamplingParams& params) {
  std::visit([&](auto member) { params.*member = SamplingParams().*member; }, parameter.member);
}

Status check_range(const SamplingParameter& parameter, const SamplingParams& params) {
  const ParameterRange& range = parameter.range;
  const double value = value_of(parameter, params);
  if (range.low_is_valid ? value >= range.low : value > range.low)
    if (value <= range.high) return {};
  return std::visit(
      [&](auto member) -> Status {
        return fail(Code::invalid_argument, parameter.name, range.must, params.*member).about(parameter.name);
      },
      parameter.member);
}

}  // namespace weft
