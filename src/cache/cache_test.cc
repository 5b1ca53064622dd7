// The heap against a sorted list, and the cache manager's rules one by one. The
// manager under random load is tested by sched/simulation_test.cc.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <tuple>

#include "base/check.h"
#include "cache/block_key.h"
#include "cache/cache_manager.h"
#include "cache/indexed_heap.h"
#include "cache/prefix_index.h"

namespace weft {
namespace {

using Kind = CacheSpec::Kind;

TEST(BlockKey, NamesAllThatTheBlockDependsOn) {
  const std::vector<int32_t> tokens = {1, 2, 3, 4};
  const BlockKey root = root_key(""), a = next_key(root, tokens, 0, {});
  EXPECT_EQ(a, next_key(root_key(""), tokens, 0, {}));
  std::set<std::string> keys = {root.hex(), a.hex(), root_key("x").hex(), next_key(root_key("x"), tokens, 0, {}).hex()};
  keys.insert(next_key(a, tokens, 4, {}).hex());
  keys.insert(next_key(root, std::vector<int32_t>{1, 2, 3, 5}, 0, {}).hex());
  auto with = [&](int first, int count, const char* identity) {
    return next_key(root, tokens, 0, std::vector<ContentSpan>{{first, count, identity}}).hex();
  };
  for (const std::string& key :
       {with(1, 2, "cat"), with(1, 2, "dog"), with(2, 2, "cat"), with(1, 3, "cat"), with(-1, 2, "cat")}) {
    keys.insert(key);
  }
  EXPECT_EQ(keys.size(), 11u);
  EXPECT_EQ(with(4, 10, "cat"), a.hex());  // begins behind the block
  EXPECT_EQ(with(-3, 3, "cat"), a.hex());  // ends before it
}

TEST(IndexedHeap, AgreesWithASortedSet) {
  std::mt19937 random(7);
  IndexedHeap heap;
  std::set<std::pair<uint64_t, int32_t>> right;
  std::map<int32_t, uint64_t> key_of;
  for (int step = 0; step < 20000; ++step) {
    const int32_t id = static_cast<int32_t>(random() % 200);
    if (key_of.count(id)) {
      heap.erase(id);
      right.erase({key_of[id], id});
      key_of.erase(id);
    } else {
      const uint64_t key = static_cast<uint64_t>(random() % 1000) << 8 | static_cast<uint64_t>(id);  // keys differ
      heap.push(id, key);
      right.insert({key, id});
      key_of[id] = key;
    }
    ASSERT_EQ(heap.size(), right.size());
    if (right.empty()) continue;
    ASSERT_EQ(heap.top(), right.begin()->second);
    ASSERT_EQ(heap.top_key(), right.begin()->first);
  }
}

TEST(PrefixIndex, FindsWhatIsThereAndNothingElse) {
  std::mt19937 random(3);
  PrefixIndex index(1, 1, 0);  // grows its table
  std::map<std::string, int32_t> right;
  std::vector<BlockKey> keys;
  for (int i = 0; i < 300; ++i) keys.push_back(root_key(std::to_string(i)));
  for (int step = 0; step < 5000; ++step) {
    const BlockKey& key = keys[random() % keys.size()];
    const auto found = right.find(key.hex());
    if (found == right.end()) {
      const int32_t token = 0;
      const BlockKey& parent = keys[random() % keys.size()];
      const int32_t node = parent == key ? -1 : index.insert(key, parent, false, {&token, 1}, true);
      if (node >= 0) index.set_block(node, 0, step), right[key.hex()] = node;
    } else {
      index.set_block(found->second, 0, -1);
      index.remove(found->second);
      right.erase(found);
    }
    if (step % 50 == 0) index.check_integrity();
    const BlockKey& asked = keys[random() % keys.size()];
    const auto expected = right.find(asked.hex());
    ASSERT_EQ(index.find(asked), expected == right.end() ? -1 : expected->second);
  }
}

std::vector<int32_t> iota_tokens(int count, int first = 0) {
  std::vector<int32_t> tokens(count);
  for (int i = 0; i < count; ++i) tokens[i] = first + i;
  return tokens;
}

// A sequence and the manager, driven as the scheduler does.
struct Holder {
  Holder(CacheManager& manager, std::vector<int32_t> prompt, CacheIdentity identity = {})
      : cache(manager), tokens(std::move(prompt)) {
    cache.start(sequence, std::move(identity), static_cast<int>(tokens.size()), static_cast<int>(tokens.size()) + 100);
    const int limit = static_cast<int>(tokens.size()) - 1;
    whole = cache.acquire_prefix(sequence, tokens, limit);
    hit = whole + cache.copy_partial_block(sequence, tokens, limit, copies);
  }
  ~Holder() { done(); }
  // Computes everything in chunks; false if blocks run out.
  bool compute(int chunk = 1 << 20) {
    for (int at = hit; at < static_cast<int>(tokens.size());) {
      at = std::min(at + chunk, static_cast<int>(tokens.size()));
      if (!cache.reserve(sequence, at)) return false;
      cache.commit(sequence, tokens, at);
    }
    return true;
  }
  void done() { cache.release(sequence); }

