// Blocks from a store and to it, beside steps: who holds them, and what happens when there is no room.
#include <gtest/gtest.h>

#include "sched/driver.h"

namespace weft {
namespace {

Engine with_store() {
  Engine setup;
  setup.options.store = true;
  return setup;
}

NewSequence held(NewSequence sequence) {
  sequence.held = true;
  return sequence;
}

// As far as they go beside one that is held.
void run_others(Driver& driver) {
  while (driver.submit()) driver.commit();
}

TEST(Transfers, ASequenceThatEndsLeavesItsBlocks) {
  Driver driver(with_store());
  driver.add(request(random_prompt(40, 1), 12));
  driver.run();
  const std::unique_ptr<BlockTransfer> left = driver.scheduler.take_export();
  ASSERT_TRUE(left);
  EXPECT_EQ(left->blocks, 3) << "40 tokens and 11 of the answer, in blocks of 16";
  EXPECT_EQ(left->cache.tables[0].held(), 3);
  EXPECT_EQ(driver.scheduler.cache(0).gauges(0).used, 3) << "held until they are copied";
  driver.scheduler.check_integrity();
  driver.scheduler.end_export(*left);
  driver.scheduler.check_integrity();
  EXPECT_EQ(driver.scheduler.cache(0).gauges(0).used, 0);
  EXPECT_FALSE(driver.scheduler.take_export());
}

TEST(Transfers, TooManyAreNotKept) {
  Engine setup = with_store();
  setup.cache.budget_bytes = 160;  // 16 blocks, 4 of them for what is copied
  Driver driver(setup);
  for (uint32_t i = 0; i < 4; ++i) driver.add(request(random_prompt(40, i), 2));
  driver.run();
  EXPECT_EQ(driver.scheduler.metrics().exports_dropped, 2u) << "two blocks each";
  int kept = 0;
  while (const auto left = driver.scheduler.take_export()) ++kept, driver.scheduler.end_export(*left);
  EXPECT_EQ(kept, 2);
  driver.scheduler.check_integrity();
}

TEST(Transfers, APromptComesFromTheStore) {
  Driver driver(with_store());
  const SequenceId id = driver.add(held(request(random_prompt(50, 1), 2)));
  const std::unique_ptr<BlockTransfer> import = driver.scheduler.plan_import(id);
  ASSERT_TRUE(import);
  EXPECT_EQ(import->tokens.size(), 48u) << "whole blocks in front of the last token";
  driver.scheduler.cache(0).extend_keys(import->cache, import->tokens);
  EXPECT_EQ(driver.scheduler.look_up_import(*import, [](int, int number) { return number < 2; }), 0);
  EXPECT_EQ(import->blocks, 2);
  ASSERT_TRUE(driver.scheduler.begin_import(*import));
  EXPECT_EQ(import->blanks.size(), 2u);
  driver.scheduler.check_integrity();
  driver.add(request(random_prompt(20, 2), 3));  // goes on meanwhile
  run_others(driver);
  driver.scheduler.end_import(*import, 2);
  driver.scheduler.release(id);
  ASSERT_TRUE(driver.submit());
  EXPECT_EQ(driver.batch.rows[0].first, 32) << "the rest of the prompt";
  driver.scheduler.check_integrity();
}

TEST(Transfers, AnImportThatFailsIsComputed) {
  Driver driver(with_store());
  const NewSequence wanted = request(random_prompt(50, 1), 3);
  const SequenceId id = driver.add(held(request(random_prompt(50, 1), 3)));
  const std::unique_ptr<BlockTransfer> import = driver.scheduler.plan_import(id);
  driver.scheduler.cache(0).extend_keys(import->cache, import->tokens);
  driver.scheduler.look_up_import(*import, [](int, int) { return true; });
  ASSERT_TRUE(driver.scheduler.begin_import(*import));
  driver.scheduler.end_import(*import, 0);
  driver.scheduler.release(id);
  driver.run();
  EXPECT_EQ(driver.got[id].tokens, right_tokens(wanted, 3));
}

// A sequence that needs all of the cache waits for a transfer that holds some of it, and nothing breaks.
TEST(Transfers, OthersWaitForTheirRoom) {
  Engine setup = with_store();
  setup.cache.budget_bytes = 50;  // five blocks
  Driver driver(setup);
  const SequenceId id = driver.add(held(request(random_prompt(50, 1), 2)));
  const std::unique_ptr<BlockTransfer> import = driver.scheduler.plan_import(id);
  driver.scheduler.cache(0).extend_keys(import->cache, import->tokens);
  driver.scheduler.look_up_import(*import, [](int, int) { return true; });
  ASSERT_TRUE(driver.scheduler.begin_import(*import));
  const NewSequence large = request(random_prompt(70, 2), 3);
  const SequenceId other = driver.add(request(random_prompt(70, 2), 3));
  EXPECT_FALSE(driver.submit()) << "three of five blocks are held";
  driver.scheduler.end_import(*import, 0);
  run_others(driver);
  EXPECT_EQ(driver.got[other].tokens, right_tokens(large, 3));
  EXPECT_FALSE(driver.scheduler.idle()) << "the held one is there still";
  driver.scheduler.finish(id);
}

TEST(Transfers, NothingIsPlannedForWhatMayNotBeCached) {
  Driver driver(with_store());
  EXPECT_FALSE(driver.scheduler.plan_import(driver.add(held(request(random_prompt(16, 1), 2)))))
      << "the last token is computed";
  NewSequence whole = held(request(random_prompt(40, 1), 2));
  whole.whole = true;
  EXPECT_FALSE(driver.scheduler.plan_import(driver.add(std::move(whole))));
  EXPECT_FALSE(driver.scheduler.plan_import(driver.add(request(random_prompt(40, 3), 2)))) << "it is not held";
  EXPECT_FALSE(driver.scheduler.plan_import(SequenceId{999}));
}

}  // namespace
}  // namespace weft
