#include "plan/queueing.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace weft {

namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

}  // namespace

double Queue::busy_probability() const {
  if (utilisation() >= 1) return 1;
  const double a = load();
  double blocked = 1;  // Erlang B of 0 servers
  for (int64_t k = 1; k <= servers && blocked > 0; ++k) blocked = a * blocked / (static_cast<double>(k) + a * blocked);
  return blocked / (1 - utilisation() * (1 - blocked));
}

double Queue::mean_wait() const {
  if (load() == 0) return 0;
  if (utilisation() >= 1) return kNever;
  return (1 + scv) / 2 * busy_probability() * mean_seconds / (static_cast<double>(servers) * (1 - utilisation()));
}

double Queue::wait_exceeds(double seconds) const {
  if (seconds < 0) return 1;
  const double busy = busy_probability(), wait = mean_wait();
  if (wait == 0) return 0;
  return wait == kNever ? 1 : busy * std::exp(-busy * seconds / wait);
}

double mean_of(const std::vector<WeightedValue>& values) {
  double sum = 0;
  for (const WeightedValue& v : values) sum += v.weight * v.value;
  return sum;
}

double scv_of(const std::vector<WeightedValue>& values) {
  const double mean = mean_of(values);
  if (mean == 0) return 0;
  double variance = 0;
  for (const WeightedValue& v : values) variance += v.weight * (v.value - mean) * (v.value - mean);
  return variance / (mean * mean);
}

double quantile_behind(const Queue& queue, const std::vector<WeightedValue>& values, double quantile) {
  const double busy = queue.busy_probability(), wait = queue.mean_wait();
  if (wait == kNever) return kNever;
  const auto exceeds = [&](double t) {
    double sum = 0;
    for (const WeightedValue& v : values) {
      const double left = t - v.value;
      if (left < 0) sum += v.weight;
      else if (wait > 0) sum += v.weight * busy * std::exp(-busy * left / wait);
    }
    return sum;
  };
  double low = 0, high = 1e-6;
  while (exceeds(high) > 1 - quantile) low = high, high *= 2;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (exceeds(middle) > 1 - quantile ? low : high) = middle;
  }
  return high;
}

}  // namespace weft
