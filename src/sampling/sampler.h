// The two samplers. Both compute the same pure function of (logits, parameters, tokens so far, seed), to the bit:
//
//   l      = logits after the stages of stages.h: processors, logit_bias, allowed_token_ids, bad words,
//            no_repeat_ngram, grammar mask, min_tokens, repetition penalty, presence and frequency penalty
//   order  = tokens by l descending, then by id ascending
//   L      = the largest l;  x = (l - L) * (1 / temperature), in float;  p = exp(x)
//   kept   = the longest prefix of the order with x >= log(min_p) (min_p is relative to the best token), at most top_k
//            long; then its shortest prefix whose mass exceeds top_p of the mass so far (so at least one token stays)
//   token  = the kept token with the largest x + gumbel(seed, position, id), in double; ties to the lower id
//
// temperature below kGreedyTemperature: the first token of the order, and no randomness. Every filter keeps a prefix of
// one order, so the filters commute with one another as far as they can, and a kept set is described by its last
// element. The position is that of the sampled token: tokens of the slot + pending.
//
// `reference` (reference.cc) is the readable one: a copy, a full sort, one function per parameter. `fused` (fused.cc)
// never sorts the vocabulary: it finds the answer in a few vector passes and draws noise for the few tokens that can
// still win. Where the vocabulary is shared out among ranks, its last part works on the best tokens of each share
// (candidates.h).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/option_kinds.h"
#include "core/step.h"
#include "sampling/scratch.h"
#include "sampling/slot_state.h"

namespace weft {

struct SampleRow {
  std::span<const float> logits;  // [vocab], of the model (or after batched processors)
  // [vocab] for raw logprobs when `logits` are those of batched processors; empty: `logits`
  std::span<const float> raw_logits;
  // Instead of logits: the best of every part of the vocabulary (candidates.h), for rows that are decided by them.
  std::span<const Candidate> candidates;
  const SlotState* state = nullptr;  // open
  const uint32_t* mask = nullptr;    // grammar: [ceil(vocab / 32)] words, bit 1 = allowed; null: no grammar
  std::span<const int32_t> pending;  // drafts before this position: evaluated as if appended to the state
  std::vector<TokenLogprob>* logprobs = nullptr;  // filled when the parameters ask for logprobs; not null then

  // Out.
  int32_t token = -1;
  // not empty: no token. "the model's logits are not finite", "no token is allowed here", a processor's message
  std::string error;
};

// Beam search's part of the sampler, instead of the two, where the parameters' beam_candidates is not 0. As in Hugging
// Face's generate(), the stages work on logprobs: l = log-softmax of the logits, then the stages of stages.h. Nothing
// is filtered, normalised or drawn after that: `logprobs` gets the best candidates, [0] being the best once more, and
// `token` is the best.
void sample_beam(SampleRow& row, Scratch& scratch);

// One row.
void sample_reference(SampleRow& row, Scratch& scratch);
void sample_fused(SampleRow& row, Scratch& scratch);

// A row with candidates, to the bit as the two from all logits.
void sample_candidates(SampleRow& row, Scratch& scratch);

// All rows but those that have an error already, shared by `count` threads that call this with index 0 .. count - 1 and
// a scratch each. No barrier inside; no allocation after warm-up except for an error's text.
void sample_rows(SamplerKind kind, std::span<SampleRow> rows, int index, int count, Scratch& scratch);

// logprob = logit - log sum exp(logits), into `out` [vocab]; the error of the row if there is one.
std::string log_softmax(std::span<const float> logits, std::span<float> out, Scratch& scratch);

// Logprobs under the log-softmax of `logits`: `token` first, then the k best (ties: lower id first); tokens of
// probability zero are left out of the k best. Empty string, or the error of the row. For prompt logprobs `token` is
// the prompt's next one.
std::string raw_logprobs(std::span<const float> logits, int32_t token, int k, Scratch& scratch,
                         std::vector<TokenLogprob>& out);

}  // namespace weft
