#include "orchestrate/router.h"

#include <gtest/gtest.h>

#include <vector>

namespace weft {
namespace {

std::vector<size_t> choices(RouterKind kind, const std::vector<Candidate>& candidates, size_t turns) {
  std::vector<size_t> all;
  for (uint64_t turn = 0; turn < turns; ++turn) all.push_back(choose_server(kind, candidates, turn));
  return all;
}
using Choices = std::vector<size_t>;

TEST(Router, RoundRobinTakesTurnsWhateverTheLoadIs) {
  EXPECT_EQ(choices(RouterKind::round_robin, {{9, 0}, {0, 0}, {5, 100}}, 5), (Choices{0, 1, 2, 0, 1}));
}

TEST(Router, LoadBalancingTakesTheLeastLoaded) {
  EXPECT_EQ(choices(RouterKind::load_balancing, {{300, 500}, {200, 0}, {201, 0}}, 4), (Choices{1, 1, 1, 1}));
  EXPECT_EQ(choices(RouterKind::load_balancing, {{7, 0}, {7, 0}, {8, 0}}, 4), (Choices{0, 1, 0, 0})) << "equal ones";
}

TEST(Router, CachedTokensAreWorkThatIsSpared) {
  // 400 cached tokens are worth 400 tokens of load and no more.
  EXPECT_EQ(choices(RouterKind::kv_cache_aware, {{500, 400}, {101, 0}, {900, 700}}, 3), (Choices{0, 0, 0}));
  EXPECT_EQ(choices(RouterKind::kv_cache_aware, {{500, 400}, {99, 0}, {900, 700}}, 3), (Choices{1, 1, 1}));
  // At a tie the lower load counts, then the turn.
  EXPECT_EQ(choices(RouterKind::kv_cache_aware, {{500, 400}, {100, 0}, {100, 0}}, 3), (Choices{1, 1, 2}));
}

TEST(Router, OneCandidate) {
  for (const RouterKind kind : {RouterKind::round_robin, RouterKind::load_balancing, RouterKind::kv_cache_aware})
    EXPECT_EQ(choices(kind, {{1e9, 0}}, 3), (Choices{0, 0, 0}));
}

}  // namespace
}  // namespace weft
