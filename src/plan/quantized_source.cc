// The block formats are those of ggml; see checkpoint/dequantize.cc, which widens the same blocks.
#include "plan/quantized_source.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "checkpoint/dequantize.h"
#include "checkpoint/quant/coded_matrix.h"
#include "checkpoint/store_floats.h"
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

// 32 values: the low nibbles of 16 bytes, then the high ones.
void nibbles_of_32(const Byte* q, Byte* codes) {
  for (int j = 0; j < 16; ++j) codes[j] = q[j] & 15, codes[j + 16] = q[j] >> 4;
}

// The same with the fifth bits in a word before them; `center` is added.
void five_bits_of_32(const Byte* high, const Byte* q, int center, Byte* codes) {
  nibbles_of_32(q, codes);
  for (int j = 0; j < 32; ++j) codes[j] = static_cast<Byte>((codes[j] | (high[j / 8] >> (j % 8) & 1) << 4) + center);
}

// 12 bytes of 6-bit scales and minima of eight groups.
void unpack_scales(const Byte* p, Byte* factors, Byte* minima) {
  for (int j = 0; j < 8; ++j) {
    factors[j] = j < 4 ? p[j] & 63 : static_cast<Byte>((p[j + 4] & 15) | ((p[j - 4] >> 6) << 4));
    minima[j] = j < 4 ? p[j + 4] & 63 : static_cast<Byte>((p[j + 4] >> 4) | ((p[j] >> 6) << 4));
  }
}

// 128 bytes of nibbles: runs of 32 bytes hold 64 values, low nibbles first.
void unpack_q4_k(const Byte* nibbles, Byte* codes) {
  for (int run = 0; run < 4; ++run) {
    const Byte* q = nibbles + 32 * run;
    for (int l = 0; l < 32; ++l) codes[64 * run + l] = q[l] & 15, codes[64 * run + 32 + l] = q[l] >> 4;
  }
}

// Two runs of 32 bytes of 2-bit codes: bits 0-1 the first 32 values.
Byte two_bits(const Byte* q, int i) { return static_cast<Byte>(q[32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4)) & 3); }

// {16 bytes of a 4-bit scale and minimum, 64 bytes of 2-bit codes, f16 d, f16 dmin}
void unpack_q2_k(const Byte* b, Byte* codes, Byte* factors, Byte* minima) {
  for (int j = 0; j < 16; ++j) factors[j] = b[j] & 15, minima[j] = b[j] >> 4;
  for (int i = 0; i < 256; ++i) codes[i] = two_bits(b + 16, i);
}

// {32 bytes of third bits, 64 bytes of 2-bit codes, 12 bytes of 6-bit scales, f16 d}: codes from -4 to 3 about 32, and
// signed scales.
void unpack_q3_k(const Byte* b, Byte* codes, Byte* factors) {
  const Byte* packed = b + 96;
  for (int j = 0; j < 16; ++j) {
    const int low = j < 8 ? packed[j] & 15 : packed[j - 8] >> 4;
    factors[j] = static_cast<Byte>((low | (packed[8 + j % 4] >> (2 * (j / 4)) & 3) << 4) - 32);
  }
  for (int i = 0; i < 256; ++i)
    codes[i] = static_cast<Byte>(two_bits(b + 32, i) + (b[i % 32] >> (i / 32) & 1) * 4 + 32 - 4);
}

// Where the float16 scale of a block is that has one.
int half_at(StorageType type) { return type == StorageType::tq1_0 ? 52 : type == StorageType::tq2_0 ? 64 : 0; }

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
    if (tensor.type != StorageType::f8_e4m3 && tensor.type != StorageType::f8_e5m2 && !last_scales_are_finite())
      return fail(Code::data_corrupt, "tensor ", tensor.name, " has a block in row ", row,
                  " whose scale is not finite");
    ++rows_;
  }
  return {};
}

// Of the row that has just been appended.
bool QuantizedSource::last_scales_are_finite() const {
  const auto first = static_cast<size_t>(rows_) * static_cast<size_t>(scale_rows_),
             count = static_cast<size_t>(scale_rows_);
  if (format_.groups.scale == ScaleKind::f32) {
    for (size_t i = first; i < first + count; ++i)
      if (!std::isfinite(scales_[i])) return false;
    return true;
  }
  const uint16_t exponent = format_.groups.scale == ScaleKind::bf16 ? 0x7f80 : 0x7c00;
  const auto finite = [&](const std::vector<uint16_t>& halves) {
    for (size_t i = first; i < first + count; ++i)
      if ((halves[i] & exponent) == exponent) return false;
    return true;
  };
  return finite(narrow_scales_) && (format_.groups.offset != OffsetKind::minimum || finite(minima_));
}

