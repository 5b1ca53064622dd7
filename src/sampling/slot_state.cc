#include "sampling/slot_state.h"

#include <algorithm>

namespace weft {

SlotState::SlotState(int vocab_size, int max_seq_len) : vocab_size_(vocab_size), max_seq_len_(max_seq_len) {}

bool SlotState::penalised() const {
  return params_->repetition_penalty != 1.0f || params_->presence_penalty != 0.0f || params_->frequency_penalty != 0.0f;
}

void SlotState::open(std::shared_ptr<const SamplingParams> params, uint64_t seed, std::span<const int32_t> prompt,
                     std::span<const int32_t> output, std::vector<std::shared_ptr<LogitsProcessor>> processors) {
  close();
  params_ = std::move(params);
  seed_ = seed;
  processors_ = std::move(processors);
  tokens_.reserve(std::min<size_t>(max_seq_len_, prompt.size() + output.size() + params_->max_tokens) + 1);
  tokens_.assign(prompt.begin(), prompt.end());
  prompt_tokens_ = static_cast<int>(prompt.size());
  top_p_ = params_->top_p;
  if (penalised()) {
    seen_index_.resize(vocab_size_);
    for (size_t i = std::min(prompt.size(), static_cast<size_t>(std::max(0, params_->prompt_ignore_length)));
         i < prompt.size(); ++i)
      count(prompt[i], 0);
  }
  if (!params_->allowed_token_ids.empty()) {
    allowed_.assign((vocab_size_ + 31) / 32, 0);
    for (int32_t id : params_->allowed_token_ids)
      if (in_vocab(id)) allowed_[id / 32] |= 1u << (id % 32);
  }
  for (int32_t token : output) append(token);
}

void SlotState::append(int32_t token) {
  tokens_.push_back(token);
  top_p_ = next_top_p(top_p_, token);
  if (penalised()) count(token, 1);
}

void SlotState::close() {
  params_ = nullptr;
  processors_.clear();
  tokens_.clear();
  prompt_tokens_ = 0;
  for (const Seen& seen : seen_) seen_index_[seen.id] = 0;
  seen_.clear();
  allowed_.clear();
}

void SlotState::count(int32_t id, int output_occurrences) {
  if (!in_vocab(id)) return;
  int32_t& index = seen_index_[id];
  if (index == 0) {
    seen_.push_back({id, 0});
    index = static_cast<int32_t>(seen_.size());
  }
  seen_[index - 1].output_count += output_occurrences;
}

float SlotState::next_top_p(float top_p, int32_t token) const {
  if (token == params_->top_p_reset_id) return params_->top_p;
  if (params_->top_p_decay == 1.0f) return top_p;
  return std::max(top_p * params_->top_p_decay, params_->top_p_min);
}

float SlotState::top_p_after(std::span<const int32_t> pending) const {
  float top_p = top_p_;
  for (int32_t token : pending) top_p = next_top_p(top_p, token);
  return top_p;
}

}  // namespace weft
