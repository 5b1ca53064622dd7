#include "server/http_limits.h"

#include <gtest/gtest.h>

#include <set>

namespace weft {
namespace {

double value_of(const HttpLimit& limit, const HttpLimits& limits) {
  if (const auto* count = std::get_if<int HttpLimits::*>(&limit.member)) return limits.**count;
  if (const auto* bytes = std::get_if<size_t HttpLimits::*>(&limit.member)) return static_cast<double>(limits.**bytes);
  return static_cast<double>((limits.*std::get<std::chrono::milliseconds HttpLimits::*>(limit.member)).count()) / 1000;
}

TEST(HttpLimits, RowsAreWholeAndNoneComesTwice) {
  std::set<std::string_view> flags;
  for (const HttpLimit& limit : http_limits()) {
    EXPECT_TRUE(limit.flag.starts_with("--") && flags.insert(limit.flag).second) << limit.flag;
    EXPECT_FALSE(limit.bounds.empty() || limit.status.empty()) << limit.flag;
    EXPECT_GE(value_of(limit, HttpLimits()), limit.low) << limit.flag;
    EXPECT_LE(value_of(limit, HttpLimits()), limit.high) << limit.flag;
  }
}

}  // namespace
}  // namespace weft
