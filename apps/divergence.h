// How far the next-token distributions of one model are from those of another over a text.
#pragma once

#include <string>

#include "commands.h"

namespace weft {

// Of every position of a text.
struct Distributions {
  std::vector<int32_t> ids;
  int64_t vocab = 0;
  std::vector<float> logits;  // [ids, vocab]
  int64_t weight_bytes = 0;   // of the model in memory
};

// Of the first `tokens` tokens of `text`. Loads the model, and gives its memory back.
Result<Distributions> distributions(const std::string& model, EngineOptions options, const std::string& text,
                                    int tokens, const EngineLoader& load);

struct Divergence {
  double mean = 0, largest = 0;  // Kullback-Leibler divergence of a position, sum p (log p - log q), in nats
  double same_top = 0;           // share of positions with the same likeliest token
  double perplexity = 0;         // of the text under q
};

// `q` against `p`, of the same tokens, in double precision.
Divergence divergence(const Distributions& p, const Distributions& q);

}  // namespace weft
