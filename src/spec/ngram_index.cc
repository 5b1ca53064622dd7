#include "spec/ngram_index.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace weft {

NgramIndex::NgramIndex(int shortest, int longest) {
  WEFT_CHECK(1 <= shortest && shortest <= longest && longest <= kLongestMatch) << shortest << " " << longest;
  levels_ = std::min(kLevels, longest - shortest + 1);
  for (int i = 0; i < levels_; ++i) {
    lengths_[i] = levels_ == 1 ? shortest : shortest + (longest - shortest) * i / (levels_ - 1);
  }
}

void NgramIndex::reset(size_t places) {
  const size_t room = std::bit_ceil(std::max<size_t>(places, 64));
  mask_ = static_cast<uint32_t>(room - 1), newest_ = 0;
  heads_.assign(room * kLevels, 0);
  older_.resize(room * kLevels);  // entries are written before they are read
}

void NgramIndex::release() {
  mask_ = 0, newest_ = 0;
  heads_ = {}, older_ = {};
}

void NgramIndex::add(std::span<const int32_t> before, uint32_t place, uint64_t seed) {
  newest_ = place;
  const Buckets buckets = buckets_of(before, seed);
  for (int level = 0; level < buckets.levels; ++level) {
    uint32_t& head = heads_[static_cast<size_t>(buckets.bucket[level]) * kLevels + level];
    older_[static_cast<size_t>(place & mask_) * kLevels + level] = head;
    head = place;
  }
}

NgramIndex::Buckets NgramIndex::buckets_of(std::span<const int32_t> text, uint64_t seed) const {
  Buckets buckets;
  uint64_t hash = seed;
  int taken = 0;
  for (int level = 0; level < levels_ && static_cast<size_t>(lengths_[level]) <= text.size(); ++level) {
    for (; taken < lengths_[level]; ++taken) {
      hash = (hash + static_cast<uint32_t>(text[text.size() - 1 - taken]) + 1) * 0x9e3779b97f4a7c15u;
      hash ^= hash >> 32;
    }
    buckets.bucket[level] = static_cast<uint32_t>(hash) & mask_;
    buckets.levels = level + 1;
  }
  return buckets;
}

}  // namespace weft