  CacheManager& cache;
  CacheSequence sequence;
  std::vector<int32_t> tokens;
  std::vector<BlockCopy> copies;
  int whole = 0, hit = 0;
};

CacheManager make(std::vector<CacheGroup> groups, int blocks_of_ten_bytes, int tokens_per_block = 4, int events = 0) {
  CacheOptions options;
  options.groups = std::move(groups);
  options.tokens_per_block = tokens_per_block;
  options.budget_bytes = blocks_of_ten_bytes * 10;
  options.event_capacity = events;
  auto manager = CacheManager::create(options);
  WEFT_CHECK(manager.ok()) << manager.error().message();
  return std::move(*manager);
}
const CacheGroup kFull{Kind::full, 0, 10};

int cached_tokens_of(CacheManager& cache, const std::vector<int32_t>& prompt, CacheIdentity identity = {}) {
  Holder probe(cache, prompt, std::move(identity));
  return probe.hit;
}

TEST(CacheManager, RefusesImpossibleOptions) {
  CacheOptions options;
  options.groups = {{Kind::window, 0, 10}};
  options.budget_bytes = 100;
  EXPECT_EQ(CacheManager::create(options).error().code(), Code::invalid_argument);
  options.groups = {{Kind::full, 0, 101}};
  EXPECT_EQ(CacheManager::create(options).error().code(), Code::resource_exhausted);
  options.groups = {{Kind::full, 0, 60}, {Kind::full, 0, 60}};  // one of each does not fit
  EXPECT_EQ(CacheManager::create(options).error().code(), Code::resource_exhausted);
  options.groups = {{Kind::cross, 0, 60}};
  EXPECT_EQ(CacheManager::create(options).error().code(), Code::unsupported);
  options.groups = {};
  EXPECT_TRUE(CacheManager::create(options).ok());
}

TEST(CacheManager, LongestSequence) {
  EXPECT_EQ(make({kFull}, 5).max_sequence_tokens(), 20);
  // Window 5 over blocks of 4: five positions touch up to two blocks. 10 of 12 blocks are left to the full group.
  EXPECT_EQ(make({kFull, {Kind::window, 5, 10}}, 12).max_sequence_tokens(), 40);
  EXPECT_EQ(make({{Kind::window, 5, 10}}, 2).max_sequence_tokens(), INT32_MAX);
  // may touch three blocks, so two must hold all of it
  EXPECT_EQ(make({{Kind::window, 6, 10}}, 2).max_sequence_tokens(), 8);
}

TEST(CacheManager, WholeAndPartialHits) {
  for (int blocks : {1, 2, 4}) {  // a prompt that is cached wholly still computes its last token
    CacheManager cache = make({kFull}, 50);
    const std::vector<int32_t> prompt = iota_tokens(4 * blocks);
    EXPECT_EQ(cached_tokens_of(cache, prompt), 0);
    ASSERT_TRUE(Holder(cache, prompt).compute());
    Holder again(cache, prompt);
    EXPECT_EQ(again.whole, 4 * (blocks - 1));
    EXPECT_EQ(again.hit, 4 * blocks - 1);
    ASSERT_EQ(again.copies.size(), 1u);
    EXPECT_EQ(again.copies[0].tokens, 3);
    EXPECT_EQ(cached_tokens_of(cache, iota_tokens(4 * blocks + 1)), 4 * blocks);
  }
  CacheManager cache = make({kFull}, 50);
  ASSERT_TRUE(Holder(cache, iota_tokens(12)).compute());
  std::vector<int32_t> other = iota_tokens(12);
  other[6] = 99;
  EXPECT_EQ(cached_tokens_of(cache, other), 6);
  other = iota_tokens(12, 50);
  EXPECT_EQ(cached_tokens_of(cache, other), 0);
}

// A look promises what acquiring then takes, and changes neither the order of evictions nor the version.
TEST(CacheManager, LookingUpChangesNothing) {
  CacheOptions options;
  options.tokens_per_block = 4, options.partial_reuse = false;
  for (const CacheGroup& second : {CacheGroup{Kind::full, 0, 3}, {Kind::window, 9, 3}, {Kind::chunk, 8, 3}}) {
    options.groups = {{Kind::full, 0, 2}, second};
    options.budget_bytes = 12 * 5;
    options.recomputed = second.kind == Kind::full;
    CacheManager looked = std::move(*CacheManager::create(options)), other = std::move(*CacheManager::create(options));
    std::mt19937 random(5);
    for (int round = 0; round < 300; ++round) {
      const std::vector<int32_t> tokens =
          iota_tokens(1 + static_cast<int>(random() % 30), static_cast<int>(random() % 4) * 100);
      const int limit = static_cast<int>(tokens.size()) - 1, end = static_cast<int>(tokens.size() + random() % 10);
      CacheSequence sequence;
      looked.start(sequence, {}, static_cast<int>(tokens.size()), end);
      const uint64_t version = looked.version();
      const CacheManager::Prospect prospect = looked.look_up(sequence, tokens, limit, end);
      EXPECT_EQ(looked.version(), version);
      const int64_t available = looked.available_bytes();
      if (round % 3 == 0) {  // `other` does as well, so that they stay alike
        CacheSequence twin;
        other.start(twin, {}, static_cast<int>(tokens.size()), end);
        EXPECT_EQ(looked.acquire_prefix(sequence, tokens, limit), prospect.cached);
        EXPECT_EQ(looked.missing_bytes(sequence, end) + available - looked.available_bytes(), prospect.bytes);
        other.acquire_prefix(twin, tokens, limit);
        looked.release(sequence), other.release(twin);
      } else if (round % 3 == 1) {
        for (CacheManager* cache : {&looked, &other}) {
          Holder holder(*cache, tokens);
          holder.compute();
        }
      }
      EXPECT_EQ(looked.index(), other.index()) << "round " << round;
    }
    EXPECT_FALSE(looked.index().empty());
  }
}

TEST(CacheManager, SaltAndContentIsolate) {
  CacheManager cache = make({kFull}, 50);
  const std::vector<int32_t> prompt = iota_tokens(14);
  ASSERT_TRUE(Holder(cache, prompt, {"a", {}, {}}).compute());
  EXPECT_EQ(cached_tokens_of(cache, prompt, {"a", {}, {}}), 12);
  EXPECT_EQ(cached_tokens_of(cache, prompt, {"b", {}, {}}), 0);
  EXPECT_EQ(cached_tokens_of(cache, prompt), 0);
  ASSERT_TRUE(Holder(cache, prompt, {.content = {{5, 4, "cat"}}}).compute());
  EXPECT_EQ(cached_tokens_of(cache, prompt, {.content = {{5, 4, "cat"}}}), 12);
  // And no partial copy of the image's block.
  EXPECT_EQ(cached_tokens_of(cache, prompt, {.content = {{5, 4, "dog"}}}), 4);
  EXPECT_EQ(cached_tokens_of(cache, prompt), 4);
}

TEST(CacheManager, RunningSequencesShareBlocks) {
  CacheManager cache = make({kFull}, 50);
  Holder first(cache, iota_tokens(13));
  ASSERT_TRUE(first.compute(5));
  Holder second(cache, iota_tokens(14));
  EXPECT_EQ(second.hit, 12);
  EXPECT_EQ(cache.gauges(0).used, 4);
  // Both compute the same block at once: one copy of it stays.
  std::vector<int32_t> tokens = iota_tokens(17, 200);
  Holder a(cache, tokens), b(cache, tokens);
  ASSERT_TRUE(a.compute() && b.compute());
  EXPECT_EQ(cache.gauges(0).used, 4 + 5 + 1);
  const CacheSequence* all[] = {&first.sequence, &second.sequence, &a.sequence, &b.sequence};
  cache.check_integrity(all);
}

// Window 6, blocks of 4. A query at p reads p - 5 .. p.
TEST(CacheManager, WindowBlocksAreFreedAtOnceAndHitsNeedTheWindowOnly) {
  CacheManager cache = make({{Kind::window, 6, 10}}, 50);
  std::vector<int32_t> tokens = iota_tokens(41);
  Holder first(cache, tokens);
  for (int at = 1; at <= 41; ++at) {
    ASSERT_TRUE(cache.reserve(first.sequence, at));
    cache.commit(first.sequence, tokens, at);
    const int oldest = std::max(0, at - 5) / 4;
    EXPECT_EQ(first.sequence.tables[0].first_block, oldest);
    EXPECT_EQ(cache.gauges(0).used, (at - 1) / 4 - oldest + (at % 4 == 0 && oldest > (at - 1) / 4 ? 0 : 1)) << at;
  }
  first.done();
  Holder second(cache, tokens);
  EXPECT_EQ(second.whole, 40);
  EXPECT_EQ(second.sequence.tables[0].first_block, 8);  // 40 - 5 = 35
  EXPECT_EQ(second.sequence.tables[0].held(), 2);
}

using Entry = std::tuple<int, Slot, int32_t, int32_t>;  // of a block table, as TableEntry

std::vector<Entry> sent(CacheManager& cache, CacheSequence& sequence, Slot slot, int first, int end) {
  std::vector<TableEntry> entries;
  cache.send_entries(sequence, slot, first, end, entries);
  std::vector<Entry> got;
  for (const TableEntry& entry : entries) got.emplace_back(entry.group, entry.slot, entry.number, entry.block);
  return got;
}

// Every entry that a row reads or writes is sent once, and a block that was replaced once more.
TEST(CacheManager, SendsWhatTheWorkersLack) {
  CacheManager cache = make({kFull, {Kind::window, 6, 10}}, 50);
  const std::vector<int32_t> tokens = iota_tokens(30);
  Holder a(cache, tokens), b(cache, tokens);
  ASSERT_TRUE(cache.reserve(a.sequence, 10) && cache.reserve(b.sequence, 10));
  const auto block = [](const Holder& holder, int group, int number) {
    const CacheSequence::Table& table = holder.sequence.tables[group];
    return table.blocks[table.head + static_cast<size_t>(number - table.first_block)];
  };
  std::vector<Entry> all;
  for (int group : {0, 1})
    for (int number : {0, 1}) all.emplace_back(group, 5, number, block(a, group, number));
  EXPECT_EQ(sent(cache, a.sequence, 5, 0, 8), all);  // block 2 is reserved but not needed yet
  EXPECT_TRUE(sent(cache, a.sequence, 5, 7, 8).empty());
  EXPECT_EQ(sent(cache, b.sequence, 6, 0, 8).size(), 4u);
  // Both have computed blocks 0 and 1; a's copies go into the index, and b changes over to them.
  cache.commit(a.sequence, tokens, 8);
  cache.commit(b.sequence, tokens, 8);
  EXPECT_EQ(sent(cache, a.sequence, 5, 8, 10),
            (std::vector<Entry>{{0, 5, 2, block(a, 0, 2)}, {1, 5, 2, block(a, 1, 2)}}));
  EXPECT_EQ(sent(cache, b.sequence, 6, 8, 10), (std::vector<Entry>{{0, 6, 0, block(a, 0, 0)},
                                                                   {0, 6, 1, block(a, 0, 1)},
                                                                   {0, 6, 2, block(b, 0, 2)},
                                                                   {1, 6, 0, block(a, 1, 0)},
                                                                   {1, 6, 1, block(a, 1, 1)},
                                                                   {1, 6, 2, block(b, 1, 2)}}));
  // A window that starts late, and a sequence that starts again.
  ASSERT_TRUE(cache.reserve(a.sequence, 24));
  EXPECT_EQ(sent(cache, a.sequence, 5, 23, 24).size(), 3u + 2u);  // of the window blocks 4 and 5
  cache.release(a.sequence);
  EXPECT_EQ(cache.acquire_prefix(a.sequence, tokens, 8), 8);
  ASSERT_TRUE(cache.reserve(a.sequence, 9));
  EXPECT_EQ(sent(cache, a.sequence, 5, 8, 9).size(), 3u + 3u);
}

// Chunks of 8, blocks of 4: at a chunk's start nothing is read.
TEST(CacheManager, FinishedChunksAreFreed) {
  CacheManager cache = make({kFull, {Kind::chunk, 8, 10}}, 50);
  std::vector<int32_t> tokens = iota_tokens(30);
  Holder first(cache, tokens);
  const int used_after[] = {0, 1, 1, 1, 1, 2, 2, 2, 0, 1};
  for (int at = 1; at < 10; ++at) {
    ASSERT_TRUE(cache.reserve(first.sequence, at));
    cache.commit(first.sequence, tokens, at);
    EXPECT_EQ(cache.gauges(1).used, used_after[at]) << at;
  }
}

TEST(CacheManager, HitIsWhatAllGroupsCanServe) {
  CacheManager cache = make({kFull, {Kind::window, 6, 10}}, 21);
  ASSERT_TRUE(Holder(cache, iota_tokens(33)).compute(4));  // nine full blocks, and as many cached window blocks
  EXPECT_EQ(cached_tokens_of(cache, iota_tokens(33)), 32);
  // Used later but below everything else: a stranger of three blocks in each group evicts the window blocks left behind
  // first.
  CacheIdentity worthless;
  worthless.retention.ranges = {{0, -1, 0, 0}};
  ASSERT_TRUE(Holder(cache, iota_tokens(11, 500), worthless).compute(4));
  const int hit = cached_tokens_of(cache, iota_tokens(33));
  EXPECT_EQ(hit, 32);
  EXPECT_LT(cached_tokens_of(cache, iota_tokens(9)), 8);  // the windows at its start are gone
}

TEST(CacheManager, MemoryMovesBetweenGroupsOnDemand) {
  CacheManager cache = make({{Kind::window, 4, 10}, {Kind::full, 0, 20}}, 12);
  std::vector<BlockRelease> releases;
  Holder first(cache, iota_tokens(10));
  ASSERT_TRUE(first.compute(2));  // three full blocks (60 bytes)
  cache.take_releases(releases);
  EXPECT_TRUE(releases.empty());
  first.done();
  EXPECT_EQ(cache.available_bytes(), 120);
  Holder second(cache, iota_tokens(20, 100));  // five (100), so two window blocks are left of three
  ASSERT_TRUE(second.compute(1));
  cache.take_releases(releases);
  EXPECT_FALSE(releases.empty());
  EXPECT_LE(cache.resident_bytes(), 120);
  for (const BlockRelease& release : releases) EXPECT_LT(release.block, cache.max_blocks(release.group));
  EXPECT_FALSE(Holder(cache, iota_tokens(16, 300)).compute(1));  // it does not fit beside the other
}

TEST(CacheManager, EvictsLowestPriorityThenOldestAndLeavesFirst) {
  CacheManager cache = make({kFull}, 6);
  auto keep = [&](int first, int priority) {
    CacheIdentity identity;
    identity.retention.ranges = {{0, -1, priority, 0}};
    ASSERT_TRUE(Holder(cache, iota_tokens(8, first), identity).compute());
  };
  keep(100, 50), keep(200, 20), keep(300, 50);
  auto hits = [&] {
    std::vector<int> hits;
    for (int first : {100, 200, 300}) hits.push_back(cached_tokens_of(cache, iota_tokens(9, first)));
    return hits;
  };
  auto need = [&](int blocks) {
    CacheIdentity identity;
    identity.retention.ranges = {{0, -1, 0, 0}};  // the first to go afterwards
    Holder stranger(cache, iota_tokens(4 * blocks, 1000), identity);
    ASSERT_TRUE(stranger.compute());
  };
  EXPECT_EQ(hits(), (std::vector<int>{8, 8, 8}));  // this also makes 100 the oldest of the two at 50
  need(1);
  EXPECT_EQ(hits(), (std::vector<int>{8, 4, 8}));  // the leaf of the lowest priority
  need(2);
  EXPECT_EQ(hits(), (std::vector<int>{8, 0, 8}));
  need(3);
  EXPECT_EQ(hits(), (std::vector<int>{4, 0, 8}));
}

TEST(CacheManager, PrioritiesLapse) {
  CacheManager cache = make({kFull}, 4);
  CacheIdentity dear, plain;
  dear.retention.ranges = {{0, -1, 90, 1000}};
  cache.begin_step(5000);
  ASSERT_TRUE(Holder(cache, iota_tokens(8, 100), dear).compute());
  ASSERT_TRUE(Holder(cache, iota_tokens(8, 200), plain).compute());
  cache.begin_step(5999);
  ASSERT_TRUE(Holder(cache, iota_tokens(4, 300), plain).compute());  // takes of the plain ones
  EXPECT_EQ(cached_tokens_of(cache, iota_tokens(9, 200)), 4);
  EXPECT_EQ(cache.gauges(0).cached, 4);
  cache.begin_step(6000);  // 1000 after the last use: now it is the oldest of equals
  ASSERT_TRUE(Holder(cache, iota_tokens(4, 400), plain).compute());
  EXPECT_EQ(cached_tokens_of(cache, iota_tokens(9, 100)), 4);
}

TEST(CacheManager, DecodeTokensHaveTheirOwnPriority) {
  CacheManager cache = make({kFull}, 3);
  CacheIdentity identity;
  identity.retention.decode_priority = 1;
  {
    Holder holder(cache, iota_tokens(4), identity);
    for (int t = 4; t < 12; ++t) holder.tokens.push_back(t);
    ASSERT_TRUE(holder.compute());
  }
  ASSERT_TRUE(Holder(cache, iota_tokens(8, 500)).compute());
  EXPECT_EQ(cached_tokens_of(cache, iota_tokens(12)), 4);
}

TEST(CacheManager, EventsReplayToTheIndex) {
  CacheManager cache = make({kFull, {Kind::window, 5, 10}}, 16, 4, 1000);
  std::set<std::pair<int, std::string>> replayed;
  std::mt19937 random(5);
  for (int round = 0; round < 200; ++round) {
    (void)Holder(cache, iota_tokens(4 + random() % 20, 100 * (random() % 3))).compute(3);
    for (const CacheEvent& event : cache.take_events()) {
      if (event.kind == CacheEvent::Kind::removed) {
        EXPECT_EQ(replayed.erase({event.group, event.key.hex()}), 1u);
        continue;
      }
      EXPECT_TRUE(replayed.insert({event.group, event.key.hex()}).second);
      EXPECT_EQ(event.key, next_key(event.parent, event.tokens, 0, {}));
    }
    std::set<std::pair<int, std::string>> index;
    for (const auto& [group, key] : cache.index()) index.insert({group, key.hex()});
    ASSERT_EQ(replayed, index);
  }
  cache.drop_cached();
  EXPECT_TRUE(cache.index().empty());
  for (int g = 0; g < 2; ++g) EXPECT_EQ(cache.gauges(g).used + cache.gauges(g).cached, 0);
}

TEST(CacheManager, WithoutReuseNothingIsCached) {
  CacheOptions options;
  options.groups = {kFull};
  options.tokens_per_block = 4, options.budget_bytes = 100, options.block_reuse = false;
  CacheManager cache = std::move(*CacheManager::create(options));
  ASSERT_TRUE(Holder(cache, iota_tokens(13)).compute());
  EXPECT_EQ(cached_tokens_of(cache, iota_tokens(13)), 0);
  EXPECT_EQ(cache.gauges(0).free, 4);
  EXPECT_EQ(cache.gauges(0).cached, 0);
}

// ---- Blocks from a store ----

struct Import {
  Import(CacheManager& manager, std::vector<int32_t> prompt, int blocks) : cache(manager), tokens(std::move(prompt)) {
    cache.start(sequence, {}, static_cast<int>(tokens.size()), 0);
    begun = cache.begin_import(sequence, tokens, blocks, blanks);
    this->blocks = blocks;
  }
  ~Import() { cache.release(sequence); }
  void finish() { cache.finish_import(sequence, tokens, blocks); }

