// What the KV cache holds for one layer. The plan declares these, the cache manager is built from them and knows nothing else
// about models.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace weft {

struct CacheSpec {
  // full:   every position is kept.
  // window: a query at position i reads keys j with i - span < j <= i; older blocks are freed.
  // chunk:  a query reads keys of its own chunk, floor(position / span); blocks of finished chunks are freed.
  // latent: MLA; one row of k_dim floats per token, values are the row's first v_dim entries.
  // cross:  keys of the picture tokens, written once per request.
  enum class Kind : uint8_t { full, window, chunk, latent, cross };
  Kind kind = Kind::full;
  int kv_heads = 0;
  int k_dim = 0, v_dim = 0;  // per head
  int span = 0;              // window or chunk length in tokens
  DType dtype = DType::f32;  // f32 or bf16

  bool operator==(const CacheSpec&) const = default;
};

// Numbers that a token takes per layer and head.
constexpr int values_per_token(const CacheSpec& spec) {
  return spec.kind == CacheSpec::Kind::latent ? spec.k_dim : spec.k_dim + spec.v_dim;
}

}  // namespace weft
