#include "comm/process_communicator.h"

#include <algorithm>
#include <atomic>
#include <deque>

#include "base/thread_team.h"
#include "comm/buffer.h"

namespace weft {
namespace {

constexpr size_t kLine = CommBuffer::kLine;  // received parts begin at multiples of it, as kernels like them

size_t whole_lines(size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

// Some of the numbers of a sum, [begin, end).
struct Range {
  size_t begin, end;
  size_t size() const { return end - begin; }
  Range half(bool upper) const {
    const size_t middle = begin + size() / 2;
    return upper ? Range{middle, end} : Range{begin, middle};
  }
};

// From this many numbers on every rank adds up a share of them and sends the sums around; below it every rank adds up
// all of them, which sends more and takes half as many rounds.
constexpr size_t kShared = 8192;

class ProcessCommunicator : public Communicator {
 public:
  ProcessCommunicator(ProcessLink& link, std::vector<int> members, int threads, int tag, double deadline)
      : members_(std::move(members)),
        rank_(static_cast<int>(std::find(members_.begin(), members_.end(), link.rank()) - members_.begin())), tag_(tag),
        deadline_(deadline), barrier_(threads), transfers_(link), written_(static_cast<size_t>(threads)),
        parts_(members_.size()) {
    for (int i = 0; i < kMovingPieces; ++i) moving_.emplace_back(link, static_cast<size_t>(i), tag + 1 + i);
  }

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(members_.size()); }

  Parts gather(const void* mine, std::span<const size_t> bytes, Thread thread) override {
    return by_first_thread(thread, [&] {
      place_parts(mine, bytes);
      for (const int other : others()) {
        send(other, mine, bytes[index(rank_)]);
        receive(other, part(other), bytes[index(other)]);
      }
      transfers_.wait("gathering parts", deadline_);
    });
  }

  Parts gather_set(const void* mine, size_t bytes, int ranks, Thread thread) override {
    const int first = rank_ / ranks * ranks;
    return by_first_thread(thread,
                           [&] {
                             std::byte* next = received_.room(whole_lines(bytes) * index(ranks));
                             for (int r = first; r < first + ranks; ++r, next += whole_lines(bytes))
                               parts_[index(r)] = r == rank_ ? static_cast<const std::byte*>(mine) : next;
                             for (const int other : others()) {
                               if (other / ranks != rank_ / ranks) continue;
                               send(other, mine, bytes);
                               receive(other, part(other), bytes);
                             }
                             transfers_.wait("gathering the parts of a set", deadline_);
                           })
        .subspan(index(first), index(ranks));
  }

  Parts exchange(const void* mine, std::span<const size_t> offsets, std::span<const size_t> received,
                 Thread thread) override {
    const auto* pieces = static_cast<const std::byte*>(mine);
    return by_first_thread(thread, [&] {
      place_parts(pieces + offsets[index(rank_)], received);
      for (const int other : others()) {
        send(other, pieces + offsets[index(other)], offsets[index(other) + 1] - offsets[index(other)]);
        receive(other, part(other), received[index(other)]);
      }
      transfers_.wait("exchanging pieces", deadline_);
    });
  }

  const std::byte* broadcast(int from, const void* mine, size_t bytes, Thread thread) override {
    return by_first_thread(thread, [&] {
      if (from == rank_) {
        parts_[0] = static_cast<const std::byte*>(mine);
        for (const int other : others()) send(other, mine, bytes);
      } else {
        std::byte* const room = received_.room(bytes);
        parts_[0] = room;
        receive(from, room, bytes);
      }
      transfers_.wait("waiting for a broadcast", deadline_);
    })[0];
  }

  Parts reduce(const float* mine, size_t floats, Thread thread) override {
    if (floats < kShared) return by_first_thread(thread, [&] { add_all(mine, floats); }).first(1);
    return add_shares(mine, floats, thread).first(1);
  }

  bool overlaps() const override { return size() > 1; }

  void written(const Pieces& sum, size_t count, Thread thread) override {
    written_[index(thread.index)].pieces.store(count, std::memory_order_release);
    if (thread.index != 0) return;
    for (const Written& one : written_) count = std::min(count, one.pieces.load(std::memory_order_acquire));
    for (Moving& some : moving_) move(sum, some, count);
  }

  Parts reduce_pieces(const Pieces& sum, Thread thread) override {
    const auto finish = [&] {
      for (Written& one : written_) one.pieces.store(0, std::memory_order_relaxed);
      finish_moving(sum);
      parts_[0] = reinterpret_cast<const std::byte*>(size() > 1 ? sums_.floats() : sum.mine);
    };
    return by_first_thread(thread, finish).first(1);
  }

 private:
  static size_t index(int rank) { return static_cast<size_t>(rank); }

  // The other ranks, the next one first, so that not all send to the same one at once.
  const std::vector<int>& others() {
    if (others_.empty())
      for (int step = 1; step < size(); ++step) others_.push_back((rank_ + step) % size());
    return others_;
  }
  void send(int to, const void* data, size_t bytes) { transfers_.send(members_[index(to)], tag_, data, bytes); }
  void receive(int from, void* data, size_t bytes) { transfers_.receive(members_[index(from)], tag_, data, bytes); }

  // Between the two waits the rank's other threads stand still: they have filled what is sent, have read what came
  // before, and see what has come.
  template <class Work>
  Parts by_first_thread(Thread thread, Work work) {
    barrier_.wait();
    if (thread.index == 0) work();
    barrier_.wait();
    return parts_;
  }

  // Where the call's parts are: the own one where it is, the others in received_.
  void place_parts(const void* own, std::span<const size_t> bytes) {
    size_t all = 0;
    for (int r = 0; r < size(); ++r) all += r == rank_ ? 0 : whole_lines(bytes[index(r)]);
    const std::byte* next = received_.room(all);
    for (int r = 0; r < size(); ++r) {
      parts_[index(r)] = r == rank_ ? static_cast<const std::byte*>(own) : next;
      next += r == rank_ ? 0 : whole_lines(bytes[index(r)]);
    }
  }
  std::byte* part(int rank) { return const_cast<std::byte*>(parts_[index(rank)]); }

  // The tree ((r0 + r1) + (r2 + r3)) ...: in round k a rank's sums are those of its 2^k ranks, and it adds those of its
  // partner's, in the order of the ranks.
  void add_all(const float* mine, size_t floats) {
    auto* const theirs = reinterpret_cast<float*>(received_.room(floats * sizeof(float)));
    auto* const sums = reinterpret_cast<float*>(sums_.room(floats * sizeof(float)));
    const float* so_far = mine;
    for (int distance = 1; distance < size(); distance *= 2) {
      swap(rank_ ^ distance, so_far, theirs, floats, floats);
      add(so_far, theirs, (rank_ & distance) != 0, {0, floats}, sums);
      so_far = sums;
    }
    parts_[0] = reinterpret_cast<const std::byte*>(so_far);
  }

  // The same tree: in each round partners have the same range of numbers; each keeps a half of it, sends the other half
  // and adds what it gets to its own. In the end every rank has the sums of a range of its own and sends them to all.
  Parts add_shares(const float* mine, size_t floats, Thread thread) {
    barrier_.wait();
    // All threads call this, but only the first one may move memory.
    if (thread.index == 0) {
      received_.room((floats + 1) / 2 * sizeof(float));
      sums_.room(floats * sizeof(float));
    }
    const float* so_far = mine;
    Range range{0, floats};
    for (int distance = 1; distance < size(); distance *= 2) {
      const bool upper = (rank_ & distance) != 0;
      const Range kept = range.half(upper), sent = range.half(!upper);
      if (thread.index == 0) swap(rank_ ^ distance, so_far + sent.begin, received_.floats(), sent.size(), kept.size());
      barrier_.wait();
      const size_t share = (kept.size() + index(thread.count) - 1) / index(thread.count);
      const size_t begin = std::min(kept.size(), share * index(thread.index));
      const size_t end = std::min(kept.size(), begin + share);
      float* const sums = sums_.floats();
      add(so_far + kept.begin, received_.floats(), upper, {begin, end}, sums + kept.begin);
      barrier_.wait();
      so_far = sums;
      range = kept;
    }
    if (thread.index == 0) {
      spread({0, floats}, range, transfers_, tag_);
      transfers_.wait("collecting sums", deadline_);
      parts_[0] = reinterpret_cast<const std::byte*>(so_far);
    }
    barrier_.wait();
    return parts_;
  }

  // Of the numbers `all` those that `rank` has the sums of after add_shares()' rounds.
  Range range_of(int rank, Range all) const {
    for (int distance = 1; distance < size(); distance *= 2) all = all.half((rank & distance) != 0);
    return all;
  }

  // Starts the last round: this rank has the sums of `own`.
  void spread(Range all, Range own, Transfers& transfers, int tag) {
    float* const sums = sums_.floats();
    for (const int other : others()) {
      const Range theirs = range_of(other, all);
      transfers.send(members_[index(other)], tag, sums + own.begin, own.size() * sizeof(float));
      transfers.receive(members_[index(other)], tag, sums + theirs.begin, theirs.size() * sizeof(float));
    }
  }

  void start_swap(int partner, const float* out, float* in, size_t floats_out, size_t floats_in, Transfers& transfers,
                  int tag) {
    transfers.send(members_[index(partner)], tag, out, floats_out * sizeof(float));
    transfers.receive(members_[index(partner)], tag, in, floats_in * sizeof(float));
  }
  void swap(int partner, const float* out, float* in, size_t floats_out, size_t floats_in) {
    start_swap(partner, out, in, floats_out, floats_in, transfers_, tag_);
    transfers_.wait("adding up", deadline_);
  }

  // A piece under way of a sum in pieces: what add_shares() does, by the first thread alone. kMovingPieces are under
  // way at once, each with a tag of its own, so that ranks need not agree on the order of their rounds.
  struct Moving {
    Moving(ProcessLink& link, size_t first, int tag) : piece(first), tag(tag), transfers(link) {}
    size_t piece;
    const int tag;
    int distance = 0;  // of the round whose transfers are under way; 0: none, size(): the last one's
    Range range{};     // that this rank goes on with
    Transfers transfers;
    CommBuffer received;
  };

  // As far as it goes without waiting, and not beyond the first `count` pieces.
  void move(const Pieces& sum, Moving& m, size_t count) {
    while (size() > 1 && m.piece < count && m.transfers.finished()) move_on(sum, m);
  }

  // The transfers of a round are done: adds up what has come, and starts the next round, or goes to its next piece.
  void move_on(const Pieces& sum, Moving& m) {
    if (m.distance == size()) {
      m.piece += kMovingPieces, m.distance = 0;
      return;
    }
    const Range all{sum.begin(m.piece), sum.end(m.piece)};
    sums_.room(sum.floats * sizeof(float));
    if (m.distance == 0) m.received.room((all.size() + 1) / 2 * sizeof(float)), m.range = all;
    else add_received(sum, m);
    m.distance = m.distance == 0 ? 1 : m.distance * 2;
    if (m.distance == size()) return spread(all, m.range, m.transfers, m.tag);
    const bool upper = (rank_ & m.distance) != 0;
    const Range sent = m.range.half(!upper), kept = m.range.half(upper);
    start_swap(rank_ ^ m.distance, so_far(sum, m) + sent.begin, m.received.floats(), sent.size(), kept.size(),
               m.transfers, m.tag);
  }
  void add_received(const Pieces& sum, Moving& m) {
    const bool upper = (rank_ & m.distance) != 0;
    const Range kept = m.range.half(upper);
    add(so_far(sum, m) + kept.begin, m.received.floats(), upper, {0, kept.size()}, sums_.floats() + kept.begin);
    m.range = kept;
  }
  const float* so_far(const Pieces& sum, const Moving& m) const { return m.distance == 1 ? sum.mine : sums_.floats(); }

  void finish_moving(const Pieces& sum) {
    const size_t count = sum.count();
    const auto first = [](const Moving& a, const Moving& b) { return a.piece < b.piece; };
    while (size() > 1) {
      Moving& oldest = *std::ranges::min_element(moving_, first);
      if (oldest.piece >= count) break;
      oldest.transfers.wait("adding up", deadline_);
      move_on(sum, oldest);
      for (Moving& some : moving_) move(sum, some, count);
    }
    for (size_t i = 0; i < moving_.size(); ++i) moving_[i].piece = i;
  }

  // sums[i] = the lower ranks' number + the upper ranks'; `sums` may be `own`.
  static void add(const float* own, const float* theirs, bool own_is_upper, Range range, float* sums) {
    const float* const lower = own_is_upper ? theirs : own;
    const float* const upper = own_is_upper ? own : theirs;
#pragma GCC ivdep
    for (size_t i = range.begin; i < range.end; ++i) sums[i] = lower[i] + upper[i];
  }

  const std::vector<int> members_;  // ranks of the link
  const int rank_;
  const int tag_;
  const double deadline_;
  ThreadBarrier barrier_;
  Transfers transfers_;
  struct alignas(64) Written {
    std::atomic<size_t> pieces{0};
  };
  std::vector<Written> written_;  // per thread, of the sum in pieces
  std::deque<Moving> moving_;
  std::vector<int> others_;
  CommBuffer received_, sums_;
  std::vector<const std::byte*> parts_;  // of the last call; [0] alone where it gives one
};

}  // namespace

std::unique_ptr<Communicator> make_process_communicator(ProcessLink& link, std::vector<int> members, int threads,
                                                        int tag, double deadline) {
  return std::make_unique<ProcessCommunicator>(link, std::move(members), threads, tag, deadline);
}

}  // namespace weft
