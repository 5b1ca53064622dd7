// How many tokens to draft for a sequence.
#pragma once

#include <cstdint>

#include "core/speculation.h"

namespace weft {

// What is known of one sequence's drafts.
struct DraftHistory {
  int64_t drafted = 0, accepted = 0;
};

// Part of the scheduler's state: no clock, no threads. Times come in through measured().
class DraftPolicy {
 public:
  explicit DraftPolicy(const SpeculationOptions& options) : fixed_(options.num_tokens), most_(options.most()) {}

  // Drafts for the sequence's next step, which has `rows` rows of others; at most `limit` (a request's own; -1: none).
  int choose(const DraftHistory& history, int rows, int limit) const;
  // A step checked `drafted` drafts of the sequence and accepted so many.
  void observe(DraftHistory& history, int drafted, int accepted);
  // A step of decode rows alone took so long: `rows` rows, drafts included, after which `proposals` drafts were made.
  void measured(int rows, int proposals, double seconds);

  int most() const { return most_; }

 private:
  int fixed_, most_;
};

}  // namespace weft
