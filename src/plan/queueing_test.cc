// Waiting times against known values, and against a simulation of the queue.
#include "plan/queueing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace weft {
namespace {

struct Waits {
  double mean = 0;
  std::vector<double> sorted;
  double quantile(double q) const { return sorted[static_cast<size_t>(q * static_cast<double>(sorted.size()))]; }
};

// Event by event: each arrival goes to the server that is free first (Kiefer and Wolfowitz).
Waits simulate(int servers, double rate, const std::function<double(std::mt19937_64&)>& service,
               int arrivals = 800'000) {
  std::mt19937_64 random(7);
  std::exponential_distribution<double> gap(rate);
  std::vector<double> free_at(static_cast<size_t>(servers), 0.0);
  Waits waits;
  double now = 0;
  for (int i = 0; i < arrivals; ++i) {
    now += gap(random);
    const auto first = std::ranges::min_element(free_at);
    const double begin = std::max(now, *first);
    *first = begin + service(random);
    waits.sorted.push_back(begin - now), waits.mean += (begin - now) / arrivals;
  }
  std::ranges::sort(waits.sorted);
  return waits;
}

double one_second(std::mt19937_64&) { return 1; }
double exponential_second(std::mt19937_64& random) { return std::exponential_distribution<double>(1)(random); }

TEST(Queueing, OneServerWithExponentialService) {
  // M/M/1: a server is busy with probability rho; wait = rho / (1 - rho) x mean = 0.8 / 0.2.
  const Queue queue{.rate = 0.8, .mean_seconds = 1, .scv = 1, .servers = 1};
  EXPECT_NEAR(queue.busy_probability(), 0.8, 1e-12);
  EXPECT_NEAR(queue.mean_wait(), 4, 1e-12);
  // P(wait > t) = rho e^{-(1 - rho) t}.
  EXPECT_NEAR(queue.wait_exceeds(5), 0.8 * std::exp(-1.0), 1e-12);
  EXPECT_EQ(queue.wait_exceeds(-1), 1);
  const Waits seen = simulate(1, 0.8, exponential_second);
  EXPECT_NEAR(seen.mean, queue.mean_wait(), 0.05 * queue.mean_wait());
}

TEST(Queueing, OneServerOfAnyServiceIsExact) {
  // M/D/1 waits half as long as M/M/1 (Pollaczek and Khinchine): rho / (2 (1 - rho)) = 0.9 / 0.2.
  const Queue queue{.rate = 0.9, .mean_seconds = 1, .scv = 0, .servers = 1};
  EXPECT_NEAR(queue.mean_wait(), 4.5, 1e-12);
  EXPECT_NEAR(simulate(1, 0.9, one_second).mean, 4.5, 0.05 * 4.5);
}

TEST(Queueing, TwoServers) {
  // M/M/2: C = 2 rho^2 / (1 + rho) = 1.28 / 1.8, wait = C / (2 - 1.6).
  const Queue queue{.rate = 1.6, .mean_seconds = 1, .scv = 1, .servers = 2};
  EXPECT_NEAR(queue.busy_probability(), 1.28 / 1.8, 1e-12);
  EXPECT_NEAR(queue.mean_wait(), 1.28 / 1.8 / 0.4, 1e-12);
  const Waits seen = simulate(2, 1.6, exponential_second);
  EXPECT_NEAR(seen.mean, queue.mean_wait(), 0.05 * queue.mean_wait());
  // Without service behind the wait, the quantile is that of the wait: P(wait > t) = 0.05.
  const double quantile = quantile_behind(queue, {{1, 0}}, 0.95);
  EXPECT_NEAR(queue.wait_exceeds(quantile), 0.05, 1e-9);
  EXPECT_NEAR(seen.quantile(0.95), quantile, 0.05 * quantile);
}

TEST(Queueing, TwoServersWithEqualServiceAreApproximatedWell) {
  // M/D/2: half of M/M/2's wait, 0.8889. Cosmetatos' correction, 1 + (1 - rho)(c - 1)(sqrt(4 + 5c) - 2) / (16 rho c) =
  // 1.0136, says that it is 1.4 % more.
  const Queue queue{.rate = 1.6, .mean_seconds = 1, .scv = 0, .servers = 2};
  EXPECT_NEAR(queue.mean_wait(), 1.28 / 1.8 / 0.8, 1e-12);
  EXPECT_NEAR(simulate(2, 1.6, one_second).mean, 1.0136 * queue.mean_wait(), 0.03 * queue.mean_wait());
}

TEST(Queueing, ThreeServersWithShortAndLongRequests) {
  // Three of four take 0.2 s, one takes 3.4 s: mean 1, variance 0.75 x 0.64 + 0.25 x 5.76 = 1.92.
  const std::vector<WeightedValue> values = {{0.75, 0.2}, {0.25, 3.4}};
  EXPECT_DOUBLE_EQ(mean_of(values), 1);
  EXPECT_NEAR(scv_of(values), 1.92, 1e-12);
  const Queue queue{.rate = 2.4, .mean_seconds = 1, .scv = 1.92, .servers = 3};
  const auto service = [](std::mt19937_64& random) { return random() % 4 < 3 ? 0.2 : 3.4; };
  const Waits seen = simulate(3, 2.4, service);
  EXPECT_NEAR(seen.mean, queue.mean_wait(), 0.08 * queue.mean_wait());
  EXPECT_NEAR(seen.quantile(0.95), quantile_behind(queue, {{1, 0}}, 0.95), 0.15 * seen.quantile(0.95));
}

TEST(Queueing, QuantilesOfWhatStandsBehindTheWait) {
  // Without a wait the quantiles are those of the values.
  EXPECT_NEAR(quantile_behind(Queue{}, {{0.9, 1}, {0.1, 7}}, 0.85), 1, 1e-6);
  EXPECT_NEAR(quantile_behind(Queue{}, {{0.9, 1}, {0.1, 7}}, 0.95), 7, 1e-6);
  // M/M/1 with rho = 0.5 and a constant: 0.5 e^{-0.5 (t - 3)} = 0.1.
  const Queue queue{.rate = 0.5, .mean_seconds = 1, .scv = 1, .servers = 1};
  EXPECT_NEAR(quantile_behind(queue, {{1, 3}}, 0.9), 3 + 2 * std::log(5.0), 1e-6);
}

TEST(Queueing, TooFewServersWaitForever) {
  const Queue queue{.rate = 2, .mean_seconds = 1, .scv = 1, .servers = 2};
  EXPECT_EQ(queue.busy_probability(), 1);
  EXPECT_TRUE(std::isinf(queue.mean_wait()));
  EXPECT_EQ(queue.wait_exceeds(1e9), 1);
  EXPECT_TRUE(std::isinf(quantile_behind(queue, {{1, 0}}, 0.5)));
  EXPECT_EQ((Queue{}).mean_wait(), 0);
}

TEST(Queueing, ManyServersStayFinite) {
  // 100,000 servers that are half busy: nobody waits, and nothing overflows.
  const Queue queue{.rate = 50'000, .mean_seconds = 1, .scv = 1, .servers = 100'000};
  EXPECT_EQ(queue.busy_probability(), 0);
  EXPECT_EQ(queue.mean_wait(), 0);
}

}  // namespace
}  // namespace weft
