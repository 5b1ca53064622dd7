// --kv-cache-dtype on a small checkpoint: what fits into the same bytes, and what is refused. (That answers do
// not depend on the arrangement is tests/equivalence; how near int8 stays to float is tests/golden.)
#include <gtest/gtest.h>

#include "support/answers.h"
#include "support/reference_case.h"

namespace weft::testing {
namespace {

Result<std::unique_ptr<Engine>> load(ComputeType dtype, KvCacheType kv_cache_dtype) {
  auto reference = read_reference_case("llama-3.1");
  EXPECT_TRUE(reference.ok());
  EngineOptions o;
  o.threads = 1, o.dtype = dtype, o.kv_cache_dtype = kv_cache_dtype, o.kv_cache_memory = int64_t{4} << 20;
  return Engine::load(reference->folder, o);
}

// 4 layers of one kv head of 16; a token's key and value have a scale of 4 bytes each.
TEST(KvCacheDtype, BytesPerTokenAndBlocks) {
  struct {
    ComputeType dtype;
    KvCacheType kv;
    int64_t bytes;
  } const cases[] = {
      {ComputeType::float32, KvCacheType::automatic, 512}, {ComputeType::bfloat16, KvCacheType::automatic, 256},
      {ComputeType::bfloat16, KvCacheType::float32, 512},  {ComputeType::float32, KvCacheType::bfloat16, 256},
      {ComputeType::float32, KvCacheType::int8, 160},      {ComputeType::bfloat16, KvCacheType::int8, 160}};
  for (const auto& c : cases) {
    auto engine = load(c.dtype, c.kv);
    ASSERT_TRUE(engine.ok()) << engine.error().to_string();
    EXPECT_EQ((*engine)->info().kv_bytes_per_token, c.bytes) << name_of(c.dtype) << " " << name_of(c.kv);
    // Blocks of 32 tokens in whole pages.
    EXPECT_EQ((*engine)->metrics().core.blocks().max_blocks, (int64_t{4} << 20) / ((c.bytes * 32 + 4095) / 4096 * 4096))
        << name_of(c.dtype) << " " << name_of(c.kv);
  }
}

TEST(KvCacheDtype, WhatCannotBeHonouredIsNamed) {
  const auto engine = load(ComputeType::bfloat16, KvCacheType::fp8);
  ASSERT_FALSE(engine.ok());
  EXPECT_EQ(engine.error().code(), Code::unsupported);
  EXPECT_EQ(engine.error().param(), "kv-cache-dtype");
  EXPECT_NE(engine.error().message().find("--kv-cache-dtype"), std::string::npos);
}

}  // namespace
}  // namespace weft::testing
