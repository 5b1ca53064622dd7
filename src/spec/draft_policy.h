// How many tokens to draft for a sequence: as many as make the most tokens per second, by the acceptance that was seen
// and the time that steps took; and never so many that a sequence could lose much more than 1 % of its time by
// drafts that fail. docs/speculation.md has the formula.
#pragma once

#include <array>
#include <cstdint>

#include "core/speculation.h"
#include "spec/step_cost.h"

namespace weft {

// What is known of one sequence's drafts. Kept for it from its first step to its last, preemptions included.
struct DraftHistory {
  int64_t drafted = 0, accepted = 0;  // totals

  // The rest is DraftPolicy's own.
  double hits = 0, trials = 0;  // drafts whose predecessors were right, and those of them that were; old ones fade
  double balance = 0;           // what drafts have saved and may yet cost, in tokens without drafts
  double price = 0;             // of a draft, in the same unit
  int misses = 0;               // rounds in a row that accepted nothing
  bool started = false;
};

// Part of the scheduler's state: no clock, no threads. Times come in through measured(). For the same calls it does the
// same.
class DraftPolicy {
 public:
  explicit DraftPolicy(const SpeculationOptions& options);

  // Drafts for the sequence's next step, beside `others` decode rows of other sequences (neither their drafts nor
  // prompt tokens counted; the same number for all sequences of a step); at most `limit` (a request's own; -1: none).
  // To be called once for every step of the sequence, and the step may check fewer: what a drafter does not propose
  // costs nothing.
  int choose(DraftHistory& history, int others, int limit);
  // A step checked `drafted` drafts of the sequence, at least one, and accepted so many.
  void observe(DraftHistory& history, int drafted, int accepted);
  // A step of decode rows alone took so long: `rows` rows, drafts that were checked included, after which `proposals`
  // drafts were made.
  void measured(int rows, int proposals, double seconds) { cost_.measured(rows, proposals, seconds); }

  int most() const { return most_; }

 private:
  // Tokens per second and the cost of drafts, for a number of drafts.
  struct Outlook {
    double rate = 0;
    double price = 0;  // of the sequence's drafts together, in tokens without drafts
  };
  Outlook outlook(int drafts, double expected, int others) const;
  bool knows_plain(int rows) const;
  int best_count(const DraftHistory& history, int others, int most) const;
  double chance(const DraftHistory& history, int place) const;

  int fixed_, most_;
  StepCost cost_;
  struct Tally {
    double hits = 0, trials = 0;
  };
  std::array<Tally, kMostDrafts> tallies_;  // of all sequences, per place in a row's drafts; old ones fade
  double drafting_ = 1;                     // part of the rows that check drafts, of late
};

}  // namespace weft
