// What the kernels' conformance tests share: every table that can be tested here, operands with known values, and runs
// in parts.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace weft::kernels {

// available_tables(), and tables of other instruction sets under emulation.
std::vector<const CpuTable*> tested_tables();

inline std::string table_name(const ::testing::TestParamInfo<const CpuTable*>& info) { return info.param->isa; }

class TableTest : public ::testing::TestWithParam<const CpuTable*> {
 protected:
  const CpuTable& table() const { return *GetParam(); }
};
#define WEFT_TEST_TABLES(suite) \
  INSTANTIATE_TEST_SUITE_P(Tables, suite, ::testing::ValuesIn(tested_tables()), table_name)

// Calls work once for each part of 1, 2, 3 and 5, and returns what `result` holds after each; `clear` empties it
// before.
inline const int kPartCounts[] = {1, 2, 3, 5};
inline void in_parts(int count, const std::function<void(Part)>& work) {
  for (int i = count - 1; i >= 0; --i) work({i, count});  // backwards: no part may rely on an earlier one
}

inline std::vector<float> random_floats(size_t count, uint32_t seed, float low = -1.0f, float high = 1.0f) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> uniform(low, high);
  std::vector<float> values(count);
  for (float& value : values) value = uniform(generator);
  return values;
}

inline float rounded_bf16(float value) { return bf16_to_float(float_to_bf16(value)); }

// The float bits, so that NaN and signed zeros compare too.
inline std::vector<uint32_t> bits_of(const std::vector<float>& values) {
  std::vector<uint32_t> bits(values.size());
  if (!values.empty()) std::memcpy(bits.data(), values.data(), values.size() * 4);
  return bits;
}

// Rows of values as a matrix product's operand, with the leading dimension ld (in elements); what lies between rows is
// NaN.
inline std::vector<std::byte> as_operand(const std::vector<float>& values, int rows, int cols, int64_t ld,
                                         Operand operand) {
  std::vector<std::byte> bytes(static_cast<size_t>(rows * ld + 2) * static_cast<size_t>(operand_size_bytes(operand)),
                               std::byte{0xff});
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < cols; ++c) {
      const float value = values[static_cast<size_t>(r) * static_cast<size_t>(cols) + static_cast<size_t>(c)];
      const size_t index = static_cast<size_t>(r * ld + c);
      const float kept = operand == Operand::f32 ? value : rounded_bf16(value);
      const uint16_t half = float_to_bf16(value);
      if (operand == Operand::bf16) std::memcpy(bytes.data() + index * 2, &half, 2);
      else std::memcpy(bytes.data() + index * 4, &kept, 4);
    }
    if (operand == Operand::bf16 && cols % 2 != 0)
      std::memset(bytes.data() + static_cast<size_t>(r * ld + cols) * 2, 0, 2);
  }
  return bytes;
}

// Element (r, c) of an operand.
inline float operand_at(const std::vector<std::byte>& bytes, int64_t ld, int r, int c, Operand operand) {
  const size_t index = static_cast<size_t>(r * ld + c);
  uint16_t half = 0;
  float value = 0;
  if (operand == Operand::bf16) {
    std::memcpy(&half, bytes.data() + index * 2, 2);
    return bf16_to_float(half);
  }
  std::memcpy(&value, bytes.data() + index * 4, 4);
  return value;
}

// A packed matrix that owns its memory.
struct Packed {
  std::vector<std::byte> bytes;
  PackedMatrix matrix;
};
inline Packed packed(const CpuTable& table, WeightForm form, const std::vector<float>& weights, int out, int k,
                     int shards) {
  Packed p;
  const int panel = table.panel_cols(form), panels = (out + panel - 1) / panel;
  const size_t panel_bytes = table.panel_bytes(form, k);
  p.bytes.resize(panel_bytes * static_cast<size_t>(panels) + 64, std::byte{0xff});
  const size_t skew = (64 - reinterpret_cast<uintptr_t>(p.bytes.data()) % 64) % 64;
  for (int i = 0; i < panels; ++i) {
    table.pack_panel(form, weights.data() + static_cast<size_t>(i * panel) * static_cast<size_t>(k), k,
                     std::min(panel, out - i * panel), k, p.bytes.data() + skew + panel_bytes * static_cast<size_t>(i));
  }
  p.matrix = {.form = form,
              .out = out,
              .k = k,
              .panel = panel,
              .panel_bytes = panel_bytes,
              .shards = shards,
              .data = p.bytes.data() + skew};
  return p;
}

}  // namespace weft::kernels
