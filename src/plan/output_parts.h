// How a step's outputs come together for whoever samples. The ranks that computed them have some of the columns each
// (Plan::output_part), or with attention data parallelism the rows of their homes. A row is wanted whole, or as what is
// made of each part of it (StepInputs::summary_bytes), which is much less to copy and to send.
//
// Ranks of rank 0's process put their parts where they belong. Those of other processes pack them into messages, which
// rank 0's process unpacks. There is room for several steps (lanes).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "kernels/kernels.h"
#include "plan/memory.h"
#include "plan/passes.h"
#include "plan/rank_team.h"
#include "plan/step_inputs.h"

namespace weft {

// A rank's columns of a row of outputs.
struct OutputColumns {
  int home = 0, row = 0;
  std::span<const float> values;  // of the columns `first` and on
  int first = 0;
  int thread = 0;  // that asks, of the team's
};
// Fills the bytes that stand for the columns, so many as the row's summary_bytes. Called by many threads at once.
using Summarise = std::function<void(const OutputColumns&, std::span<std::byte>)>;

class OutputParts {
 public:
  // `share`: of any rank. `last_stage`: whether the last stage's ranks are among those that this object is for.
  OutputParts(const Plan& share, const RankTeam& ranks, bool last_stage, int max_outputs, int lanes);

  // Of each row. Part 0 of a home's rows is with this rank of all, the others with those behind it.
  int parts() const { return parts_; }
  int first_owner(int home) const { return (layout_.pipeline - 1) * layout_.tensor + home; }
  // The process that has a part; rank 0's is 0.
  int process_of(int home, int part) const { return (first_owner(home) + part) / ranks_of_process_; }
  // Whether a home's rows come together here at all; else one rank of rank 0's process has all columns.
  bool in_parts(int home) const { return parts_ > 1 || process_of(home, 0) != 0; }
  // Whether some part of some home comes from another process.
  bool any_sent() const { return process_of(layout_.homes() - 1, parts_ - 1) != 0; }
  // A longer summary would be more than the columns themselves.
  int most_summary_bytes() const { return each_ * static_cast<int>(sizeof(float)); }

  // In rank 0's process, one thread: makes room for a step's rows. The same rows a second time change nothing.
  void lay_out(int lane, int home, const StepInputs& in);

  // A home's rows as a rank has them.
  struct Own {
    int home = 0, part = 0;
    const float* values = nullptr;  // [outputs, ...]
    int64_t ld = 0;
    int first_thread = 0;  // of the rank, in the team
  };
  // Every thread of the rank. To where row() and summaries() look for it, or into a message.
  void put(const Own& own, const StepInputs& in, kernels::Part threads, const Summarise& summarise, int lane);
  void pack(const Own& own, const StepInputs& in, kernels::Part threads, const Summarise& summarise,
            std::byte* message) const;
  size_t message_bytes(int part, const StepInputs& in) const;
  size_t most_message_bytes(int outputs) const { return static_cast<size_t>(outputs) * packed_bytes(0, 0); }
  // Where rank 0's process wants a part's message, and then, by every thread of some: from there to the rest.
  std::byte* message(int lane, int home, int part) { return lanes_[lane][home].messages[part].data(); }
  void unpack(int lane, int home, int part, kernels::Part threads);

  // All columns of a row; those of rows without a summary are row_floats() apart.
  const float* row(int lane, int home, int row) const {
    return reinterpret_cast<const float*>(lanes_[lane][home].rows.data()) + row * row_floats(all_);
  }
  // Those of all parts, one behind the other; empty where the row is whole.
  std::span<const std::byte> summaries(int lane, int home, int row) const;

 private:
  struct Place {
    Memory rows;
    std::vector<Memory> messages;  // per part
    std::vector<int32_t> bytes;    // per row: of a part's summary; 0: whole
    std::vector<size_t> offsets;   // per row: of its summaries
    std::vector<std::byte> summaries;
  };
  struct Range {
    int first = 0, count = 0;
  };
  Range columns(int part) const;
  size_t packed_bytes(int part, int32_t summary) const;
  template <class Address>
  void write(const Own& own, const StepInputs& in, kernels::Part threads, const Summarise& summarise,
             const Address& address) const;
  std::byte* column(Place& place, size_t row, int first) const {
    return place.rows.data() +
           (static_cast<int64_t>(row) * row_floats(all_) + first) * static_cast<int64_t>(sizeof(float));
  }

  const RankLayout layout_;
  const int ranks_of_process_;
  const int all_, each_, parts_;           // columns of a row and of a part
  std::vector<std::vector<Place>> lanes_;  // empty: not in this process
};

}  // namespace weft
