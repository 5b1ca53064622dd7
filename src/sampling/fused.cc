// The fast sampler: a pass for the maximum, then only the tokens that can matter. Same bits as reference.cc.
#include <algorithm>
#include <numeric>

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
    const bool processed = p.logprobs >= 0 && p.processed_logprobs;
    if (f_.greedy && !processed) row_.token = first_of_max();
    else if (f_.top_k == 0 && f_.top_p >= 1.0f && !processed) row_.token = draw_all();
    else choose_from_prefix(processed);
    if (p.logprobs >= 0 && !processed) row_.error = row_logprobs(row_, scratch_);
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
    double best_score = score(best, max_, max_, f_);
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
          if (scaled(logits_[token], max_, f_.inverse_temperature) < f_.least_x && logits_[token] != max_) continue;
          const double s = score(token, logits_[token], max_, f_);
          if (s > best_score || (s == best_score && token < best)) best = token, best_score = s;
        }
    }
    return best;
  }

  // The first `size` tokens of the order (fewer if fewer are allowed and above min_p), sorted, in scratch.ids. True if
  // these are all that min_p leaves.
  bool sort_prefix(size_t size) {
    std::vector<int32_t>& ids = scratch_.ids;
    std::vector<float>& order = scratch_.group_order;
    float threshold = kNone;
    if (size <= order.size()) {  // the size-th largest group maximum: at least that many tokens reach it
      std::copy(scratch_.group_max.begin(), scratch_.group_max.end(), order.begin());
      std::nth_element(order.begin(), order.begin() + (size - 1), order.end(), std::greater<>());
      threshold = order[size - 1];
    }
    ids.clear();
    for (size_t g = 0; g < scratch_.group_max.size(); ++g) {
      const float largest = scratch_.group_max[g];
      if (largest < threshold || scaled(largest, max_, f_.inverse_temperature) < f_.least_x) continue;
      const size_t end = std::min(logits_.size(), (g + 1) * Scratch::kGroup);
      for (size_t i = g * Scratch::kGroup; i < end; ++i)
        if (logits_[i] >= threshold && logits_[i] != kNone &&
            !(scaled(logits_[i], max_, f_.inverse_temperature) < f_.least_x))
          ids.push_back(static_cast<int32_t>(i));
    }
    if (ids.empty()) ids.push_back(first_of_max());  // min_p of more than 1 in float
    const bool cut = ids.size() > size;
    if (cut) {
      std::nth_element(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(size), ids.end(),
                       InOrder{logits_.data()});
      ids.resize(size);
    }
    std::sort(ids.begin(), ids.end(), InOrder{logits_.data()});
    return !cut && threshold == kNone;
  }

  void choose_from_prefix(bool processed) {
    std::vector<int32_t>& ids = scratch_.ids;
    const float* logits = logits_.data();
    if (f_.top_k > 0 || f_.top_p >= 1.0f) {
      sort_prefix(f_.top_k > 0 ? f_.top_k : logits_.size());
      if (f_.top_p < 1.0f) {
        Mass total = 0;
        for (int32_t token : ids) total += mass_at(logits[token], max_, f_);
        if (const size_t size = nucleus(ids, logits, max_, f_, total); size > 0) ids.resize(size);
      }
    } else {
      // top_p alone: a longer prefix each time, until its mass is enough.
      const Mass total = mass_above_min_p();
      for (size_t size = 64;; size *= 8) {
        const bool all = sort_prefix(std::min(size, logits_.size()));
        const size_t kept = nucleus(ids, logits, max_, f_, total);
        if (kept > 0) ids.resize(kept);
        if (kept > 0 || all || size >= logits_.size()) break;
      }
    }
    row_.token = f_.greedy ? ids[0] : draw(ids, logits, max_, f_);
    if (processed) processed_logprobs(ids, logits, max_, f_, row_.token, row_.state->params().logprobs, *row_.logprobs);
  }

  Mass mass_above_min_p() const {
    if (f_.least_x == kNone) return total_mass(logits_, max_, f_.inverse_temperature);
    Mass total = 0;
    for (float logit : logits_)
      if (logit == max_ || !(scaled(logit, max_, f_.inverse_temperature) < f_.least_x))
        total += mass_at(logit, max_, f_);
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

void sample_rows(SamplerKind kind, std::span<SampleRow> rows, int index, int count, Scratch& scratch) {
  size_t owner = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    SampleRow& row = rows[i];
    // A sequence's logits processors are never called by two threads at once; its rows follow each other.
    const bool together = i > 0 && row.state == rows[i - 1].state && !row.state->processors().empty();
    if (!together) owner = i;
    if (owner % static_cast<size_t>(count) != static_cast<size_t>(index) || !row.error.empty()) continue;
    if (row.state->params().beam_candidates > 0) sample_beam(row, scratch);
    else (kind == SamplerKind::fused ? sample_fused : sample_reference)(row, scratch);
  }
}

}  // namespace weft
