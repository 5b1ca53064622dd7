// Memory that a sampling thread works in, allocated once for a vocabulary.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "sampling/passes.h"

namespace weft {

class Scratch {
 public:
  // One per thread. `passes`: the instruction set, by default the best of this machine (all give the same bits).
  explicit Scratch(int vocab_size, int max_seq_len = 0, const Passes& passes = best_passes());
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  int vocab_size() const { return vocab_size_; }
  int groups() const { return static_cast<int>(group_max_.size()); }
  const Passes& passes() const { return *passes_; }

  // [vocab], 64-byte aligned, followed by -inf up to a whole group.
  std::span<float> logits() { return {logits_.get(), static_cast<size_t>(vocab_size_)}; }
  float* tail() { return tail_; }                                   // [kNoiseGroup] the last, incomplete group of a row, padded
  std::span<float> group_max() { return group_max_; }               // [groups]
  std::span<float> group_order() { return group_order_; }           // [groups] room to select among the maxima
  std::span<float> probabilities() { return probabilities_; }       // [vocab] of the reference sampler, empty until it asks
  std::vector<int32_t>& ids() { return ids_; }                      // room for [vocab]
  std::vector<int32_t>& tokens() { return tokens_; }                // room for max_seq_len
  void need_probabilities();

 private:
  struct Free {
    void operator()(float* memory) const;
  };
  const int vocab_size_;
  const Passes* const passes_;
  std::unique_ptr<float[], Free> logits_;
  alignas(64) float tail_[128];
  std::vector<float> group_max_, group_order_, probabilities_;
  std::vector<int32_t> ids_, tokens_;
};

}  // namespace weft
