// How a model is shared out over ranks (comm/communicator.h).
#pragma once

namespace weft {

// A stage is `tensor` ranks that compute the same layers together: each has a share of the heads, of the width of the
// MLPs, of the vocabulary, and of the experts. Of experts there are `experts` shares (a divisor of
// `tensor`), each of `tensor / experts` successive ranks, which share the width of each of these experts; 0: as many as
// the model's experts can be cut into, layer by layer. With attention data parallelism the ranks of a stage have all of
// the heads and all of the dense parts, each for sequences of its own, and share the experts alone. `pipeline` stages
// have the layers in turn.
struct RankLayout {
  int tensor = 1, experts = 0, pipeline = 1;
  bool attention_dp = false;
  int size() const { return tensor * pipeline; }
  bool single() const { return size() == 1; }
  int homes() const { return attention_dp ? tensor : 1; }
  bool operator==(const RankLayout&) const = default;
};

}  // namespace weft
