#include "media/account.h"

#include <gtest/gtest.h>

#include <thread>

#include "base/stop_flag.h"

namespace weft {
namespace {

TEST(MediaAccount, SharesAreGivenBackWithTheirLastCopy) {
  const MediaAccount account(100);
  auto shares = account.take(60, 30, 0, nullptr);
  ASSERT_TRUE(shares.ok());
  EXPECT_EQ(account.held(), 90);
  shares->temporary.reset();
  EXPECT_EQ(account.held(), 60);
  const MediaAccount::Share copy = shares->kept;
  shares->kept.reset();
  EXPECT_EQ(account.held(), 60);
}

TEST(MediaAccount, RefusesMoreThanThereIsAndWhatOthersHold) {
  const MediaAccount account(100);
  const auto too_much = account.take(60, 41, 1000, nullptr);
  ASSERT_FALSE(too_much.ok());
  EXPECT_EQ(too_much.error().code(), Code::too_large);
  EXPECT_EQ(too_much.error().message(),
            "the images take 101 bytes of memory; at most 100 are there for the images of all requests "
            "(--max-media-memory)");
  const auto first = account.take(60, 0, 0, nullptr);
  const auto second = account.take(41, 0, 20, nullptr);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code(), Code::resource_exhausted);
  EXPECT_EQ(account.held(), 60);
}

TEST(MediaAccount, WaitsForOthersOrForItsStopFlag) {
  const MediaAccount account(100);
  auto first = account.take(100, 0, 0, nullptr);
  ASSERT_TRUE(first.ok());
  StopFlag stop;
  std::thread stopper([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    stop.set(StopReason::client_left);
  });
  const auto stopped = account.take(1, 0, 60'000, &stop);
  stopper.join();
  ASSERT_FALSE(stopped.ok());
  EXPECT_EQ(stopped.error().code(), Code::cancelled);
  std::thread giver([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    *first = {};
  });
  EXPECT_TRUE(account.take(100, 0, 60'000, nullptr).ok());
  giver.join();
}

}  // namespace
}  // namespace weft
