#include "sched/turns.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "sched/sequence.h"

namespace weft {

bool ByRank::operator()(const Sequence* a, const Sequence* b) const { return by_rank(a, b); }

bool ByFront::operator()(const RequestQueue* a, const RequestQueue* b) const {
  return by_rank(*a->waiting.begin(), *b->waiting.begin());
}
bool ByTurn::operator()(const ClientQueue* a, const ClientQueue* b) const {
  return a->since != b->since ? a->since < b->since : a->first_id < b->first_id;
}

namespace {

// A place in a set, which is in none so far.
template <class Set>
typename Set::node_type make_node(typename Set::value_type value) {
  Set one;
  one.insert(value);
  return one.extract(one.begin());
}

}  // namespace

// ---- Books ----------------------------------------------------------------------------------------------------------

void Turns::add(Sequence& sequence, uint64_t client_id, uint64_t request_id) {
  // Numbers of requests and of sequences are apart.
  const uint64_t key = request_id != 0 ? request_id : static_cast<uint64_t>(sequence.id) | uint64_t{1} << 63;
  auto waiting = make_node<WaitingSet>(&sequence);
  const auto client = clients_.try_emplace(client_id).first;
  try {
    if (!client->second) {
      auto fresh = std::make_unique<ClientQueue>();
      fresh->id = client_id, fresh->idle_node = make_node<std::set<ClientQueue*, ByTurn>>(fresh.get());
      busy_.reserve(clients_.size());
      client->second = std::move(fresh);
    }
    ClientQueue& own = *client->second;
    if (!own.requests.contains(key)) {
      auto fresh = std::make_unique<RequestQueue>();
      fresh->client = &own, fresh->key = key;
      fresh->idle_node = make_node<std::set<RequestQueue*, ByFront>>(fresh.get());
      own.busy.reserve(own.requests.size() + 1);
      own.requests.emplace(key, std::move(fresh));
      ++own.queued, ++queued_;
    }
  } catch (...) {
    if (!client->second || client->second->sequences == 0) clients_.erase(client);
    throw;
  }
  RequestQueue& request = *client->second->requests.at(key);
  ++request.client->sequences, ++request.sequences;
  sequence.queue = &request, sequence.waiting_node = std::move(waiting);
}

void Turns::remove(Sequence& sequence) noexcept {
  RequestQueue& request = *std::exchange(sequence.queue, nullptr);
  ClientQueue& client = *request.client;
  if (--request.sequences == 0) {
    if (!request.started) --client.queued, --queued_;
    client.requests.erase(request.key);
  }
  if (--client.sequences == 0) clients_.erase(client.id);
}

// The lists are ordered by what is about to change, so a request and its client leave them before, and come back after.
void Turns::unlink(RequestQueue& request) noexcept {
  ClientQueue& client = *request.client;
  if (!client.idle.empty() || !client.busy.empty()) {
    if (client.running > 0) std::erase(busy_, &client);
    else client.idle_node = idle_.extract(&client);
  }
  if (request.waiting.empty()) return;
  if (request.running > 0) std::erase(client.busy, &request);
  else request.idle_node = client.idle.extract(&request);
}

void Turns::link(RequestQueue& request) noexcept {
  ClientQueue& client = *request.client;
  if (!request.waiting.empty()) {
    if (request.running > 0) client.busy.push_back(&request);
    else client.idle.insert(std::move(request.idle_node));
  }
  if (client.idle.empty() && client.busy.empty()) return;
  if (client.running > 0) return busy_.push_back(&client);
  const Sequence& first = **(*client.idle.begin())->waiting.begin();
  client.since = std::max(first.added_step, client.last_turn) - level(first);
  client.first_id = static_cast<uint64_t>(first.id);
  idle_.insert(std::move(client.idle_node));
}

int64_t Turns::level(const Sequence& sequence) const { return weight_ * sequence.priority; }

void Turns::insert(Sequence& sequence) noexcept {
  unlink(*sequence.queue);
  sequence.queue->waiting.insert(std::move(sequence.waiting_node));
  ++waiting_;
  link(*sequence.queue);
}

void Turns::erase(Sequence& sequence) noexcept {
  unlink(*sequence.queue);
  sequence.waiting_node = sequence.queue->waiting.extract(&sequence);
  --waiting_;
  link(*sequence.queue);
}

void Turns::started(Sequence& sequence, int64_t step) noexcept {
  RequestQueue& request = *sequence.queue;
  unlink(request);
  ++request.running, ++request.client->running;
  request.client->last_turn = step;
  if (!std::exchange(request.started, true)) --request.client->queued, --queued_;
  link(request);
}

void Turns::stopped(Sequence& sequence) noexcept {
  RequestQueue& request = *sequence.queue;
  unlink(request);
  --request.running, --request.client->running;
  link(request);
}

// The client is busy, so no list goes by it.
void Turns::had_turn(const Sequence& sequence, int64_t step) noexcept { sequence.queue->client->last_turn = step; }

int Turns::queued(uint64_t client) const {
  const auto found = clients_.find(client);
  return found == clients_.end() ? 0 : found->second->queued;
}

void Turns::for_each(const std::function<void(const Sequence&)>& call) const {
  for (const auto& [id, client] : clients_)
    for (const auto& [key, request] : client->requests)
      for (const Sequence* sequence : request->waiting) call(*sequence);
}

// ---- Walks ----------------------------------------------------------------------------------------------------------

template <class Queue>
void Turns::enter_walk(Queue& queue) const {
  if (queue.walk == walk_) return;
  queue.walk = walk_, queue.skipped = false, queue.taken = 0;
}

void Turns::skip(Sequence& sequence) { sequence.walk = walk_; }

void Turns::skip_request(Sequence& sequence) {
  enter_walk(*sequence.queue);
  sequence.queue->skipped = true;
}

void Turns::take(Sequence& sequence) {
  skip(sequence);
  enter_walk(*sequence.queue), enter_walk(*sequence.queue->client);
  ++sequence.queue->taken, ++sequence.queue->client->taken;
}

bool Turns::better(const Candidate& a, const Candidate& b) {
  if (!a.sequence || !b.sequence) return a.sequence != nullptr;
  if (a.claim != b.claim) return a.claim > b.claim;
  if (a.running != b.running) return a.running < b.running;
  return a.sequence->outranks(*b.sequence);
}

// The first of the request that the walk has not passed; null: there is none.
Sequence* Turns::front(RequestQueue& request) const {
  enter_walk(request);
  if (request.skipped) return nullptr;
  for (Sequence* sequence : request.waiting)
    if (sequence->walk != walk_) return sequence;
  request.skipped = true;
  return nullptr;
}

// Within a client: of requests with nothing running the first in rank, against those that have something.
Turns::Candidate Turns::best_of(ClientQueue& client, int64_t step) const {
  Candidate best;
  const auto consider = [&](RequestQueue& request) {
    Sequence* const sequence = front(request);
    if (!sequence) return false;
    const int runs = running(request);
    const int64_t claim = runs > 0 ? level(*sequence) : (aging_ ? step : 0) - sequence->rank;
    const Candidate candidate{sequence, claim, runs};
    if (better(candidate, best)) best = candidate;
    return runs == 0;
  };
  for (RequestQueue* request : client.idle)
    if (consider(*request)) break;
  for (RequestQueue* request : client.busy) consider(*request);
  return best;
}

Turns::Candidate Turns::of_client(ClientQueue& client, Candidate best, int64_t step) const {
  best.running = running(client);
  best.claim = best.running > 0 ? level(*best.sequence) : claim(*best.sequence, step);
  return best;
}

int64_t Turns::claim(const Sequence& sequence, int64_t step) const {
  const int64_t last = sequence.queue->client->last_turn;
  const bool runs = sequence.state == Sequence::State::running;
  return step - (runs ? last : std::max(sequence.added_step, last)) + level(sequence);
}

Sequence* Turns::next(int64_t step) {
  Candidate best;
  const auto consider = [&](ClientQueue& client) {
    enter_walk(client);
    if (client.skipped) return false;
    Candidate candidate = best_of(client, step);
    client.skipped = candidate.sequence == nullptr;
    if (client.skipped) return false;
    candidate = of_client(client, candidate, step);
    if (better(candidate, best)) best = candidate;
    return candidate.running == 0;
  };
  for (ClientQueue* client : idle_)
    if (consider(*client)) break;
  for (ClientQueue* client : busy_) consider(*client);
  return best.sequence;
}

void Turns::check_integrity() const {
  size_t waiting = 0, idle = 0, busy = 0;
  int all_queued = 0;
  for (const auto& [id, client] : clients_) {
    int sequences = 0, running = 0, queued = 0;
    size_t idle_requests = 0, busy_requests = 0;
    for (const auto& [key, request] : client->requests) {
      WEFT_CHECK(request->client == client.get() && request->sequences > 0);
      sequences += request->sequences, running += request->running, waiting += request->waiting.size();
      queued += !request->started;
      if (request->waiting.empty()) continue;
      ++(request->running > 0 ? busy_requests : idle_requests);
      WEFT_CHECK(request->running > 0 ? std::ranges::find(client->busy, request.get()) != client->busy.end()
                                      : client->idle.contains(request.get()))
          << "a request that waits is in no list";
    }
    WEFT_CHECK(sequences == client->sequences && running == client->running && queued == client->queued)
        << "client " << id;
    all_queued += queued;
    WEFT_CHECK(idle_requests == client->idle.size() && busy_requests == client->busy.size()) << "client " << id;
    if (idle_requests + busy_requests == 0) continue;
    ++(running > 0 ? busy : idle);
    WEFT_CHECK(running > 0 ? std::ranges::find(busy_, client.get()) != busy_.end() : idle_.contains(client.get()))
        << "client " << id << " waits and is in no list";
  }
  WEFT_CHECK(waiting == waiting_ && idle == idle_.size() && busy == busy_.size() && all_queued == queued_);
}

}  // namespace weft
