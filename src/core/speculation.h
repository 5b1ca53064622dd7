// How tokens are drafted. A draft is accepted exactly if it equals the token that the target samples at its position
// anyway (docs/exactness.md, rule 6), so none of this changes an answer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/named_enum.h"
#include "core/option_kinds.h"

namespace weft {

enum class DraftMethod : uint8_t { none, automatic, ngram, draft_model, eagle3, mtp };
template <>
inline constexpr auto kNames<DraftMethod> =
    names_of_all<DraftMethod>("none", "auto", "ngram", "draft_model", "eagle3", "mtp");

// Whether drafts come from a model, with weights and a cache.
constexpr bool has_model(DraftMethod method) {
  return method == DraftMethod::draft_model || method == DraftMethod::eagle3 || method == DraftMethod::mtp;
}

// The drafts of one step and sequence at most.
constexpr int kMostDrafts = 16;

struct SpeculationOptions {
  DraftMethod method = DraftMethod::none;
  std::string model;   // folder or file of the draft's checkpoint (draft_model, eagle3)
  int num_tokens = 0;  // drafts of a step; 0: as many as pay, see spec/draft_policy.h
  int max_tokens = 8;  // of these, at most
  // eagle3: the draft runs in the target's walk. False: as an engine of its own, which may have another dtype and other
  // threads.
  bool one_model = true;
  ComputeType dtype = ComputeType::automatic;  // of a draft that is an engine of its own
  int threads = 0;                             // likewise; 0: the target's
  // eagle3: the target's layers whose outputs the draft reads, as "after so many layers"; empty: as its checkpoint says
  std::vector<int> layers;
  // ngram: the shortest and the longest run of tokens that is looked up, and whether the answers of other requests with
  // the same salt are searched too
  int ngram_min = 2, ngram_max = 5;
  bool ngram_shared = false;
  // Drafts of a step at most, whoever chooses.
  int most() const { return method == DraftMethod::none ? 0 : num_tokens > 0 ? num_tokens : max_tokens; }
};

}  // namespace weft