  CacheManager& cache;
  CacheSequence sequence;
  std::vector<int32_t> tokens;
  std::vector<CacheManager::Blank> blanks;
  int blocks = 0;
  bool begun = false;
};

TEST(CacheManager, ImportedBlocksAreFound) {
  CacheManager cache = make({kFull, {Kind::window, 5, 10}}, 40);
  ASSERT_TRUE(Holder(cache, iota_tokens(9)).compute());  // two whole blocks are there
  {
    Import import(cache, iota_tokens(20), 5);
    ASSERT_TRUE(import.begun);
    // Of the full group the last three; of the window those that a query at 20 sees, 16 to 20, and none before.
    std::vector<std::pair<int, int>> numbers;
    for (const CacheManager::Blank& blank : import.blanks) numbers.emplace_back(blank.group, blank.number);
    EXPECT_EQ(numbers, (std::vector<std::pair<int, int>>{{0, 2}, {0, 3}, {0, 4}, {1, 4}}));
    EXPECT_EQ(cached_tokens_of(cache, iota_tokens(21)), 8) << "they are not filled yet";
    const CacheSequence* const held[] = {&import.sequence};
    cache.check_integrity(held);
    import.finish();
    cache.check_integrity(held);
  }
  cache.check_integrity({});
  EXPECT_EQ(cached_tokens_of(cache, iota_tokens(21)), 20);
  EXPECT_EQ(cached_tokens_of(cache, iota_tokens(14)), 8) << "the window's blocks are missing there";
}

TEST(CacheManager, AnImportThatFailsLeavesNothing) {
  CacheManager cache = make({kFull}, 6);
  const int64_t available = cache.available_bytes();
  { Import import(cache, iota_tokens(20), 5); }
  EXPECT_EQ(cache.available_bytes(), available);
  EXPECT_EQ(cached_tokens_of(cache, iota_tokens(21)), 0);
  const Holder other(cache, iota_tokens(9, 500));
  CacheSequence held;
  cache.start(held, {}, 8, 8);
  ASSERT_TRUE(cache.reserve(held, 8));
  EXPECT_FALSE(Import(cache, iota_tokens(20), 5).begun) << "four blocks are left";
  EXPECT_EQ(cache.available_bytes(), available - 20);
  cache.release(held);
}

// Somebody else may have computed the same block meanwhile.
TEST(CacheManager, AnImportMeetsTheSameBlocks) {
  CacheManager cache = make({kFull}, 20);
  Import import(cache, iota_tokens(12), 3);
  ASSERT_TRUE(import.begun);
  ASSERT_TRUE(Holder(cache, iota_tokens(12)).compute());
  import.finish();
  const CacheSequence* const held[] = {&import.sequence};
  cache.check_integrity(held);
  EXPECT_EQ(cache.gauges(0).cached, 3);
  EXPECT_EQ(cache.gauges(0).used, 3);
}

TEST(CacheManager, AStoreMayFillGaps) {
  CacheManager cache = make({kFull, {Kind::window, 5, 10}}, 40);
  CacheSequence sequence;
  const std::vector<int32_t> tokens = iota_tokens(24);
  cache.start(sequence, {}, 24, 0);
  cache.extend_keys(sequence, tokens);
  const auto longest = [&](std::set<std::pair<int, int>> stored) {
    return cache.longest_import(sequence, 6, [&](int g, int b) { return stored.count({g, b}) > 0; });
  };
  EXPECT_EQ(longest({}), 0);
  EXPECT_EQ(longest({{0, 0}, {0, 1}, {0, 2}}), 0) << "no window";
  EXPECT_EQ(longest({{0, 0}, {0, 1}, {0, 2}, {1, 2}}), 3);
  EXPECT_EQ(longest({{0, 0}, {1, 0}, {0, 1}, {0, 2}, {0, 4}, {1, 4}}), 1) << "a query at 8 sees tokens of block 1";
  EXPECT_EQ(longest({{0, 0}, {0, 1}, {1, 1}, {0, 2}, {0, 4}, {1, 4}}), 2);
  ASSERT_TRUE(Holder(cache, iota_tokens(9)).compute());
  EXPECT_EQ(longest({{0, 2}, {1, 2}}), 3) << "the others are in the cache";
}

}  // namespace
}  // namespace weft
