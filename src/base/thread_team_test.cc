#include "base/thread_team.h"

#include <gtest/gtest.h>

#include <atomic>
#include <new>

#include "base/keep_going.h"

namespace weft {
namespace {

TEST(ThreadTeam, AnExceptionComesToTheCallerWhenAllAreThrough) {
  ThreadTeam team(4);
  for (int thrower = 0; thrower < 4; ++thrower) {
    std::atomic<int> through{0};
    EXPECT_THROW(team.run([&](int thread) {
      if (thread == thrower) throw std::bad_alloc();
      ++through;
    }),
                 std::bad_alloc);
    EXPECT_EQ(through, 3);
  }
  std::atomic<int> through{0};
  team.run([&](int) { ++through; });
  EXPECT_EQ(through, 4);
}

TEST(KeepGoing, BeginsAnewAfterAnException) {
  int begun = 0;
  keep_going("a test", [&] {
    if (++begun < 3) throw std::bad_alloc();
  });
  EXPECT_EQ(begun, 3);
}

}  // namespace
}  // namespace weft
