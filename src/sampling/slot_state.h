// What the sampler remembers of one running sequence: its tokens and, where a parameter needs them, counts per token
// id. All of it is a function of (parameters, prompt, output), so a slot that is closed and opened again with the
// output so far is the same slot.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/sampling_params.h"
#include "sampling/logits_processor.h"

namespace weft {

class SlotState {
 public:
  // Memory: the tokens; with a penalty also 4 bytes per token id; with allowed_token_ids one bit per token id. A slot
  // keeps its memory from one sequence to the next. `max_seq_len` bounds prompt + output: append() does not allocate up
  // to it.
  SlotState(int vocab_size, int max_seq_len);

  // `params` passed validate(). Ids outside the vocabulary in `prompt` and `output` (image placeholders) are kept but
  // never counted. `seed`: the sequence's own.
  void open(std::shared_ptr<const SamplingParams> params, uint64_t seed, std::span<const int32_t> prompt,
            std::span<const int32_t> output, std::vector<std::shared_ptr<LogitsProcessor>> processors = {});
  void append(int32_t token);
  void close();
  bool is_open() const { return params_ != nullptr; }

  const SamplingParams& params() const { return *params_; }
  uint64_t seed() const { return seed_; }
  int vocab_size() const { return vocab_size_; }
  std::span<const int32_t> tokens() const { return tokens_; }  // prompt and output
  int prompt_tokens() const { return prompt_tokens_; }
  int output_tokens() const { return static_cast<int>(tokens_.size()) - prompt_tokens_; }
  // top_p of the next token after `pending` more: top_p_decay, top_p_min and top_p_reset_id applied.
  float top_p_after(std::span<const int32_t> pending) const;
  // Bits of the allowed ids, or null when all are.
  const uint32_t* allowed_mask() const { return allowed_.empty() ? nullptr : allowed_.data(); }
  std::span<const std::shared_ptr<LogitsProcessor>> processors() const { return processors_; }

  // A token id that the penalties count.
  struct Seen {
    int32_t id = 0;
    int output_count = 0;  // occurrences in the output
  };
  // Each counted id once, in order of first occurrence; empty unless a penalty is on.
  std::span<const Seen> seen() const { return seen_; }
  bool has_seen(int32_t id) const {
    return !seen_index_.empty() && in_vocab(id) && seen_index_[static_cast<size_t>(id)] != 0;
  }
  bool in_vocab(int32_t id) const { return id >= 0 && id < vocab_size_; }

 private:
  void count(int32_t id, int output_occurrences);
  float next_top_p(float top_p, int32_t token) const;
  bool penalised() const;

  const int vocab_size_, max_seq_len_;
  std::shared_ptr<const SamplingParams> params_;
  uint64_t seed_ = 0;
  std::vector<int32_t> tokens_;
  int prompt_tokens_ = 0;
  float top_p_ = 1;
  std::vector<Seen> seen_;
  // [vocab] 1 + index into seen_, 0: not seen; allocated when a penalty is first used
  std::vector<int32_t> seen_index_;
  std::vector<uint32_t> allowed_;
  std::vector<std::shared_ptr<LogitsProcessor>> processors_;
};

}  // namespace weft
