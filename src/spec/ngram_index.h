// Where runs of tokens stood before: for a few lengths of a run, chains of the places behind it, newest first. It keeps
// no tokens; its user has the text and compares.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace weft {

class NgramIndex {
 public:
  static constexpr int kLevels = 4;         // lengths of runs that have chains
  static constexpr int kMostMatches = 8;    // places of a find()
  static constexpr int kLongestMatch = 32;  // tokens that are compared
  static constexpr int kMostLookedAt = 64;  // places of a chain that are compared

  // Looks up runs of `shortest` tokens or more; 1 <= shortest <= longest. Up to `longest` tokens the longest match is
  // found for certain (if that is at most kLevels - 1 more than `shortest`), beyond it the longest among the newest
  // kMostLookedAt places.
  NgramIndex(int shortest, int longest);

  // Forgets everything, and makes room for `places` places (rounded up to a power of two): of more, the newest stay.
  // Allocates if there was less room before.
  void reset(size_t places);
  // Gives the memory back; room for nothing.
  void release();
  size_t room() const { return mask_ == 0 ? 0 : static_cast<size_t>(mask_) + 1; }

  // `place` follows the end of `before`. Places only grow, modulo 2^32, and 0 is none. Runs with different seeds do not
  // meet, but for chance.
  void add(std::span<const int32_t> before, uint32_t place, uint64_t seed = 0);

  struct Matches {
    int length = 0;  // tokens before each place that agree, kLongestMatch at most
    int count = 0;
    std::array<uint32_t, kMostMatches> places{};  // newest first
  };
  // The places with the longest match before them. `length_at(place)`: how many tokens before the place agree with the
  // end of `text`.
  template <class LengthAt>
  Matches find(std::span<const int32_t> text, uint64_t seed, LengthAt length_at) const {
    Matches best;
    if (mask_ == 0) return best;
    const Buckets buckets = buckets_of(text, seed);
    for (int level = buckets.levels - 1; level >= 0 && best.count == 0; --level) {
      uint32_t place = heads_[static_cast<size_t>(buckets.bucket[level]) * kLevels + level];
      for (uint32_t age = 0, looked_at = 0; is_live(place, age) && looked_at < kMostLookedAt; ++looked_at) {
        const int length = length_at(place);
        // less: another run that fell into the same bucket
        if (length >= lengths_[level]) note(best, place, length);
        if (best.count == kMostMatches && best.length == kLongestMatch) break;
        age = newest_ - place + 1;
        place = older_[static_cast<size_t>(place & mask_) * kLevels + level];
      }
    }
    return best;
  }

 private:
  struct Buckets {
    int levels = 0;  // that the text is long enough for
    std::array<uint32_t, kLevels> bucket{};
  };
  Buckets buckets_of(std::span<const int32_t> text, uint64_t seed) const;
  // A chain's next place is still remembered, and as old as `age` or older.
  bool is_live(uint32_t place, uint32_t age) const {
    return place != 0 && newest_ - place >= age && newest_ - place <= mask_;
  }
  static void note(Matches& best, uint32_t place, int length) {
    if (length > best.length) best.length = length, best.count = 0;
    if (length == best.length && best.count < kMostMatches) best.places[best.count++] = place;
  }

  int levels_ = 0;
  std::array<int, kLevels> lengths_{};  // ascending
  uint32_t mask_ = 0, newest_ = 0;
  std::vector<uint32_t> heads_;  // per bucket and level: the newest place
  std::vector<uint32_t> older_;  // per place and level: the one before it in its chain
};

}  // namespace weft
