#include "server/http_limits.h"

#include <gtest/gtest.h>

#include <set>

namespace weft {
namespace {

// "32M", "0.4": as the table writes defaults.
double value_of(std::string_view text) {
  const double factor = text.ends_with('K') ? 1 << 10 : text.ends_with('M') ? 1 << 20 : 1;
  return std::stod(std::string(text)) * factor;
}

double value_of(const HttpLimit& limit, const HttpLimits& limits) {
  if (const auto* count = std::get_if<int HttpLimits::*>(&limit.member)) return limits.**count;
  if (const auto* bytes = std::get_if<size_t HttpLimits::*>(&limit.member)) return static_cast<double>(limits.**bytes);
  return static_cast<double>((limits.*std::get<std::chrono::milliseconds HttpLimits::*>(limit.member)).count()) / 1000;
}

TEST(HttpLimits, TheTableSaysTheDefaults) {
  for (const HttpLimit& limit : http_limits()) {
    EXPECT_EQ(value_of(limit.row.default_text), value_of(limit, HttpLimits())) << limit.row.flag;
    EXPECT_GE(value_of(limit, HttpLimits()), limit.low) << limit.row.flag;
    EXPECT_LE(value_of(limit, HttpLimits()), limit.high) << limit.row.flag;
  }
}

TEST(HttpLimits, RowsAreWholeAndNoneComesTwice) {
  std::set<std::string_view> names, flags;
  for (const HttpLimit& limit : http_limits()) {
    EXPECT_TRUE(names.insert(limit.row.name).second && flags.insert(limit.row.flag).second) << limit.row.name;
    EXPECT_TRUE(limit.row.flag.starts_with("--") && !limit.row.bounds.empty() && !limit.row.status.empty());
  }
  ASSERT_EQ(http_limit_rows().size(), http_limits().size());
  for (size_t i = 0; i < http_limits().size(); ++i) EXPECT_EQ(http_limit_rows()[i].name, http_limits()[i].row.name);
}

}  // namespace
}  // namespace weft
