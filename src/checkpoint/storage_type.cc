#include "checkpoint/storage_type.h"

#include <array>
#include <utility>

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
    case StorageType::q1_0: return {128, 18};
    case StorageType::q8_1: return {32, 36};
    case StorageType::q8_k: return {256, 292};
    case StorageType::iq1_s: return {256, 50};
    case StorageType::iq1_m: return {256, 56};
    case StorageType::iq2_xxs: return {256, 66};
    case StorageType::iq2_xs: return {256, 74};
    case StorageType::iq2_s: return {256, 82};
    case StorageType::iq3_xxs: return {256, 98};
    case StorageType::iq3_s: return {256, 110};
    case StorageType::iq4_nl: return {32, 18};
    case StorageType::iq4_xs: return {256, 136};
    case StorageType::tq1_0: return {256, 54};
    case StorageType::tq2_0: return {256, 66};
    case StorageType::mxfp4: return {32, 17};
    case StorageType::nvfp4: return {64, 36};
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
    case StorageType::q1_0: return "q1_0";
    case StorageType::q8_1: return "q8_1";
    case StorageType::q8_k: return "q8_k";
    case StorageType::iq1_s: return "iq1_s";
    case StorageType::iq1_m: return "iq1_m";
    case StorageType::iq2_xxs: return "iq2_xxs";
    case StorageType::iq2_xs: return "iq2_xs";
    case StorageType::iq2_s: return "iq2_s";
    case StorageType::iq3_xxs: return "iq3_xxs";
    case StorageType::iq3_s: return "iq3_s";
    case StorageType::iq4_nl: return "iq4_nl";
    case StorageType::iq4_xs: return "iq4_xs";
    case StorageType::tq1_0: return "tq1_0";
    case StorageType::tq2_0: return "tq2_0";
    case StorageType::mxfp4: return "mxfp4";
    case StorageType::nvfp4: return "nvfp4";
    case StorageType::unknown: return "a type that is not read";
    case StorageType::random: return "random";
    case StorageType::coded: return "quantised";
  }
  return "unknown";
}

bool is_float(StorageType type) { return type <= StorageType::f8_e8m0 || type >= StorageType::q4_0; }

bool is_blocked(StorageType type) { return type >= StorageType::q4_0 && type <= StorageType::nvfp4; }

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

namespace {

struct GgmlNumber {
  uint32_t number;
  StorageType type;
};

// GGUF's numbers of types (ggml.h, enum ggml_type).
constexpr GgmlNumber kGgmlNumbers[] = {
    {0, StorageType::f32},      {1, StorageType::f16},     {2, StorageType::q4_0},     {3, StorageType::q4_1},
    {6, StorageType::q5_0},     {7, StorageType::q5_1},    {8, StorageType::q8_0},     {9, StorageType::q8_1},
    {10, StorageType::q2_k},    {11, StorageType::q3_k},   {12, StorageType::q4_k},    {13, StorageType::q5_k},
    {14, StorageType::q6_k},    {15, StorageType::q8_k},   {16, StorageType::iq2_xxs}, {17, StorageType::iq2_xs},
    {18, StorageType::iq3_xxs}, {19, StorageType::iq1_s},  {20, StorageType::iq4_nl},  {21, StorageType::iq3_s},
    {22, StorageType::iq2_s},   {23, StorageType::iq4_xs}, {24, StorageType::i8},      {25, StorageType::i16},
    {26, StorageType::i32},     {27, StorageType::i64},    {28, StorageType::f64},     {29, StorageType::iq1_m},
    {30, StorageType::bf16},    {34, StorageType::tq1_0},  {35, StorageType::tq2_0},   {39, StorageType::mxfp4},
    {40, StorageType::nvfp4},   {41, StorageType::q1_0},
};

// Numbers that ggml no longer reads.
constexpr std::pair<uint32_t, const char*> kRemovedGgml[] = {{4, "Q4_2"},        {5, "Q4_3"},       {31, "Q4_0_4_4"},
                                                             {32, "Q4_0_4_8"},   {33, "Q4_0_8_8"},  {36, "IQ4_NL_4_4"},
                                                             {37, "IQ4_NL_4_8"}, {38, "IQ4_NL_8_8"}};

constexpr auto kBlockTypes = [] {
  std::array<StorageType, static_cast<size_t>(StorageType::nvfp4) - static_cast<size_t>(StorageType::q4_0) + 1> all{};
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<StorageType>(static_cast<size_t>(StorageType::q4_0) + i);
  return all;
}();

}  // namespace

std::optional<StorageType> storage_from_ggml(uint32_t type) {
  for (const GgmlNumber& entry : kGgmlNumbers)
    if (entry.number == type) return entry.type;
  return std::nullopt;
}

std::string unknown_ggml_type(uint32_t type) {
  for (const auto& [number, name] : kRemovedGgml)
    if (number == type) return std::string(name) + ", which ggml has removed";
  return "ggml type " + std::to_string(type);
}

std::span<const StorageType> block_types() { return kBlockTypes; }

}  // namespace weft
