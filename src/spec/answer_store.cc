#include "spec/answer_store.h"

#include <algorithm>
#include <bit>

namespace weft {

namespace {
constexpr uint32_t kTokensPerAnswer = 32;  // on average, so that there is an entry for every answer
}

AnswerStore::AnswerStore(int shortest, int longest, size_t tokens)
    : shortest_(shortest), mask_(static_cast<uint32_t>(std::bit_ceil(std::max<size_t>(tokens, 64)) - 1)),
      index_(shortest, longest), tokens_(mask_ + 1), owner_(mask_ + 1), answers_((mask_ + 1) / kTokensPerAnswer) {
  index_.reset(mask_ + 1);
}

void AnswerStore::add(const Salt& salt, std::span<const int32_t> answer) {
  if (answer.size() > mask_) answer = answer.last(mask_);
  if (answer.size() <= static_cast<size_t>(shortest_)) return;
  const uint32_t owner = next_answer_;
  next_answer_ = (next_answer_ + 1) % answers_.size();
  answers_[owner] = {salt, next_place_, static_cast<uint32_t>(answer.size())};
  const uint64_t seed = seed_of(salt);
  for (size_t i = 0; i < answer.size(); ++i, ++next_place_) {
    tokens_[next_place_ & mask_] = answer[i];
    owner_[next_place_ & mask_] = owner;
    index_.add(answer.first(i), next_place_, seed);
  }
}

NgramIndex::Matches AnswerStore::find(const Salt& salt, std::span<const int32_t> text) const {
  return index_.find(text, seed_of(salt), [&](uint32_t place) { return length_at(place, salt, text); });
}

int32_t AnswerStore::token(uint32_t place, int offset) const {
  const Answer& answer = answer_of(place);
  const uint32_t at = place - answer.first + static_cast<uint32_t>(offset);
  return at < answer.count ? tokens_[(place + static_cast<uint32_t>(offset)) & mask_] : -1;
}

int AnswerStore::length_at(uint32_t place, const Salt& salt, std::span<const int32_t> text) const {
  const Answer& answer = answer_of(place);
  const uint32_t before = place - answer.first;  // tokens of the answer before the place
  if (before >= answer.count || answer.salt != salt) return 0;
  const uint32_t kept = mask_ - (next_place_ - 1 - place);  // tokens before the place that were not overwritten
  const size_t most = std::min(
      {static_cast<size_t>(std::min(before, kept)), text.size(), static_cast<size_t>(NgramIndex::kLongestMatch)});
  size_t length = 0;
  while (length < most &&
         tokens_[(place - 1 - static_cast<uint32_t>(length)) & mask_] == text[text.size() - 1 - length])
    ++length;
  return static_cast<int>(length);
}

uint64_t AnswerStore::seed_of(const Salt& salt) {
  uint64_t seed = 0;
  for (const uint64_t part : salt) seed = (seed ^ part) * 0xbf58476d1ce4e5b9u, seed ^= seed >> 31;
  return seed;
}

}  // namespace weft
