#include "spec/draft_policy.h"

#include <algorithm>

namespace weft {

namespace {

// Acceptance before anything was seen, and the trials that it counts for.
constexpr double kPriorChance = 0.6, kPriorTrials = 4;
// The trials that all sequences' acceptance counts for, beside a sequence's own; fewer while little is known of it.
constexpr double kSharedTrials = 12;
// What a trial keeps of those before it: about the last 30 of the sequence and the last 500 of all count.
constexpr double kKeepOwn = 0.97, kKeepShared = 0.998;
// Drafts must promise this much more than a step without, and are charged by so much more than they seem to cost: times
// are known to a few percent.
constexpr double kWorthwhile = 1.03, kCharge = 1.05;
// Tokens' time: what a sequence may lose per step, at most; what it may lose at the start; what it saves up of gains;
// what a draft costs at least, since a small difference of times is not known for certain.
constexpr double kAllowance = 0.01, kAtStart = 1, kMostSaved = 4, kLeastPrice = 0.015;
// And gains may be saved up for so many failed rounds.
constexpr double kRoundsSaved = 6;
// The allowance halves after so many failed rounds in a row, and so on.
constexpr double kPatience = 64;
// Steps without drafts that must have been measured before drafts are judged: a few at once, more as time goes on.
constexpr double kPlainSteps = 3, kMostPlainSteps = 20, kStepsPerPlainStep = 64;
constexpr double kDraftingGain = 1.0 / 64;
// A model's draft costs about this much of a step of one row, until it is measured.
constexpr double kModelProposal = 0.1;

}  // namespace

DraftPolicy::DraftPolicy(const SpeculationOptions& options)
    : fixed_(options.num_tokens), most_(std::min(options.most(), kMostDrafts)),
      cost_(has_model(options.method) ? kModelProposal : 0) {
  tallies_.fill({kPriorChance * kPriorTrials, kPriorTrials});
}

int DraftPolicy::choose(DraftHistory& history, int others, int limit) {
  const int most = limit < 0 ? most_ : std::min(most_, limit);
  if (fixed_ > 0 || most == 0) return most;
  drafting_ *= 1 - kDraftingGain;
  const int best = best_count(history, others, most);
  if (!history.started) history.started = true, history.balance = best > 0 ? kAtStart : 0;

  // Without the time of a step without drafts nobody knows what they cost.
  if (!knows_plain(others + 1)) return 0;
  // Where none pays, a single one is a probe.
  int drafts = std::max(best, 1);
  double price = outlook(drafts, 1, others).price;
  history.balance = std::min(history.balance + kAllowance / (1 + history.misses / kPatience),
                             best > 0 ? std::max(kMostSaved, kRoundsSaved * price) : price);
  history.price = price / drafts;
  while (drafts > 0 && drafts * history.price > history.balance) --drafts;
  return drafts;
}

bool DraftPolicy::knows_plain(int rows) const {
  if (cost_.steps() == 0) return true;  // what is known then is the prior, for both
  return cost_.weight(rows) >= std::min(kPlainSteps + cost_.steps() / kStepsPerPlainStep, kMostPlainSteps);
}

void DraftPolicy::observe(DraftHistory& history, int drafted, int accepted) {
  history.drafted += drafted, history.accepted += accepted;
  if (fixed_ > 0 || drafted <= 0) return;
  drafting_ = std::min(1.0, drafting_ + kDraftingGain);
  history.balance += accepted - drafted * history.price;
  history.misses = accepted > 0 ? 0 : history.misses + 1;
  // Drafts behind the first that was wrong say nothing.
  for (int place = 0; place < std::min({drafted, accepted + 1, kMostDrafts}); ++place) {
    const double hit = place < accepted ? 1 : 0;
    history.hits = history.hits * kKeepOwn + hit, history.trials = history.trials * kKeepOwn + 1;
    Tally& tally = tallies_[place];
    tally.hits = tally.hits * kKeepShared + hit, tally.trials = tally.trials * kKeepShared + 1;
  }
}

// That the draft at this place is right if those before it are.
double DraftPolicy::chance(const DraftHistory& history, int place) const {
  const Tally& tally = tallies_[place];
  const double shared = std::min(kSharedTrials, tally.trials / 2);
  return (history.hits + shared * tally.hits / tally.trials) / (history.trials + shared);
}

// Of the other rows, as many as check drafts of late are taken to check as many as this one, with the same success: so
// rows of a kind come to the number that is best for all of them.
DraftPolicy::Outlook DraftPolicy::outlook(int drafts, double expected, int others) const {
  const double rows = others + 1, alike = 1 + others * drafting_;
  const double plain = cost_.step(rows);
  const double cost = cost_.step(rows + alike * drafts) + cost_.proposal() * alike * drafts;
  return {.rate = (rows + alike * (expected - 1)) / cost,
          .price = std::max(kLeastPrice * drafts, kCharge * (cost - plain) / alike * rows / plain)};
}

int DraftPolicy::best_count(const DraftHistory& history, int others, int most) const {
  const double alike = 1 + others * drafting_;
  // Into the unknown by doubling: a step that costs more than thought is met while it is small.
  const double most_rows = 2.0 * std::max(cost_.most_rows(), 1);
  double best_rate = outlook(0, 1, others).rate * kWorthwhile;
  double all_right = 1, expected = 1;
  int best = 0;
  for (int drafts = 1; drafts <= most; ++drafts) {
    if (drafts > 1 && others + 1 + alike * drafts > most_rows) break;
    all_right *= chance(history, drafts - 1);
    expected += all_right;
    const double rate = outlook(drafts, expected, others).rate;
    if (rate > best_rate) best = drafts, best_rate = rate;
  }
  return best;
}

}  // namespace weft
