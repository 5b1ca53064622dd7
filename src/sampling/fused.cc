// The fast sampler: a pass for the maximum, then only the tokens that can matter. Same bits as reference.cc.
#include <algorithm>

#include "sampling/candidates.h"
#include "sampling/choose.h"
#include "sampling/stages.h"

namespace weft {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

class FusedRow {
 public:
  FusedRow(SampleRow& row, Scratch& scratch) : row_(row), scratch_(scratch), f_(filters_of(row)) {}

  void run() {
    logits_ = row_.logits;
    if (has_stages(row_)) {
      // A mask could hide what is not finite, so the model's own values are looked at first.
      if (!scan_logits(row_.logits, scratch_.group_max).finite) return void(row_.error = kNotFinite);
      row_.error = apply_stages(row_, scratch_.logits, scratch_);
      if (!row_.error.empty()) return;
      logits_ = scratch_.logits;
    }
    const LogitScan scan = scan_logits(logits_, scratch_.group_max);
    if (!scan.finite) return void(row_.error = kNotFinite);
    if (scan.max == kNone) return void(row_.error = kNothingAllowed);
    max_ = scan.max;
    const SamplingParams& p = row_.state->params();
    const bool processed = lists_processed(p);
    if (f_.greedy && !processed) row_.token = first_of_max();
    else if (f_.top_k == 0 && f_.top_p >= 1.0f && !processed) row_.token = draw_all();
    else choose_from_prefix(processed);
    if (p.logprobs >= 0 && !processed) row_.error = row_logprobs(row_, scratch_);
  }

  // From row.candidates, where the row is one that these answer. What is not among them is behind all that is kept.
  void run_candidates() {
    std::vector<Candidate>& best = scratch_.best;
    best.clear();
    for (const Candidate& c : row_.candidates) {
      if (c.id == kNotFiniteId) return void(row_.error = kNotFinite);
      if (c.id >= 0) best.push_back(c);
    }
    if (has_stages(row_)) lower(row_, best, scratch_);
    sort_best(best, static_cast<size_t>(most_kept(row_, f_)));
    if (best.empty() || best[0].logit == kNone) return void(row_.error = kNothingAllowed);
    max_ = best[0].logit;
    while (best.size() > 1 && (best.back().logit == kNone || below_min_p(best.back().logit))) best.pop_back();
    if (f_.greedy && !lists_processed(row_.state->params())) row_.token = best[0].id;
    else choose_from_all_of_best(lists_processed(row_.state->params()));
  }

 private:
  int32_t first_of_max() const {
    for (size_t g = 0;; ++g)
      if (scratch_.group_max[g] == max_) {
        const auto begin = logits_.begin() + g * Scratch::kGroup;
        return static_cast<int32_t>(std::find(begin, logits_.end(), max_) - logits_.begin());
      }
  }

  // No filter but min_p: the 16 high bits of the noise rule out nearly every token.
  int32_t draw_all() const {
    static_assert(Scratch::kGroup == kNoiseGroup);
    int32_t best = first_of_max();
    double best_score = score({best, max_}, max_, f_);
    for (size_t g = 0; g < scratch_.group_max.size(); ++g) {
      const float x = scaled(scratch_.group_max[g], max_, f_.inverse_temperature);
      if (x < f_.least_x || static_cast<double>(x) + 34.0 < best_score) continue;  // the noise is below 33.98
      const auto first = static_cast<int32_t>(g * Scratch::kGroup);
      const int count = std::min<int>(Scratch::kGroup, static_cast<int>(logits_.size()) - first);
      uint32_t hits[4];
      // an upper bound, so its last bits do not matter
      const auto scale = static_cast<float>(std::exp(-best_score) * 1.0001);
      noise_candidates(logits_.data() + first, count, first, max_, f_.inverse_temperature, scale, f_.seed, f_.position,
                       hits);
      for (int w = 0; w < 4; ++w)
        for (uint32_t bits = hits[w]; bits != 0; bits &= bits - 1) {
          const int32_t token = first + w * 32 + __builtin_ctz(bits);
          if (token >= first + count || logits_[token] == kNone) continue;
          if (below_min_p(logits_[token]) && logits_[token] != max_) continue;
          const double s = score({token, logits_[token]}, max_, f_);
          if (s > best_score || (s == best_score && token < best)) best = token, best_score = s;
        }
    }
    return best;
  }

