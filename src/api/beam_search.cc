#include "api/beam_search.h"

#include <algorithm>
#include <cmath>

namespace weft {

BeamSearch::BeamSearch(BeamSettings settings)
    : settings_(std::move(settings)),
      keep_(std::max(2, 1 + static_cast<int>(settings_.end_ids.size())) * settings_.width), running_(1) {}

float BeamSearch::normalised(float score, int length) const {
  return score /
         static_cast<float>(std::pow(static_cast<double>(length), static_cast<double>(settings_.length_penalty)));
}

// The best of all beams in order; ties go to the earlier beam, then to the better place within it.
std::vector<BeamSearch::Candidate> BeamSearch::best_candidates(
    std::span<const std::vector<TokenLogprob>> candidates) const {
  std::vector<Candidate> all;
  for (size_t b = 0; b < candidates.size(); ++b)
    for (const TokenLogprob& one : candidates[b]) {
      const size_t top = std::min(candidates[b].size(), static_cast<size_t>(settings_.top_logprobs));
      all.push_back({static_cast<int>(b), &one, {candidates[b].data(), top}, running_[b].score + one.logprob, false});
    }
  std::stable_sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) { return a.score > b.score; });
  if (static_cast<int>(all.size()) > keep_) all.resize(static_cast<size_t>(keep_));
  return all;
}

Beam BeamSearch::extended(const Candidate& candidate) const {
  Beam beam = running_[static_cast<size_t>(candidate.beam)];
  beam.tokens.push_back(candidate.logprob->token);
  std::vector<TokenLogprob>& logprobs = beam.logprobs.emplace_back(1, *candidate.logprob);
  logprobs.insert(logprobs.end(), candidate.alternatives.begin(), candidate.alternatives.end());
  beam.score = candidate.score;
  beam.parent = candidate.beam;
  return beam;
}

void BeamSearch::add_hypotheses(std::span<const Candidate> best) {
  if (!improvable_ || (full() && settings_.early_stopping == EarlyStopping::yes)) return;
  for (const Candidate& candidate : best) {
    if (!candidate.ends) continue;
    Beam beam = extended(candidate);
    beam.score = normalised(beam.score, length_ + 1);
    hypotheses_.push_back(std::move(beam));
  }
  std::stable_sort(hypotheses_.begin(), hypotheses_.end(),
                   [](const Beam& a, const Beam& b) { return a.score > b.score; });
  if (static_cast<int>(hypotheses_.size()) > settings_.width) hypotheses_.resize(static_cast<size_t>(settings_.width));
}

bool BeamSearch::can_improve() const {
  if (running_.empty()) return false;
  if (!full()) return true;
  const bool hopeful = settings_.early_stopping == EarlyStopping::never && settings_.length_penalty > 0;
  return normalised(running_.front().score, hopeful ? settings_.max_tokens : length_) > hypotheses_.back().score;
}

bool BeamSearch::advance(std::span<const std::vector<TokenLogprob>> candidates,
                         const std::function<bool(int, int32_t)>& ends) {
  std::vector<Candidate> best = best_candidates(candidates);
  for (Candidate& one : best) {
    const int32_t token = one.logprob->token;
    one.ends = length_ + 1 >= settings_.max_tokens ||
               std::find(settings_.end_ids.begin(), settings_.end_ids.end(), token) != settings_.end_ids.end() ||
               (ends && ends(one.beam, token));
  }
  const auto width = static_cast<size_t>(settings_.width);
  std::vector<Beam> next;
  for (const Candidate& one : best)
    if (!one.ends && next.size() < width) next.push_back(extended(one));
  add_hypotheses(std::span(best).first(std::min(width, best.size())));
  running_ = std::move(next);
  ++length_;
  improvable_ = improvable_ && can_improve();
  return improvable_ && !(full() && settings_.early_stopping == EarlyStopping::yes);
}

}  // namespace weft
