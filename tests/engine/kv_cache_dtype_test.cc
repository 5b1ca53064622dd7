// --kv-cache-dtype on a small checkpoint: what fits into the same bytes, and values that are refused. (That answers do
// not depend on the arrangement is tests/equivalence; how near int8 stays to float is tests/golden.)
#include <gtest/gtest.h>

#include "support/answers.h"
#include "support/reference_case.h"

namespace weft::testing {
namespace {

Result<std::unique_ptr<Engine>> load(const char* dtype, const char* kv_cache_dtype) {
  auto reference = read_reference_case("llama-3.1");
  EXPECT_TRUE(reference.ok());
  EngineOptions o;
  o.threads = 1, o.dtype = dtype, o.kv_cache_dtype = kv_cache_dtype, o.kv_cache_memory = int64_t{4} << 20;
  return Engine::load(reference->folder, o);
}

// 4 layers of one kv head of 16; a token's key and value have a scale of 4 bytes each.
TEST(KvCacheDtype, BytesPerTokenAndBlocks) {
  struct {
    const char *dtype, *kv;
    int64_t bytes;
  } const cases[] = {{"float32", "auto", 512},     {"bfloat16", "auto", 256}, {"bfloat16", "float32", 512},
                     {"float32", "bfloat16", 256}, {"float32", "int8", 160},  {"bfloat16", "int8", 160}};
  for (const auto& c : cases) {
    auto engine = load(c.dtype, c.kv);
    ASSERT_TRUE(engine.ok()) << engine.error().to_string();
    EXPECT_EQ((*engine)->info().kv_bytes_per_token, c.bytes) << c.dtype << " " << c.kv;
    // Blocks of 32 tokens in whole pages.
    EXPECT_EQ((*engine)->metrics().blocks_total, (int64_t{4} << 20) / ((c.bytes * 32 + 4095) / 4096 * 4096))
        << c.dtype << " " << c.kv;
  }
}

TEST(KvCacheDtype, WhatCannotBeHonouredIsNamed) {
  for (const auto& [value, code] : {std::pair("fp8", Code::unsupported), std::pair("int4", Code::invalid_argument),
                                    std::pair("", Code::invalid_argument)}) {
    const auto engine = load("bfloat16", value);
    ASSERT_FALSE(engine.ok()) << value;
    EXPECT_EQ(engine.error().code(), code) << value;
    EXPECT_EQ(engine.error().param(), "kv-cache-dtype");
    EXPECT_NE(engine.error().message().find("--kv-cache-dtype"), std::string::npos);
  }
}

}  // namespace
}  // namespace weft::testing