  // The first `size` tokens of the order (fewer if fewer are allowed and above min_p), sorted, in scratch.best. True if
  // these are all that min_p leaves.
  bool sort_prefix(size_t size) {
    const auto kept = [this](float logit) { return !below_min_p(logit); };
    const bool all = find_best(logits_, size, kept, scratch_);
    if (scratch_.best.empty()) scratch_.best.push_back({first_of_max(), max_});  // min_p of more than 1 in float
    return all;
  }

  void choose_from_prefix(bool processed) {
    std::vector<Candidate>& best = scratch_.best;
    if (f_.top_k > 0 || f_.top_p >= 1.0f) {
      sort_prefix(f_.top_k > 0 ? f_.top_k : logits_.size());
      return choose_from_all_of_best(processed);
    }
    // top_p alone: a longer prefix each time, until its mass is enough.
    const Mass total = mass_above_min_p();
    for (size_t size = 64;; size *= 8) {
      const bool all = sort_prefix(std::min(size, logits_.size()));
      const size_t kept = nucleus(best, max_, f_, total);
      if (kept > 0) best.resize(kept);
      if (kept > 0 || all || size >= logits_.size()) break;
    }
    choose(processed);
  }

  // scratch.best is all that min_p and top_k leave.
  void choose_from_all_of_best(bool processed) {
    std::vector<Candidate>& best = scratch_.best;
    if (f_.top_p < 1.0f) {
      Mass total = 0;
      for (const Candidate& c : best) total += mass_at(c.logit, max_, f_);
      if (const size_t size = nucleus(best, max_, f_, total); size > 0) best.resize(size);
    }
    choose(processed);
  }

  // scratch.best is what all filters leave.
  void choose(bool processed) {
    const std::vector<Candidate>& best = scratch_.best;
    row_.token = f_.greedy ? best[0].id : draw(best, max_, f_);
    if (processed) processed_logprobs(best, max_, f_, row_.token, row_.state->params().logprobs, *row_.logprobs);
  }

  bool below_min_p(float logit) const { return scaled(logit, max_, f_.inverse_temperature) < f_.least_x; }

  Mass mass_above_min_p() const {
    if (f_.least_x == kNone) return total_mass(logits_, max_, f_.inverse_temperature);
    Mass total = 0;
    for (float logit : logits_)
      if (logit == max_ || !below_min_p(logit)) total += mass_at(logit, max_, f_);
    return total;
  }

  SampleRow& row_;
  Scratch& scratch_;
  const RowFilters f_;
  std::span<const float> logits_;
  float max_ = 0;
};

}  // namespace

void sample_fused(SampleRow& row, Scratch& scratch) { FusedRow(row, scratch).run(); }

void sample_candidates(SampleRow& row, Scratch& scratch) { FusedRow(row, scratch).run_candidates(); }

void sample_rows(SamplerKind kind, std::span<SampleRow> rows, int index, int count, Scratch& scratch) {
  size_t owner = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    SampleRow& row = rows[i];
    // A sequence's logits processors are never called by two threads at once; its rows follow each other.
    const bool together = i > 0 && row.state == rows[i - 1].state && !row.state->processors().empty();
    if (!together) owner = i;
    if (owner % static_cast<size_t>(count) != static_cast<size_t>(index) || !row.error.empty()) continue;
    if (!row.candidates.empty()) sample_candidates(row, scratch);
    else if (row.state->params().beam_candidates > 0) sample_beam(row, scratch);
    else (kind == SamplerKind::fused ? sample_fused : sample_reference)(row, scratch);
  }
}

}  // namespace weft
