#include "support/scripted_drafter.h"

#include <algorithm>

#include "base/check.h"

namespace weft::testing {

namespace {

// splitmix64's finaliser over the sum.
uint64_t mix(uint64_t state, uint64_t value) {
  uint64_t z = state + 0x9e3779b97f4a7c15u * (value + 1);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}
uint64_t extend(uint64_t prefix, int32_t token) { return mix(prefix, static_cast<uint32_t>(token)); }

}  // namespace

ScriptedDrafter::ScriptedDrafter(double right, uint64_t seed, int vocabulary)
    : right_(right), seed_(seed), vocabulary_(vocabulary) {
  WEFT_CHECK(vocabulary >= 2) << vocabulary;
}

void ScriptedDrafter::record(std::span<const int32_t> tokens, std::optional<uint64_t> sampling_seed) {
  uint64_t prefix = 0;
  for (const int32_t token : tokens) {
    next_[prefix].push_back({sampling_seed, token});
    prefix = extend(prefix, token);
  }
}

const ScriptedDrafter::Next* ScriptedDrafter::next_after(uint64_t prefix, std::optional<uint64_t> sampling_seed) const {
  const auto found = next_.find(prefix);
  if (found == next_.end()) return nullptr;
  for (const Next& next : found->second)
    if (sampling_seed && next.sampling_seed == sampling_seed) return &next;
  return &found->second.front();
}

bool ScriptedDrafter::is_right(uint64_t prefix) const {
  return static_cast<double>(mix(prefix, seed_) >> 11) * 0x1p-53 < right_;
}

// Behind a wrong token the recorded ones go on: whoever accepted them anyway would be found out.
void ScriptedDrafter::propose(const DraftContext& context, int most, std::vector<int32_t>& drafts) {
  uint64_t prefix = 0;
  for (const int32_t token : context.tokens) prefix = extend(prefix, token);
  for (int i = 0; i < most; ++i) {
    const Next* next = next_after(prefix, context.params ? std::optional(context.seed) : std::nullopt);
    if (!next) return;
    const int32_t other =
        static_cast<int32_t>((next->token + 1 + mix(prefix, ~seed_) % (vocabulary_ - 1)) % vocabulary_);
    drafts.push_back(is_right(prefix) ? next->token : other);
    prefix = extend(prefix, next->token);
  }
}

}  // namespace weft::testing
