// How ranks exchange what they have computed. A rank is one share of a model: a part of every matrix that is split, and
// a team of threads that walks the rank's plan. Ranks are threads of one process (thread_ranks.h) or processes
// (process_ranks.h); the contract is the same, and so are the bits.
//
// All calls are collective: every thread of every rank of the group makes the same calls in the same order, thread
// `part.index` of `part.count` of its rank, and all threads of a rank pass the same arguments. A call returns when what
// it names can be read. Before it reads `mine` it waits for all threads of the rank, so no barrier is needed in front.
// written() is the exception: it is each thread's own.
//
// What comes back are addresses, one per rank in order, of memory that is read only: of the ranks' own buffers where
// they share memory, else of received copies. It stays as it is until the rank's next call. So `mine` must not be
// written again until the next call of the same object has returned: whoever fills it takes two buffers in turn.
//
// Errors: none are returned, since threads in the middle of a step have nothing to give them to. A rank that cannot be
// reached ends the process with a message that names it (process_ranks.h).
#pragma once

#include <cstddef>
#include <span>

namespace weft {

class Communicator {
 public:
  // The calling thread's place in its rank.
  struct Thread {
    int index = 0, count = 1;
  };
  using Parts = std::span<const std::byte* const>;

  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Every rank's `bytes[rank]` bytes (`bytes` is the same on all ranks; own included).
  virtual Parts gather(const void* mine, std::span<const size_t> bytes, Thread thread) = 0;
  // The same among the ranks [i * ranks, (i + 1) * ranks) that this one belongs to: one part for each of them, all of
  // `bytes` bytes. `ranks` divides size(); all ranks of the group make the call.
  virtual Parts gather_set(const void* mine, size_t bytes, int ranks, Thread thread) = 0;
  // For the sum of `floats` numbers of every rank: parts whose balanced binary tree, in order, is the tree over all
  // ranks; one per rank, or a power of two fewer where the carrier has added some up. size() is a power of two.
  virtual Parts reduce(const float* mine, size_t floats, Thread thread) = 0;

  // The same for a sum that is computed in pieces, so that the messages of one travel while the next is computed.
  // Numbers [i * piece, (i + 1) * piece) of `mine` are piece i; the last may have fewer.
  struct Pieces {
    const float* mine = nullptr;
    size_t floats = 0, piece = 1;
    size_t count() const { return (floats + piece - 1) / piece; }
    size_t begin(size_t i) const { return i * piece; }
    size_t end(size_t i) const { return i + 1 < count() ? begin(i + 1) : floats; }
  };
  // Whether messages travel meanwhile at all. Where they do not, pieces are of no use.
  virtual bool overlaps() const = 0;
  // This thread has written its share of the first `count` pieces; it waits for nobody. A piece is sent once all
  // threads of the rank have written it, and messages go on only in calls of thread 0, which calls this between any two
  // small parts of its work. No other call but reduce_pieces() may follow.
  virtual void written(const Pieces& sum, size_t count, Thread thread) = 0;
  // As reduce(). All pieces are written.
  virtual Parts reduce_pieces(const Pieces& sum, Thread thread) = 0;

  // From every rank the piece that it has for this one. Rank s's piece for rank r is its bytes
  // [offsets[r], offsets[r + 1]) of `mine`; received[s] is how many bytes come from rank s (what s has said there).
  virtual Parts exchange(const void* mine, std::span<const size_t> offsets, std::span<const size_t> received,
                         Thread thread) = 0;
  // The `bytes` bytes that rank `from` passes as `mine`; other ranks' `mine` is not read.
  virtual const std::byte* broadcast(int from, const void* mine, size_t bytes, Thread thread) = 0;
};

}  // namespace weft
