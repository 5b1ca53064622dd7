// The block formats are those of ggml; see checkpoint/dequantize.cc, which widens the same blocks.
#include "plan/quantized_source.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "checkpoint/quant/coded_matrix.h"
#include "kernels/quantize.h"
#include "plan/weight_formats.h"

namespace weft {

using kernels::OffsetKind;
using kernels::ScaleKind;
using kernels::WeightForm;

namespace {

using Byte = uint8_t;

constexpr float kLargestFp8Scale = 256;  // the kernels keep scales times 2^120

uint16_t load_u16(const Byte* p) { return static_cast<uint16_t>(p[0] | (p[1] << 8)); }

// Of a value that float16 can hold.
uint16_t f16_bits(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  const bool normal = magnitude >= 113u << 23;
  const uint32_t rest = normal ? (magnitude - (112u << 23)) >> 13 : static_cast<uint32_t>(std::fabs(value) * 0x1p24f);
  return static_cast<uint16_t>(sign | rest);
}

// 32 values: the low nibbles of 16 bytes, then the high ones.
void nibbles_of_32(const Byte* q, Byte* codes) {
  for (int j = 0; j < 16; ++j) codes[j] = q[j] & 15, codes[j + 16] = q[j] >> 4;
}

// {f16 d, f16 dmin, 12 bytes of 6-bit scales and minima, 128 bytes of nibbles: runs of 32 bytes hold 64 values, low
// nibbles first}
void unpack_q4_k(const Byte* b, Byte* codes, Byte* factors, Byte* minima) {
  const Byte* p = b + 4;
  for (int j = 0; j < 8; ++j) {
    factors[j] = j < 4 ? p[j] & 63 : static_cast<Byte>((p[j + 4] & 15) | ((p[j - 4] >> 6) << 4));
    minima[j] = j < 4 ? p[j + 4] & 63 : static_cast<Byte>((p[j + 4] >> 4) | ((p[j] >> 6) << 4));
  }
  for (int run = 0; run < 4; ++run) {
    const Byte* q = b + 16 + 32 * run;
    for (int l = 0; l < 32; ++l) codes[64 * run + l] = q[l] & 15, codes[64 * run + 32 + l] = q[l] >> 4;
  }
}

// {128 bytes of low nibbles, 64 bytes of high bits, 16 signed scales, f16 d}: halves of 128 values, each four parts of
// 32.
void unpack_q6_k(const Byte* b, Byte* codes) {
  for (int half = 0; half < 2; ++half) {
    const Byte* low = b + 64 * half;
    const Byte* high = b + 128 + 32 * half;
    for (int part = 0; part < 4; ++part)
      for (int l = 0; l < 32; ++l)
        codes[128 * half + 32 * part + l] = static_cast<Byte>(((low[32 * (part & 1) + l] >> (4 * (part >> 1))) & 15) |
                                                              (((high[l] >> (2 * part)) & 3) << 4));
  }
}

}  // namespace

QuantizedSource::QuantizedSource(const kernels::WeightFormat& format, int k, int first_k)
    : format_(format), k_(k), first_k_(first_k) {
  groups_ = (k + format.groups.size - 1) / format.groups.size;
  scale_rows_ = format.groups.scale == ScaleKind::super ? (k + 255) / 256 : groups_;
}

// Room for one more row in every array.
void QuantizedSource::grow() {
  const size_t rows = static_cast<size_t>(rows_) + 1;
  const auto hold = [&](auto& values, int per_row) {
    if (values.size() < rows * static_cast<size_t>(per_row)) values.resize(rows * static_cast<size_t>(per_row));
  };
  hold(codes_, k_);
  if (format_.groups.scale == ScaleKind::f32) hold(scales_, scale_rows_);
  else hold(narrow_scales_, scale_rows_);
  if (format_.groups.offset == OffsetKind::minimum) hold(minima_, scale_rows_);
  if (format_.groups.offset == OffsetKind::zero) hold(zeros_, scale_rows_);
  if (format_.groups.scale == ScaleKind::super) hold(factors_, groups_), hold(offset_factors_, groups_);
}

Status QuantizedSource::append_stored(const TensorInfo& tensor, int64_t first, int64_t count) {
  if (tensor.coded) return append_coded(*tensor.coded, first, count);
  WEFT_TRY(const MappedFile::Pin pin, tensor.pin(first, count));
  for (int64_t row = first; row < first + count; ++row) {
    grow();
    if (format_.form == WeightForm::fp8) WEFT_RETURN_IF_ERROR(append_fp8(tensor, row));
    else append_blocks(tensor.type, stored_row(tensor, row).data());
    ++rows_;
  }
  return {};
}

Status QuantizedSource::check_fp8_scale(const TensorInfo& grid, int64_t row, float scale) const {
  if (!std::isfinite(scale) || std::fabs(scale) < kLargestFp8Scale) return {};
  return fail(Code::unsupported, "tensor ", grid.name, " holds ", scale, " in row ", row,
              ", and weights in 8 bits are computed with scales below ", kLargestFp8Scale,
              " only; --dequantize on widens them when loading");
}

// A transposed source has one scale for all of k, which is that of its first row (stored_format).
Status QuantizedSource::append_transposed(const TensorInfo& tensor, const TensorRows& source, int64_t first,
                                          int64_t count) {
  const int64_t first_row = source.first_row + first_k_, first_col = source.first_col + first;
  WEFT_TRY(const MappedFile::Pin pin, tensor.pin(first_row, k_));
  const TensorInfo& grid = *tensor.scale;
  block_scales_.resize(static_cast<size_t>(grid.cols()));
  const int64_t grid_row = std::min(source.first_row / tensor.scale_block_rows, grid.rows() - 1);
  WEFT_RETURN_IF_ERROR(read_rows(grid, grid_row, 1, block_scales_.data(), grid.cols()));
  const int base = rows_;
  for (int64_t n = 0; n < count; ++n, ++rows_) {
    grow();
    const float scale = block_scales_[static_cast<size_t>((first_col + n) / tensor.scale_block_cols)];
    WEFT_RETURN_IF_ERROR(check_fp8_scale(grid, grid_row, scale));
    std::fill_n(scales_.begin() + static_cast<ptrdiff_t>(rows_) * groups_, groups_, scale);
  }
  for (int i = 0; i < k_; ++i) {
    const std::byte* row = stored_row(tensor, first_row + i).data() + first_col;
    for (int64_t n = 0; n < count; ++n) codes_[static_cast<size_t>((base + n) * k_ + i)] = static_cast<uint8_t>(row[n]);
  }
  return {};
}

Status QuantizedSource::append_fp8(const TensorInfo& tensor, int64_t row) {
  std::memcpy(codes_.data() + static_cast<int64_t>(rows_) * k_, stored_row(tensor, row).data() + first_k_,
              static_cast<size_t>(k_));
  const TensorInfo& grid = *tensor.scale;
  const int64_t grid_row = std::min(row / tensor.scale_block_rows, grid.rows() - 1);
  block_scales_.resize(static_cast<size_t>(grid.cols()));
  WEFT_RETURN_IF_ERROR(read_rows(grid, grid_row, 1, block_scales_.data(), grid.cols()));
  for (int group = 0; group < groups_; ++group) {
    const float scale = block_scales_[static_cast<size_t>(first_k_ / format_.groups.size + group)];
    WEFT_RETURN_IF_ERROR(check_fp8_scale(grid, grid_row, scale));
    scales_[static_cast<size_t>(rows_ * groups_ + group)] = scale;
  }
  return {};
}

// Columns [first_k_, first_k_ + k_) in the order of their groups.
Status QuantizedSource::append_coded(const CodedMatrix& m, int64_t first, int64_t count) {
  const bool ordered = !m.column_order.empty();
  const int64_t width = ordered ? m.cols() : k_, from = ordered ? 0 : first_k_;
  const int64_t first_group = first_k_ / format_.groups.size;
  fields_.resize(static_cast<size_t>(count * width));
  WEFT_RETURN_IF_ERROR(m.codes.read(first, count, from, width, fields_.data(), width));
  block_scales_.resize(static_cast<size_t>(count * m.groups));
  WEFT_RETURN_IF_ERROR(m.read_scales(first, count, block_scales_.data()));
  std::vector<uint8_t> zeros(static_cast<size_t>(count * m.groups));
  if (format_.groups.offset == OffsetKind::zero) WEFT_RETURN_IF_ERROR(m.read_zeros(first, count, zeros.data()));
  // int8 codes are two's complement: 128 less, which is the highest bit inverted.
  const bool int8 = format_.form == WeightForm::int8;
  const int shift = format_.groups.offset == OffsetKind::zero || m.levels
                        ? 0
                        : code_shift(m, int8 ? 128 : 8, int8 ? 255 : 15).value_or(0);
  for (int64_t r = 0; r < count; ++r, ++rows_) {
    grow();
    const uint8_t* fields = fields_.data() + r * width;
    uint8_t* codes = codes_.data() + static_cast<int64_t>(rows_) * k_;
    for (int i = 0; i < k_; ++i) {
      const int64_t at = ordered ? m.column_order[static_cast<size_t>(first_k_ + i)] : i;
      codes[i] = static_cast<uint8_t>(static_cast<int>(fields[at]) + shift) ^ (int8 ? 0x80 : 0);
    }
    for (int g = 0; g < groups_; ++g) {
      const auto stored = static_cast<size_t>(r * m.groups + first_group + g),
                 at = static_cast<size_t>(rows_ * groups_ + g);
      const float scale = block_scales_[stored];
      if (format_.groups.scale == ScaleKind::f32) scales_[at] = scale;
      else narrow_scales_[at] = format_.groups.scale == ScaleKind::bf16 ? float_to_bf16(scale) : f16_bits(scale);
      if (format_.groups.offset == OffsetKind::zero) zeros_[at] = zeros[stored];
    }
  }
  return {};
}

void QuantizedSource::append_blocks(StorageType type, const std::byte* blocks) {
  const StorageLayout shape = layout(type);
  const Byte* b = reinterpret_cast<const Byte*>(blocks) + first_k_ / shape.block_values * shape.block_bytes;
  Byte* codes = codes_.data() + static_cast<int64_t>(rows_) * k_;
  for (int i = 0; i < k_ / shape.block_values; ++i, b += shape.block_bytes, codes += shape.block_values) {
    const size_t at = static_cast<size_t>(rows_ * scale_rows_ + i);
    switch (type) {
      case StorageType::q8_0:
        narrow_scales_[at] = load_u16(b);
        std::memcpy(codes, b + 2, 32);
        break;
      case StorageType::q4_0:
        narrow_scales_[at] = load_u16(b);
        nibbles_of_32(b + 2, codes);
        break;
      case StorageType::q4_1:
        narrow_scales_[at] = load_u16(b), minima_[at] = load_u16(b + 2);
        nibbles_of_32(b + 4, codes);
        break;
      case StorageType::q4_k: {
        narrow_scales_[at] = load_u16(b), minima_[at] = load_u16(b + 2);
        const size_t group = static_cast<size_t>(rows_ * groups_ + 8 * i);
        unpack_q4_k(b, codes, factors_.data() + group, offset_factors_.data() + group);
        break;
      }
      case StorageType::q6_k:
        narrow_scales_[at] = load_u16(b + 208);
        std::memcpy(factors_.data() + static_cast<size_t>(rows_ * groups_ + 16 * i), b + 192, 16);
        unpack_q6_k(b, codes);
        break;
      default: WEFT_CHECK(false) << name(type) << " is not kept in its bits";
    }
  }
}

void QuantizedSource::append_floats(const float* row) {
  grow();
  kernels::quantize_row(format_, row, k_, codes_.data() + static_cast<int64_t>(rows_) * k_,
                        narrow_scales_.data() + static_cast<int64_t>(rows_) * groups_);
  ++rows_;
}

kernels::QuantizedRows QuantizedSource::rows() const {
  kernels::QuantizedRows r{.rows = rows_, .k = k_, .codes = codes_.data()};
  r.scales = format_.groups.scale == ScaleKind::f32 ? static_cast<const void*>(scales_.data())
                                                    : static_cast<const void*>(narrow_scales_.data());
  r.offsets = format_.groups.offset == OffsetKind::zero ? static_cast<const void*>(zeros_.data())
                                                        : static_cast<const void*>(minima_.data());
  r.factors = factors_.data(), r.offset_factors = offset_factors_.data();
  return r;
}

}  // namespace weft
