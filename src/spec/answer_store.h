// Answers of sequences that have ended, for prompt lookup in those that follow: at most so many tokens, of which the
// newest stay. An answer is found only with the salt that it was stored with.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "spec/ngram_index.h"

namespace weft {

class AnswerStore {
 public:
  using Salt = std::array<uint64_t, 4>;

  // Takes its memory at once, 40 bytes a token. `tokens` is rounded up to a power of two. Runs of tokens: see
  // NgramIndex.
  AnswerStore(int shortest, int longest, size_t tokens);

  // Of an answer with more tokens than there is room for, the last ones are kept. Does not allocate.
  void add(const Salt& salt, std::span<const int32_t> answer);
  // Places in answers with this salt where the end of `text` stood.
  NgramIndex::Matches find(const Salt& salt, std::span<const int32_t> text) const;
  // The token so far behind a place of the last find(); -1: the answer ends before.
  int32_t token(uint32_t place, int offset) const;

 private:
  struct Answer {
    Salt salt{};
    uint32_t first = 0, count = 0;  // place of its first token, and its tokens
  };
  const Answer& answer_of(uint32_t place) const { return answers_[owner_[place & mask_]]; }
  int length_at(uint32_t place, const Salt& salt, std::span<const int32_t> text) const;
  static uint64_t seed_of(const Salt& salt);

  const int shortest_;
  const uint32_t mask_;
  NgramIndex index_;
  // Tokens lie at place & mask. Places go up, modulo 2^32.
  std::vector<int32_t> tokens_;
  std::vector<uint32_t> owner_;  // per token: index into answers_
  std::vector<Answer> answers_;  // a ring as well; an entry may serve another answer by now
  uint32_t next_place_ = 1, next_answer_ = 0;
};

}  // namespace weft
