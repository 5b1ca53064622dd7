// Running requests together and taking their times, and what these times are compared with.
#pragma once

#include <memory>
#include <vector>

#include "api/engine.h"
#include "base/peak.h"
#include "base/thread_team.h"

namespace weft {

// All in seconds; the clock starts when the requests are handed in, together.
struct StreamTimes {
  double first_token = 0;
  std::vector<double> gaps;  // between the events that brought tokens
  int tokens = 0, cached_tokens = 0;
  std::vector<int32_t> ids;  // the answer
};
struct RunTimes {
  std::vector<StreamTimes> streams;
  double all_started = 0;  // every stream has its first token
  double total = 0;
  int64_t tokens_after_start = 0;  // that came after all_started
};

// Errors: what the engine refuses, or the first error that a request ended with.
Result<RunTimes> run_together(Engine& engine, const std::vector<Request>& requests);

// A greedy request that does not end before its length.
Request bench_request(std::vector<int32_t> prompt, int output_tokens);

// The limits of the machine, for the engine's number of threads. Measured while the engine is idle.
class Limits {
 public:
  // `measured` false: every limit is 0, that is, not known.
  Limits(int threads, bool measured);
  // Reading memory, now: on shared machines it changes within minutes. Bytes per second.
  double read_bytes_per_s();
  // Of the processor, measured once.
  const bench::MachineLimits& processor() const { return processor_; }
  // Of multiplications and additions with this model's weights.
  double peak_flops(const ModelInfo& info, const EngineOptions& options) const;

 private:
  std::unique_ptr<ThreadTeam> team_;
  std::unique_ptr<bench::ReadBuffer> buffer_;
  bench::MachineLimits processor_;
};

double median(std::vector<double> values);
// 0 <= share <= 1; the nearest value, 0 of none.
double quantile(std::vector<double> values, double share);

}  // namespace weft
