// Fair shares of what runs: places among the running sequences, and slots and memory for whoever has less than others.
#include <algorithm>
#include <cmath>
#include <utility>

#include "sched/home.h"
#include "sched/scheduler.h"
#include "sched/sequence.h"

namespace weft {
namespace {

// What a preempted sequence has computed again is worth that it goes on for so many steps.
constexpr int64_t kStepsOfResumed = 16;
constexpr int kMostYields = 8;  // in a step

}  // namespace

// Running sequences by place: within a client the requests take turns (the first of each by rank, then the second of
// each), and so do the clients. Whoever is out of blocks preempts from the end. For a client alone whose requests have
// a sequence each, that is by rank.
void Scheduler::order_running() {
  if (!std::exchange(order_changed_, false)) return;
  for (const Sequence* s : running_) s->queue->placed = s->queue->client->placed = 0;
  std::sort(running_.begin(), running_.end(), by_rank);
  for (Sequence* s : running_) s->place = s->queue->placed++;
  std::sort(running_.begin(), running_.end(), by_place);
  for (Sequence* s : running_) s->place = s->queue->client->placed++;
  std::sort(running_.begin(), running_.end(), by_place);
}

// Where a sequence has its turn and finds no slot (or, at the last step, no memory), one of a client that has at least
// two more running yields to it, and likewise among a client's requests. So shares become equal within one, and no two
// take a slot from each other in turn. With more clients than slots, one that has nothing running and has waited for
// `turn_steps` takes the slot of another that has run for as long: nobody waits behind all of a long answer, and what
// is computed again for it is little against a turn. That is done before the step has rows.
void Scheduler::yield_slots() {
  if (turns_.waiting() == 0 || (!free_slots_.empty() && blocked_ == 0)) return;
  turns_.begin_walk();
  for (int yields = 0; yields < kMostYields;) {
    Sequence* const next = turns_.next(now());
    if (next == nullptr || next->in_flight > 0) return;
    const Admission known = may_admit(*next);
    if (known == Admission::shared) {
      turns_.skip_request(*next);
      continue;
    }
    if (known == Admission::owes) {
      turns_.skip(*next);
      continue;
    }
    if (!free_slots_.empty() && yields == 0 && blocked_ != static_cast<uint64_t>(next->id)) return;
    Sequence* const victim = who_yields(*next);
    if (victim == nullptr) return;
    const bool for_memory = !free_slots_.empty() && yields == 0;
    if (victim->queue->client->running == 1) turns_.had_turn(*victim, now());  // behind the others that wait
    preempt(*victim);
    ++metrics_.yields;
    if (for_memory) return;
    turns_.take(*next);
    ++yields;
  }
}

// The last, by place, of whoever has most; of clients that have one each, where the sequence's has none and has waited
// for a turn, the one that has had a whole turn and has run longest. Null: there is none.
Sequence* Scheduler::who_yields(const Sequence& sequence) const {
  const RequestQueue& request = *sequence.queue;
  const int own = turns_.running(*request.client), own_request = turns_.running(request);
  Sequence* last = nullptr;
  int most = 2;
  for (Sequence* s : running_) {
    if (s->priority > sequence.priority || (s->epoch > 0 && now() - s->admitted_step < kStepsOfResumed)) continue;
    int more = 0;
    if (s->queue->client != request.client) more = s->queue->client->running - own;
    else if (s->queue != &request) more = s->queue->running - own_request;
    if (more >= most) last = s, most = more;
  }
  return last != nullptr || own > 0 ? last : who_had_a_turn(sequence);
}

// A turn begins when the prompt is computed (and what was said before, if it lost its slot), so each brings tokens.
Sequence* Scheduler::who_had_a_turn(const Sequence& sequence) const {
  const int64_t turn = options_.turn_steps, came = std::max(sequence.added_step, sequence.queue->client->last_turn);
  if (turn == 0 || now() - came < turn) return nullptr;
  Sequence* longest = nullptr;
  for (Sequence* s : running_) {
    if (s->priority > sequence.priority || s->decodes_since < 0 || now() - s->decodes_since < turn) continue;
    if (longest == nullptr || s->admitted_step < longest->admitted_step) longest = s;
  }
  return longest;
}

Scheduler::Queue Scheduler::queue(uint64_t client) const {
  Queue queue{turns_.queued(), turns_.queued(client), 1};
  const size_t known = std::min(started_requests_, starts_.size());
  if (known == 0) return queue;
  const int64_t oldest = starts_[started_requests_ > starts_.size() ? started_requests_ % starts_.size() : 0];
  const double each = static_cast<double>(now_us_ - oldest) * 1e-6 / static_cast<double>(known);
  queue.seconds = static_cast<int>(std::clamp(std::ceil(each * queue.requests), 1.0, 600.0));
  return queue;
}

}  // namespace weft
