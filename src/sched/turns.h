// Whose turn it is: the sequences that wait, by client and by request, and how much of each runs.
//
// Clients take turns, and so do the requests of a client. Whoever has nothing running (no slot) is *idle* and gains
// steps by waiting, like a sequence by its rank (scheduler.h); whoever has something running is *busy* and gains none.
// So of equal priority the idle ones go first, the one that has waited longest before the others, then those with the
// fewest running. A point of priority weighs as much as `aging_steps` steps, here as there. A client's waiting counts
// from its newest turn: it has had one when a sequence of it was admitted or a prompt of it got a row.
//
// With one client, whose requests have a sequence each, that is the order of the ranks. A sequence of no request (0) is
// a request of its own; all sequences of no client (0) together are a client's.
//
// Memory: a client and a request are known while they have a sequence; afterwards nothing of them is kept. Only add()
// allocates: what waits has its places in the ordered lists (nodes of sets) with it while it is in none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <unordered_map>
#include <vector>

namespace weft {

struct Sequence;
struct ClientQueue;

struct ByRank {
  bool operator()(const Sequence* a, const Sequence* b) const;
};

using WaitingSet = std::set<Sequence*, ByRank>;

struct RequestQueue;
// Clients by how long they have waited.
struct ByTurn {
  bool operator()(const ClientQueue* a, const ClientQueue* b) const;
};
// Requests of a client by the sequence that is first to wait.
struct ByFront {
  bool operator()(const RequestQueue* a, const RequestQueue* b) const;
};

struct RequestQueue {
  ClientQueue* client = nullptr;
  uint64_t key = 0;
  int sequences = 0, running = 0;  // that there are; that have a slot
  bool started = false;            // one of them had a slot
  WaitingSet waiting;              // for a slot
  std::set<RequestQueue*, ByFront>::node_type idle_node;
  int placed = 0;  // scratch of the scheduler: running ones that were counted
  // Of one walk, see Turns:
  uint64_t walk = 0;
  bool skipped = false;
  int taken = 0;
};

struct ClientQueue {
  uint64_t id = 0;
  int sequences = 0, running = 0;
  int queued = 0;                         // requests that have not started
  int64_t last_turn = 0;                  // step
  std::set<RequestQueue*, ByFront> idle;  // requests with something that waits; nothing of them runs
  std::vector<RequestQueue*> busy;        // something does
  std::unordered_map<uint64_t, std::unique_ptr<RequestQueue>> requests;
  int placed = 0;
  // While it is idle and something waits: by which idle clients are ordered.
  int64_t since = 0;
  uint64_t first_id = 0;
  std::set<ClientQueue*, ByTurn>::node_type idle_node;
  uint64_t walk = 0;
  bool skipped = false;
  int taken = 0;
};

class Turns {
 public:
  // 0: strict priorities.
  explicit Turns(int aging_steps)
      : weight_(aging_steps > 0 ? aging_steps : int64_t{1} << 31), aging_(aging_steps > 0) {}

  // A new sequence, and one that is gone. add() changes nothing where it finds no memory.
  void add(Sequence& sequence, uint64_t client, uint64_t request);
  void remove(Sequence& sequence) noexcept;
  // It waits; it waits no more.
  void insert(Sequence& sequence) noexcept;
  void erase(Sequence& sequence) noexcept;
  // It has got a slot; it has lost it.
  void started(Sequence& sequence, int64_t step) noexcept;
  void stopped(Sequence& sequence) noexcept;
  // A prompt that runs got a row.
  void had_turn(const Sequence& sequence, int64_t step) noexcept;

  size_t waiting() const { return waiting_; }
  size_t clients() const { return clients_.size(); }  // with a sequence
  // Requests that have not started, held ones included: all, and a client's.
  int queued() const { return queued_; }
  int queued(uint64_t client) const;
  void for_each(const std::function<void(const Sequence&)>& call) const;

  // A walk along those that wait, in the order of their turns at `step`. Of the sequences that next() shows, each is
  // admitted (started()), skipped, or taken; then next() goes on. With take() the walk goes on as if it had been
  // admitted.
  void begin_walk() { ++walk_; }
  Sequence* next(int64_t step);
  void skip(Sequence& sequence);
  void skip_request(Sequence& sequence);  // with all that wait of its request
  void take(Sequence& sequence);
  // Running sequences, with those that the walk has taken.
  int running(const ClientQueue& client) const { return client.running + (client.walk == walk_ ? client.taken : 0); }
  int running(const RequestQueue& request) const {
    return request.running + (request.walk == walk_ ? request.taken : 0);
  }

  // Of a prompt that runs or waits, against prompts of other clients: how many steps ago its client had a turn, with
  // its priority.
  int64_t claim(const Sequence& sequence, int64_t step) const;
  uint64_t walk() const { return walk_; }

  // For tests: ends the process unless the books agree with each other.
  void check_integrity() const;

 private:
  // What decides between two: the larger claim, then fewer running, then the rank of the sequence.
  struct Candidate {
    Sequence* sequence = nullptr;
    int64_t claim = 0;
    int running = 0;
  };
  static bool better(const Candidate& a, const Candidate& b);
  void unlink(RequestQueue& request) noexcept;
  void link(RequestQueue& request) noexcept;
  template <class Queue>
  void enter_walk(Queue& queue) const;
  Sequence* front(RequestQueue& request) const;
  Candidate best_of(ClientQueue& client, int64_t step) const;
  Candidate of_client(ClientQueue& client, Candidate best, int64_t step) const;
  int64_t level(const Sequence& sequence) const;

  int64_t weight_;
  bool aging_;
  std::unordered_map<uint64_t, std::unique_ptr<ClientQueue>> clients_;
  std::set<ClientQueue*, ByTurn> idle_;  // clients with something that waits; nothing of them runs
  std::vector<ClientQueue*> busy_;       // something does
  size_t waiting_ = 0;
  int queued_ = 0;
  uint64_t walk_ = 1;
};

}  // namespace weft
