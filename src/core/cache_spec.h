// What the KV cache holds for one layer. The plan declares these, the cache manager is built from them and knows
// nothing else about models.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace weft {

struct CacheSpec {
  // full:   every position is kept.
  // window: a query at position i reads keys j with i - span < j <= i; older blocks are freed.
  // chunk:  a query reads keys of its own chunk, floor(position / span); blocks of finished chunks are freed.
  // latent: MLA; one row of k_dim floats per token, values are the row's first v_dim entries.
  // cross:  keys of the image tokens, written once per request.
  enum class Kind : uint8_t { full, window, chunk, latent, cross };
  Kind kind = Kind::full;
  int kv_heads = 0;
  int k_dim = 0, v_dim = 0;  // per head
  int span = 0;              // window or chunk length in tokens
  DType dtype = DType::f32;  // f32, bf16, or i8 with a float32 scale per token, head and key or value

  bool operator==(const CacheSpec&) const = default;
};

// Numbers that a token takes per layer and head.
constexpr int values_per_token(const CacheSpec& spec) {
  return spec.kind == CacheSpec::Kind::latent ? spec.k_dim : spec.k_dim + spec.v_dim;
}
// Bytes that they take: i8 has two scales besides, of the key and of the value (latent: of the two parts of the key).
constexpr int bytes_per_token(const CacheSpec& spec) {
  return values_per_token(spec) * size_bytes(spec.dtype) + (spec.dtype == DType::i8 ? 2 * size_bytes(DType::f32) : 0);
}

}  // namespace weft
