// A drafter for tests that knows the answers: it proposes what recorded sequences went on with, each token right with a
// chosen probability, so that every number of accepted drafts occurs.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "spec/drafter.h"

namespace weft::testing {

class ScriptedDrafter : public Drafter {
 public:
  // `right`: probability that a proposed token is the recorded one, else it is another id below `vocabulary` (2 or
  // more). Which of them are right depends on `seed` and on the tokens up to there alone.
  ScriptedDrafter(double right, uint64_t seed, int vocabulary);

  // A sequence's prompt and answer. Where recorded sequences share their beginning, that of the request's sampling seed
  // is followed if it was given, and else the first that was recorded. Not while an engine uses the drafter.
  void record(std::span<const int32_t> tokens, std::optional<uint64_t> sampling_seed = {});

  // Nothing for a text that is not the beginning of a recorded sequence.
  void propose(const DraftContext& context, int most, std::vector<int32_t>& drafts) override;

 private:
  struct Next {
    std::optional<uint64_t> sampling_seed;
    int32_t token = 0;
  };
  const Next* next_after(uint64_t prefix, std::optional<uint64_t> sampling_seed) const;
  bool is_right(uint64_t prefix) const;

  const double right_;
  const uint64_t seed_;
  const int vocabulary_;
  // By the hash of all tokens before.
  std::unordered_map<uint64_t, std::vector<Next>> next_;
};

}  // namespace weft::testing
