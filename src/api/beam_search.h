// Beam search as Hugging Face's generate() does it (transformers 5, do_sample=False): the bookkeeping of one request,
// from candidates to hypotheses. It runs no model; beam_request.h does.
//
// Per step, with `width` running beams: every candidate's score is its beam's plus its logprob. Of all of them the best
// max(2, 1 + number of end ids) * width are kept; the best `width` that do not end go on. Those among the best `width`
// that end (by an end id, or by the length: then all do) become hypotheses with score / length^length_penalty, of which
// the best `width` stay. It is over when all candidates end, or when no running beam can get better than the worst
// hypothesis. early_stopping says how that is judged: no - by the best beam's score at its present length (a
// heuristic); never - where a positive length penalty favours long answers, by its score at the full length; yes - not
// at all: it is over as soon as there are `width` hypotheses.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "api/engine.h"

namespace weft {

struct BeamSettings {
  int width = 1;
  float length_penalty = 1;
  EarlyStopping early_stopping = EarlyStopping::no;
  int max_tokens = 0;
  std::vector<int32_t> end_ids;
  int top_logprobs = 0;  // alternatives that are kept for each token
};

struct Beam {
  std::vector<int32_t> tokens;                      // generated
  std::vector<std::vector<TokenLogprob>> logprobs;  // per token: its own, then the best alternatives
  // sum of the logprobs; of a hypothesis divided by length^length_penalty
  float score = 0;
  int parent = 0;  // in the running beams of the step before
};

class BeamSearch {
 public:
  explicit BeamSearch(BeamSettings settings);

  // How many candidates a beam must bring at least, if it has so many.
  int candidates() const { return keep_; }
  const std::vector<Beam>& running() const { return running_; }
  // One step: per running beam its candidates in descending order. `ends` tells of more ends than end ids (a grammar
  // that is complete); may be empty. False: the search is over.
  bool advance(std::span<const std::vector<TokenLogprob>> candidates,
               const std::function<bool(int beam, int32_t token)>& ends = {});
  // In descending order of score; at most `width`.
  const std::vector<Beam>& hypotheses() const { return hypotheses_; }

 private:
  struct Candidate {
    int beam = 0;
    const TokenLogprob* logprob = nullptr;
    std::span<const TokenLogprob> alternatives;
    float score = 0;
    bool ends = false;
  };
  std::vector<Candidate> best_candidates(std::span<const std::vector<TokenLogprob>> candidates) const;
  Beam extended(const Candidate& candidate) const;
  void add_hypotheses(std::span<const Candidate> best);
  bool can_improve() const;
  bool full() const { return static_cast<int>(hypotheses_.size()) == settings_.width; }
  float normalised(float score, int length) const;

  const BeamSettings settings_;
  const int keep_;
  std::vector<Beam> running_, hypotheses_;
  int length_ = 0;  // tokens of the running beams
  bool improvable_ = true;
};

}  // namespace weft
