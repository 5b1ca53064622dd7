// The events of the KV cache, as a router beside the engine would use them: replayed in order they give the blocks that
// the cache holds. What it should hold is computed here from the requests' tokens.
#include <gtest/gtest.h>

#include <set>

#include "cache/block_key.h"
#include "support/answers.h"
#include "support/reference_case.h"

namespace weft::testing {
namespace {

using Ids = std::vector<int32_t>;
using Index = std::set<std::pair<int, std::string>>;
constexpr int kBlock = 16;

std::unique_ptr<Engine> load(const std::string& model, int events, int64_t cache_tokens = 0) {
  auto reference = read_reference_case(model);
  EXPECT_TRUE(reference.ok());
  EngineOptions o;
  o.threads = 1, o.tokens_per_block = kBlock, o.kv_cache_events = events, o.kv_cache_memory = int64_t{64} << 20;
  auto engine = Engine::load(reference->folder, o);
  if (engine.ok() && cache_tokens > 0) {
    o.kv_cache_memory = cache_tokens * (*engine)->info().kv_bytes_per_token;
    engine = Engine::load(reference->folder, o);
  }
  EXPECT_TRUE(engine.ok()) << (engine.ok() ? "" : engine.error().to_string());
  return std::move(engine).value();
}

std::vector<Request> requests_of(const std::string& model, int count) {
  auto reference = read_reference_case(model);
  std::vector<Request> requests;
  for (int i = 0; i < count; ++i) {
    Request& request = requests.emplace_back();
    request.prompt_token_ids = reference->prompts[static_cast<size_t>(i) % reference->prompts.size()].input_ids;
    if (i >= static_cast<int>(reference->prompts.size())) request.prompt_token_ids->push_back(i);
    request.max_tokens = 5 + 9 * (i % 4);
    request.sampling.temperature = 0, request.sampling.ignore_eos = true;
    if (i % 3 == 2) request.cache_salt = "tenant";
  }
  return requests;
}

void replay(const KvCacheEvents& taken, Index& index) {
  for (const KvCacheEvent& event : taken.events) {
    if (event.stored) {
      EXPECT_TRUE(index.insert({event.group, event.hash}).second) << "stored twice";
      EXPECT_EQ(event.tokens.size(), static_cast<size_t>(kBlock));
    } else {
      EXPECT_EQ(index.erase({event.group, event.hash}), 1u) << "removed what was not there";
    }
  }
}

TEST(KvCacheEvents, ReplayToTheIndex) {
  const auto engine = load("llama-3.1", 1 << 16);
  const std::vector<Request> requests = requests_of("llama-3.1", 12);
  Index index, want;
  uint64_t next = 0;
  for (int round = 0; round < 2; ++round) {  // the second finds everything there
    const std::vector<Answer> answers = ask(*engine, requests);
    const auto taken = engine->take_kv_cache_events();
    ASSERT_TRUE(taken.ok());
    EXPECT_EQ(taken->lost, 0u);
    for (const KvCacheEvent& event : taken->events) EXPECT_EQ(event.id, next++);
    EXPECT_EQ(taken->next_id, next);
    replay(*taken, index);
    for (size_t i = 0; i < requests.size(); ++i) {
      Ids known = *requests[i].prompt_token_ids;
      const Ids output = answers[i].choices[0].ids();
      known.insert(known.end(), output.begin(), output.end() - 1);  // the last token is never computed
      BlockKey key = root_key(requests[i].cache_salt);
      for (size_t first = 0; first + kBlock <= known.size(); first += kBlock) {
        key = next_key(key, std::span(known).subspan(first, kBlock), static_cast<int>(first), {});
        want.insert({0, key.hex()});
      }
    }
    EXPECT_EQ(index, want);
    EXPECT_EQ(engine->metrics().core.blocks().cached, static_cast<int>(index.size()));
  }
}

// With windows and a cache that is too small, blocks come and go.
TEST(KvCacheEvents, ReplayUnderPressure) {
  for (const char* model : {"mistral-swa", "gemma3-1b"}) {
    const auto engine = load(model, 1 << 16, 400);
    Index index;
    size_t removed = 0;
    for (int round = 0; round < 3; ++round) {
      ask(*engine, requests_of(model, 16));
      const auto taken = engine->take_kv_cache_events();
      ASSERT_TRUE(taken.ok());
      for (const KvCacheEvent& event : taken->events) removed += !event.stored;
      replay(*taken, index);
      EXPECT_EQ(engine->metrics().core.blocks().cached, static_cast<int>(index.size()));
    }
    EXPECT_GT(removed, 0u);
  }
}

TEST(KvCacheEvents, LostOnesAreCounted) {
  const auto engine = load("llama-3.1", 3);
  uint64_t seen = 0, lost = 0, next = 0;
  for (int round = 0; round < 2; ++round) {
    std::vector<Request> requests = requests_of("llama-3.1", 6);
    for (Request& request : requests) request.cache_salt = std::to_string(round);
    ask(*engine, requests);
    const auto taken = engine->take_kv_cache_events();
    ASSERT_TRUE(taken.ok());
    EXPECT_EQ(taken->events.size(), 3u);
    seen += taken->events.size(), lost += taken->lost, next = taken->next_id;
    EXPECT_EQ(taken->events.back().id + 1, next);
  }
  EXPECT_GT(lost, 0u);
  EXPECT_EQ(seen + lost, next);
  const auto empty = engine->take_kv_cache_events();
  EXPECT_EQ(empty->events.size() + empty->lost, 0u);
}

// Readers take nothing away from each other, nor from who takes the events.
TEST(KvCacheEvents, ManyReaders) {
  const auto engine = load("llama-3.1", 1 << 16);
  ask(*engine, requests_of("llama-3.1", 6));
  const auto all = engine->read_kv_cache_events(0, 1 << 20);
  ASSERT_TRUE(all.ok());
  ASSERT_GT(all->events.size(), 4u);
  EXPECT_EQ(all->lost, 0u);
  Index once, piece_by_piece, taken;
  replay(*all, once);
  for (uint64_t next = 0; next < all->next_id;) {
    const auto piece = engine->read_kv_cache_events(next, 3);
    ASSERT_TRUE(piece.ok());
    EXPECT_EQ(piece->events.front().id, next);
    replay(*piece, piece_by_piece);
    next = piece->next_id;
  }
  replay(*engine->take_kv_cache_events(), taken);
  EXPECT_EQ(piece_by_piece, once);
  EXPECT_EQ(taken, once);
  EXPECT_TRUE(engine->take_kv_cache_events()->events.empty());
  EXPECT_EQ(engine->read_kv_cache_events(0, 1 << 20)->events.size(), all->events.size()) << "read after it was taken";
  const auto beyond = engine->read_kv_cache_events(all->next_id + 100, 10);
  EXPECT_TRUE(beyond->events.empty());
  EXPECT_EQ(beyond->next_id, all->next_id);
}

TEST(KvCacheEvents, ReadersAreToldWhatIsGone) {
  const auto engine = load("llama-3.1", 3);
  uint64_t next = 0;
  for (int round = 0; round < 2; ++round) {
    std::vector<Request> requests = requests_of("llama-3.1", 6);
    for (Request& request : requests) request.cache_salt = std::to_string(round);
    ask(*engine, requests);
    const auto read = engine->read_kv_cache_events(0, 100);
    EXPECT_EQ(read->events.size(), 3u) << "as many as are kept";
    EXPECT_EQ(read->lost, read->events.front().id);
    EXPECT_GT(read->next_id, next + 3);
    next = read->next_id;
  }
}

// The names that a router asks for are those that the cache gives the blocks.
TEST(KvCacheEvents, BlockKeysAreThoseOfTheCache) {
  const auto engine = load("llama-3.1", 1 << 16);
  std::vector<Request> requests = requests_of("llama-3.1", 6);
  size_t blocks = 0;
  for (Request& request : requests) {
    request.max_tokens = 1;
    request.prompt_token_ids->resize(static_cast<size_t>(kBlock) * 2 + 5, 7);
    const auto keys = engine->block_keys(request);
    ASSERT_TRUE(keys.ok());
    EXPECT_EQ(keys->tokens, 2 * kBlock + 5);
    ASSERT_EQ(keys->keys.size(), 2u);
    Index index;
    ask(*engine, {request});
    replay(*engine->read_kv_cache_events(0, 1 << 20), index);
    for (const std::string& key : keys->keys) blocks += index.contains({0, key});
  }
  EXPECT_EQ(blocks, 12u);
  Request wrong = requests[0];
  wrong.prompt_token_ids->push_back(1 << 30);
  EXPECT_FALSE(engine->block_keys(wrong).ok());
}

TEST(KvCacheEvents, OffIsAnError) {
  const auto engine = load("llama-3.1", 0);
  const auto taken = engine->take_kv_cache_events();
  ASSERT_FALSE(taken.ok());
  EXPECT_NE(taken.error().message().find("--kv-cache-events"), std::string::npos);
  EXPECT_FALSE(engine->read_kv_cache_events(0, 1).ok());
}

}  // namespace
}  // namespace weft::testing
