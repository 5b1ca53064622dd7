// Waiting times of servers that take requests from one common queue, first come first served, where requests come at
// random (Poisson arrivals). Pure arithmetic; any thread.
//
//   Erlang C          the probability that all c servers are busy, M/M/c (Erlang 1917). Computed from Erlang B's
//                     recursion B(k) = a B(k-1) / (k + a B(k-1)), a = rate x mean service time:
//                     C = B(c) / (1 - rho (1 - B(c))), rho = a / c
//   mean wait         Allen and Cunneen's approximation for M/G/c (A. O. Allen, Probability, Statistics and Queueing
//                     Theory, 2nd ed., 1990): (1 + scv) / 2 x C x mean / (c (1 - rho)), where scv is the variance of
//                     the service time over the square of its mean. Exact for M/M/c, and for one server (the
//                     Pollaczek-Khinchine formula)
//   tail of the wait  P(wait > t) = C exp(-C t / mean wait): whoever waits, waits exponentially long. Exact for M/M/c
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace weft {

struct Queue {
  double rate = 0;          // arrivals a second
  double mean_seconds = 0;  // of service
  double scv = 0;           // squared coefficient of variation of the service time
  int64_t servers = 1;

  double load() const { return rate * mean_seconds; }                           // in servers
  double utilisation() const { return load() / static_cast<double>(servers); }  // 1 or more: the queue grows forever
  double busy_probability() const;                                              // Erlang C; 1 if it grows forever
  double mean_wait() const;                                                     // seconds; infinite if it grows
  double wait_exceeds(double seconds) const;                                    // a probability
};

// A service time with these values and weights, which sum to 1.
struct WeightedValue {
  double weight = 0, value = 0;
};
double mean_of(const std::vector<WeightedValue>& values);
// Variance over the square of the mean; 0 where the mean is 0.
double scv_of(const std::vector<WeightedValue>& values);

// The smallest t such that wait + value <= t with probability `quantile` (0 to 1), for a value drawn from `values` and
// a wait in `queue` that does not depend on it. Infinite where the queue grows forever.
double quantile_behind(const Queue& queue, const std::vector<WeightedValue>& values, double quantile);

}  // namespace weft
