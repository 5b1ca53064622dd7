// Where the time of steps goes, op by op, as thread 0 sees it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace weft {

// Sums over all ops of one name: the same op of every layer.
struct OpTime {
  std::string op;
  int64_t runs = 0;
  double seconds = 0, wait_seconds = 0;  // in the op, and at the barrier before it
};

// Steps in which every row gives an output (decode) and the others (prompts) apart. One thread measures; any may read
// meanwhile.
class OpTimes {
 public:
  // What each op of a step is called, in order.
  explicit OpTimes(std::vector<std::string> names)
      : names_(std::move(names)), sums_{std::vector<Sum>(names_.size()), std::vector<Sum>(names_.size())} {}

  // Before the first op of a step, then after the barrier before an op and after the op.
  void start(bool decode) { decode_ = decode, last_ = Clock::now(); }
  void waited(size_t op) { lap(sums_[decode_][op].wait); }
  void ran(size_t op) {
    lap(sums_[decode_][op].run);
    sums_[decode_][op].runs.fetch_add(1, std::memory_order_relaxed);
  }

  // The longest first.
  std::vector<OpTime> read(bool decode) const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Sum {
    std::atomic<int64_t> runs{0}, run{0}, wait{0};  // times in nanoseconds
  };
  void lap(std::atomic<int64_t>& sum) {
    const Clock::time_point now = Clock::now();
    sum.fetch_add(std::chrono::nanoseconds(now - last_).count(), std::memory_order_relaxed);
    last_ = now;
  }

  std::vector<std::string> names_;
  std::vector<Sum> sums_[2];
  bool decode_ = false;
  Clock::time_point last_;
};

}  // namespace weft
