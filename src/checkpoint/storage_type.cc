#include "checkpoint/storage_type.h"

namespace weft {

StorageLayout layout(StorageType type) {
  switch (type) {
    case StorageType::f64:
    case StorageType::i64:
    case StorageType::u64: return {1, 8};
    case StorageType::f32:
    case StorageType::i32:
    case StorageType::u32: return {1, 4};
    case StorageType::f16:
    case StorageType::bf16:
    case StorageType::i16:
    case StorageType::u16: return {1, 2};
    case StorageType::f8_e4m3:
    case StorageType::f8_e5m2:
    case StorageType::f8_e8m0:
    case StorageType::boolean:
    case StorageType::i8:
    case StorageType::u8: return {1, 1};
    case StorageType::q4_0: return {32, 18};
    case StorageType::q4_1: return {32, 20};
    case StorageType::q5_0: return {32, 22};
    case StorageType::q5_1: return {32, 24};
    case StorageType::q8_0: return {32, 34};
    case StorageType::q2_k: return {256, 84};
    case StorageType::q3_k: return {256, 110};
    case StorageType::q4_k: return {256, 144};
    case StorageType::q5_k: return {256, 176};
    case StorageType::q6_k: return {256, 210};
    case StorageType::unknown:
    case StorageType::random:
    case StorageType::coded: return {1, 0};
  }
  return {1, 0};
}

const char* name(StorageType type) {
  switch (type) {
    case StorageType::f32: return "float32";
    case StorageType::f16: return "float16";
    case StorageType::bf16: return "bfloat16";
    case StorageType::f64: return "float64";
    case StorageType::f8_e4m3: return "float8_e4m3";
    case StorageType::f8_e5m2: return "float8_e5m2";
    case StorageType::f8_e8m0: return "float8_e8m0";
    case StorageType::boolean: return "bool";
    case StorageType::i8: return "int8";
    case StorageType::u8: return "uint8";
    case StorageType::i16: return "int16";
    case StorageType::u16: return "uint16";
    case StorageType::i32: return "int32";
    case StorageType::u32: return "uint32";
    case StorageType::i64: return "int64";
    case StorageType::u64: return "uint64";
    case StorageType::q4_0: return "q4_0";
    case StorageType::q4_1: return "q4_1";
    case StorageType::q5_0: return "q5_0";
    case StorageType::q5_1: return "q5_1";
    case StorageType::q8_0: return "q8_0";
    case StorageType::q2_k: return "q2_k";
    case StorageType::q3_k: return "q3_k";
    case StorageType::q4_k: return "q4_k";
    case StorageType::q5_k: return "q5_k";
    case StorageType::q6_k: return "q6_k";
    case StorageType::unknown: return "a type that is not read";
    case StorageType::random: return "random";
    case StorageType::coded: return "quantised";
  }
  return "unknown";
}

bool is_float(StorageType type) { return type <= StorageType::f8_e8m0 || type >= StorageType::q4_0; }

bool is_blocked(StorageType type) { return type >= StorageType::q4_0 && type <= StorageType::q6_k; }

std::optional<DType> plain_dtype(StorageType type) {
  switch (type) {
    case StorageType::f32: return DType::f32;
    case StorageType::f16: return DType::f16;
    case StorageType::bf16: return DType::bf16;
    case StorageType::f64: return DType::f64;
    case StorageType::f8_e4m3: return DType::f8_e4m3;
    case StorageType::boolean: return DType::boolean;
    case StorageType::i8: return DType::i8;
    case StorageType::u8: return DType::u8;
    case StorageType::i16: return DType::i16;
    case StorageType::i32: return DType::i32;
    case StorageType::i64: return DType::i64;
    default: return std::nullopt;
  }
}

namespace {

struct SafetensorsName {
  std::string_view name;
  StorageType type;
};

constexpr SafetensorsName kSafetensorsNames[] = {
    {"F32", StorageType::f32},         {"F16", StorageType::f16},         {"BF16", StorageType::bf16},
    {"F64", StorageType::f64},         {"F8_E4M3", StorageType::f8_e4m3}, {"F8_E5M2", StorageType::f8_e5m2},
    {"F8_E8M0", StorageType::f8_e8m0}, {"BOOL", StorageType::boolean},    {"I8", StorageType::i8},
    {"U8", StorageType::u8},           {"I16", StorageType::i16},         {"U16", StorageType::u16},
    {"I32", StorageType::i32},         {"U32", StorageType::u32},         {"I64", StorageType::i64},
    {"U64", StorageType::u64},
};

}  // namespace

std::optional<StorageType> storage_from_safetensors(std::string_view dtype) {
  for (const SafetensorsName& entry : kSafetensorsNames)
    if (entry.name == dtype) return entry.type;
  return std::nullopt;
}

std::string_view safetensors_name(StorageType type) {
  for (const SafetensorsName& entry : kSafetensorsNames)
    if (entry.type == type) return entry.name;
  return {};
}

std::optional<StorageType> storage_from_ggml(uint32_t type) {
  switch (type) {
    case 0: return StorageType::f32;
    case 1: return StorageType::f16;
    case 2: return StorageType::q4_0;
    case 3: return StorageType::q4_1;
    case 6: return StorageType::q5_0;
    case 7: return StorageType::q5_1;
    case 8: return StorageType::q8_0;
    case 10: return StorageType::q2_k;
    case 11: return StorageType::q3_k;
    case 12: return StorageType::q4_k;
    case 13: return StorageType::q5_k;
    case 14: return StorageType::q6_k;
    case 24: return StorageType::i8;
    case 25: return StorageType::i16;
    case 26: return StorageType::i32;
    case 27: return StorageType::i64;
    case 28: return StorageType::f64;
    case 30: return StorageType::bf16;
    default: return std::nullopt;
  }
}

}  // namespace weft
