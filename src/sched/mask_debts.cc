// Whose grammar takes long waits, and nobody else. What the masks of a sequence take is its debt, in seconds of
// processor time. In every step all debts together are paid by a budget, in equal parts; a sequence that owes more than
// its part sits steps out, so that masks take the budget in a step on average, however many grammars are hostile.
// Nothing else of an answer depends on it.
//
// What a sequence owes at its end is its client's, whose next guided sequences wait for it: else one would come after
// the other. Where nobody else could run, nobody is to be waited for, and the debts are paid until somebody can.
#include <algorithm>
#include <cmath>

#include "sched/scheduler.h"
#include "sched/sequence.h"

namespace weft {
namespace {

// What the ends of a client's sequences leave, at most: with the least budget, alone, 200 steps.
constexpr double kMostLeft = 2.0;

}  // namespace

void Scheduler::set_mask_budget(double seconds) { mask_budget_ = std::max(kLeastMaskBudget, seconds); }

void Scheduler::charge_masks(SequenceId id, double seconds) noexcept {
  const auto found = sequences_.find(static_cast<uint64_t>(id));
  if (found != sequences_.end()) found->second->mask_debt += std::max(0.0, seconds);
}

// What each of those that owe may owe and still run: its part of a step's budget.
void Scheduler::share_mask_budget() {
  debtors_ = left_debts_.size();
  for (const Sequence* sequence : running_) debtors_ += sequence->mask_debt > 0;
  mask_share_ = mask_budget_ / static_cast<double>(std::max<size_t>(1, debtors_));
}

void Scheduler::pay_masks(double seconds) noexcept {
  for (Sequence* sequence : running_) sequence->mask_debt = std::max(0.0, sequence->mask_debt - seconds);
  for (LeftDebt& left : left_debts_) left.seconds -= seconds;
  std::erase_if(left_debts_, [](const LeftDebt& left) { return left.seconds <= 0; });
}

bool Scheduler::owes_masks(const Sequence& sequence) const {
  if (!sequence.guided) return false;
  if (sequence.state == Sequence::State::running) return sequence.mask_debt > mask_share_;
  const auto of_client = [&](const LeftDebt& left) { return left.client == sequence.queue->client->id; };
  const auto left = std::ranges::find_if(left_debts_, of_client);
  return left != left_debts_.end() && left->seconds > mask_share_;
}

// Nobody else can run: time passes until the first of them owes nothing, and who owes a step's budget more may run
// beside it. Where none runs, that is until the first client owes nothing, which need not be one that waits: the caller
// asks again. False: nobody owes.
bool Scheduler::forgive_masks() noexcept {
  double least = INFINITY;
  for (const Sequence* sequence : running_)
    if (owes_masks(*sequence)) least = std::min(least, sequence->mask_debt);
  if (least == INFINITY)
    for (const LeftDebt& left : left_debts_) least = std::min(least, left.seconds);
  if (least == INFINITY) return false;
  pay_masks(least);
  mask_share_ = mask_budget_;
  return true;
}

// At a sequence's end. The list has room for as many as may be in it; the least of them makes room for a larger one.
void Scheduler::leave_mask_debt(const Sequence& sequence) noexcept {
  if (sequence.mask_debt <= 0) return;
  const uint64_t client = sequence.queue->client->id;
  auto left = std::ranges::find(left_debts_, client, &LeftDebt::client);
  if (left == left_debts_.end() && left_debts_.size() < left_debts_.capacity())
    left = left_debts_.insert(left_debts_.end(), {client, 0.0});
  if (left == left_debts_.end()) {
    left = std::ranges::min_element(left_debts_, {}, &LeftDebt::seconds);
    if (left->seconds >= sequence.mask_debt) return;
    *left = {client, 0.0};
  }
  left->seconds = std::min(kMostLeft, left->seconds + sequence.mask_debt);
}

}  // namespace weft
