// How the values of a stored tensor are laid out in a file: plain scalars, or GGUF blocks that pack 32 to 256 values
// with their scales. `DType` (core) is what the engine computes and stores with; a StorageType only ever lives in
// files.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/dtype.h"

namespace weft {

enum class StorageType : uint8_t {
  f32,
  f16,
  bf16,
  f64,
  f8_e4m3,
  f8_e5m2,
  f8_e8m0,  // floats
  boolean,
  i8,
  u8,
  i16,
  u16,
  i32,
  u32,
  i64,
  u64,      // integers
  unknown,  // a type that is not read; such a tensor may be there, but not be used
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q8_0,
  q2_k,
  q3_k,
  q4_k,
  q5_k,
  q6_k,
  q1_0,
  q8_1,
  q8_k,
  iq1_s,
  iq1_m,
  iq2_xxs,
  iq2_xs,
  iq2_s,
  iq3_xxs,
  iq3_s,
  iq4_nl,
  iq4_xs,
  tq1_0,
  tq2_0,
  mxfp4,
  nvfp4,  // GGUF blocks
  // no bytes: small values made from name and place (dummy loading)
  random,
  coded,  // a quantised matrix of several tensors (TensorInfo::coded)
};

struct StorageLayout {
  int block_values;  // values in one block; 1 for scalars
  int block_bytes;
};

StorageLayout layout(StorageType type);
const char* name(StorageType type);  // "float32", "q4_k", ...
// True for everything that read_rows() can turn into floats.
bool is_float(StorageType type);
// True for the GGUF block formats.
bool is_blocked(StorageType type);
// The DType with the same bytes, where there is one.
std::optional<DType> plain_dtype(StorageType type);
// From a safetensors header's name ("BF16") or a GGUF tensor's type number; nothing if unknown.
std::optional<StorageType> storage_from_safetensors(std::string_view dtype);
std::string_view safetensors_name(StorageType type);  // "" if that format cannot hold it
std::optional<StorageType> storage_from_ggml(uint32_t type);
// What ggml calls a number that is not read, for messages: "ggml type 99", or the name of a type that was removed.
std::string unknown_ggml_type(uint32_t type);
// The block formats, in the order of StorageType.
std::span<const StorageType> block_types();

}  // namespace weft
