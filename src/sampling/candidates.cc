#include "sampling/candidates.h"

#include "sampling/choose.h"
#include "sampling/stages.h"

namespace weft {

int candidates_needed(const SampleRow& row) {
  const SamplingParams& p = row.state->params();
  if (p.beam_candidates > 0 || p.generation_logits || (p.logprobs >= 0 && !p.processed_logprobs)) return 0;
  const int kept = most_kept(row, filters_of(row)), lowered = most_lowered(row);
  if (kept == 0 || lowered < 0 || lowered > kMostCandidates || kept > kMostCandidates - lowered) return 0;
  return kept + lowered;
}

void select_candidates(std::span<const float> logits, int32_t first_id, std::span<Candidate> out, Scratch& scratch) {
  std::fill(out.begin(), out.end(), Candidate{kNoId, 0});
  if (!scan_logits(logits, scratch.maxima(logits.size())).finite) {
    out[0].id = kNotFiniteId;
    return;
  }
  find_best(logits, out.size(), [](float) { return true; }, scratch, first_id);
  std::copy(scratch.best.begin(), scratch.best.end(), out.begin());
}

}  // namespace weft
