// Sampling where the vocabulary lies in parts, with a rank each. Most rows are decided by the first few tokens of the
// order (sampler.h), and these are among the first few of each part: so each part gives its best candidates, and the
// token follows from all of them, to the bit as from all logits. What decides a row, how many tokens must be given:
//
//   greedy               1
//   top_k (any top_p,    k: all filters keep a prefix of the order, within the first k. The mass that top_p is of is
//   min_p, temperature)  theirs, and the noise depends on the token alone.
//   stages that lower    m more, of m tokens lowered at most: of the best k + m, k are as they were and in front of
//                        all others. Such are min_tokens, bad words, negative logit_bias, penalties that are not
//                        bonuses.
//
// All logits are needed otherwise: by samples without top_k (noise may choose any token, and the float rounding of x
// depends on the largest logit of all parts), by raw logprobs and beams (their normaliser), by masks and processors,
// and by stages that can raise a logit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "sampling/sampler.h"

namespace weft {

// More are not worth it: all logits are needed then.
constexpr int kMostCandidates = 256;
// In place of an id: nothing (the part has no more tokens above -inf), and in the first place of a part that has a
// logit which is not finite, for the error of the whole row.
constexpr int32_t kNoId = -1, kNotFiniteId = -2;

// What ranks exchange. The bytes are aligned as a Candidate is.
inline std::span<Candidate> as_candidates(std::span<std::byte> bytes) {
  return {reinterpret_cast<Candidate*>(bytes.data()), bytes.size() / sizeof(Candidate)};
}
inline std::span<const Candidate> as_candidates(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const Candidate*>(bytes.data()), bytes.size() / sizeof(Candidate)};
}

// How many candidates each part has to give for the row (its parameters, state, mask and pending tokens; its logits are
// not read); 0: all logits are needed.
int candidates_needed(const SampleRow& row);

// The best of a part of the vocabulary, whose first token is `first_id`, in order. `out` is filled with kNoId where the
// part has no more.
void select_candidates(std::span<const float> logits, int32_t first_id, std::span<Candidate> out, Scratch& scratch);

}  // namespace weft