Status QuantizedSource::check_fp8_scale(const TensorInfo& grid, int64_t row, float scale) const {
  if (!std::isfinite(scale))
    return fail(Code::data_corrupt, "tensor ", grid.name, " holds ", scale, " in row ", row,
                ", and a scale must be finite");
  if (std::fabs(scale) < kLargestFp8Scale) return {};
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
      else narrow_scales_[at] = format_.groups.scale == ScaleKind::bf16 ? float_to_bf16(scale) : float_to_f16(scale);
      if (format_.groups.offset == OffsetKind::zero) zeros_[at] = zeros[stored];
    }
  }
  return {};
}

void QuantizedSource::append_blocks(StorageType type, const std::byte* blocks) {
  if (is_code_block(type)) return append_codes(type, blocks);
  const StorageLayout shape = layout(type);
  const Byte* b = reinterpret_cast<const Byte*>(blocks) + first_k_ / shape.block_values * shape.block_bytes;
  Byte* codes = codes_.data() + static_cast<int64_t>(rows_) * k_;
  for (int i = 0; i < k_ / shape.block_values; ++i, b += shape.block_bytes, codes += shape.block_values)
    append_block(type, b, i, codes);
}

// Block `index` of the row at hand.
void QuantizedSource::append_block(StorageType type, const Byte* b, int index, Byte* codes) {
  const size_t at = static_cast<size_t>(rows_ * scale_rows_ + index);
  const size_t group = static_cast<size_t>(rows_ * groups_ + layout(type).block_values / format_.groups.size * index);
  Byte* factors = factors_.data() + group;
  Byte* minimum_factors = offset_factors_.data() + group;
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
    case StorageType::q5_0:
      narrow_scales_[at] = load_u16(b);
      five_bits_of_32(b + 2, b + 6, 16, codes);
      break;
    case StorageType::q5_1:
      narrow_scales_[at] = load_u16(b), minima_[at] = load_u16(b + 2);
      five_bits_of_32(b + 4, b + 8, 0, codes);
      break;
    case StorageType::q2_k:
      narrow_scales_[at] = load_u16(b + 80), minima_[at] = load_u16(b + 82);
      unpack_q2_k(b, codes, factors, minimum_factors);
      break;
    case StorageType::q3_k:
      narrow_scales_[at] = load_u16(b + 108);
      unpack_q3_k(b, codes, factors);
      break;
    case StorageType::q4_k:
      narrow_scales_[at] = load_u16(b), minima_[at] = load_u16(b + 2);
      unpack_scales(b + 4, factors, minimum_factors);
      unpack_q4_k(b + 16, codes);
      break;
    case StorageType::q5_k:
      narrow_scales_[at] = load_u16(b), minima_[at] = load_u16(b + 2);
      unpack_scales(b + 4, factors, minimum_factors);
      unpack_q4_k(b + 48, codes);
      for (int i = 0; i < 256; ++i) codes[i] |= static_cast<Byte>((b[16 + i % 32] >> (i / 32) & 1) << 4);
      break;
    case StorageType::q6_k:
      narrow_scales_[at] = load_u16(b + 208);
      std::memcpy(factors, b + 192, 16);
      unpack_q6_k(b, codes);
      break;
    default: WEFT_CHECK(false) << name(type) << " is not kept in its bits";
  }
}

// Formats whose values are codes times scales (block_codes()); a cut may be inside a block.
void QuantizedSource::append_codes(StorageType type, const std::byte* blocks) {
  const StorageLayout shape = layout(type);
  Byte* out = codes_.data() + static_cast<int64_t>(rows_) * k_;
  // IQ3_XXS has even codes; halved, they fit into 6 bits, and twice a scale is exact.
  const int divisor = type == StorageType::iq3_xxs ? 2 : 1;
  const int center = format_.form == WeightForm::int4 ? 8 : format_.form == WeightForm::int6 ? 32 : 0;
  int8_t codes[kMostBlockValues] = {};
  float scales[kMostBlockGroups] = {};
  for (int k = 0; k < k_;) {
    const int column = first_k_ + k, skip = column % shape.block_values;
    const std::byte* block = blocks + column / shape.block_values * shape.block_bytes;
    const int size = block_codes(type, block, codes, scales);
    const int count = std::min(k_ - k, shape.block_values - skip);
    for (int i = 0; i < count; ++i) out[k + i] = static_cast<Byte>(codes[skip + i] / divisor + center);
    for (int i = 0; i < count; i += format_.groups.size) {
      const size_t at = static_cast<size_t>(rows_ * groups_ + (k + i) / format_.groups.size);
      const float scale = scales[(skip + i) / size] * static_cast<float>(divisor);
      if (format_.groups.scale == ScaleKind::f32) scales_[at] = scale;
      else if (format_.groups.scale == ScaleKind::f16)
        narrow_scales_[at] = load_u16(reinterpret_cast<const Byte*>(block) + half_at(type));
      else narrow_scales_[at] = float_to_bf16(scale);
    }
    k += count;
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
