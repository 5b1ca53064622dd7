#include "checkpoint/quant/coded_matrix.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"
#include "checkpoint/dequantize.h"

namespace weft {
namespace {

constexpr int64_t kRows = 64;  // read at a time

Status widen(const TensorInfo& tensor, int64_t first, int64_t count, float* out) {
  const int size = layout(tensor.type).block_bytes;
  const auto part = tensor.data.subspan(static_cast<size_t>(first * size), static_cast<size_t>(count * size));
  WEFT_TRY(const MappedFile::Pin pin, tensor.pin(part));
  dequantize(tensor.type, part.data(), count, out);
  return {};
}

Status check_finite(const TensorInfo& scales, int64_t first, std::span<const float> values) {
  for (size_t i = 0; i < values.size(); ++i)
    if (!std::isfinite(values[i]))
      return fail(Code::data_corrupt, "tensor ", scales.name, ": value ", first + static_cast<int64_t>(i), " is ",
                  values[i], ", and a scale must be finite");
  return {};
}

}  // namespace

Status ScaleGrid::read(int64_t first, int64_t count, float* out) const {
  if (nested) {
    const auto part = values.data.subspan(static_cast<size_t>(first), static_cast<size_t>(count));
    WEFT_TRY(const MappedFile::Pin pin, values.pin(part));
    const int64_t block = nested->outer_block, begin = first / block, end = (first + count - 1) / block + 1;
    std::vector<float> outer(static_cast<size_t>(end - begin));
    WEFT_RETURN_IF_ERROR(widen(nested->outer, begin, end - begin, outer.data()));
    for (int64_t i = 0; i < count; ++i)
      out[i] = nested->levels[static_cast<size_t>(part[static_cast<size_t>(i)])] *
                   outer[static_cast<size_t>((first + i) / block - begin)] +
               nested->offset;
  } else {
    WEFT_RETURN_IF_ERROR(widen(values, first, count, out));
  }
  if (divided)
    for (int64_t i = 0; i < count; ++i) out[i] /= factor;
  else if (factor != 1)
    for (int64_t i = 0; i < count; ++i) out[i] *= factor;
  return check_finite(values, first, {out, static_cast<size_t>(count)});
}

std::string CodedMatrix::describe() const {
  std::string text = format + ", " + std::to_string(codes.bits) + " bits";
  if (flat_block > 0) return text + ", blocks of " + std::to_string(flat_block);
  if (groups > 1) text += ", groups of " + std::to_string(group_size);
  else if (scales.row_block > 1) text += ", one scale";
  else text += ", a scale per row";
  if (zeros) text += ", zero points";
  if (!group_of.empty()) text += ", act order";
  if (input_factors) text += ", input factors";
  return text;
}

int64_t CodedMatrix::stored_bytes() const {
  size_t bytes = codes.tensor.data.size() + scales.values.data.size();
  if (zeros) bytes += zeros->tensor.data.size();
  if (scales.nested) bytes += scales.nested->outer.data.size();
  if (input_factors) bytes += input_factors->data.size();
  return static_cast<int64_t>(bytes);
}

Status CodedMatrix::read_scales(int64_t first_row, int64_t count, float* out) const {
  WEFT_CHECK(flat_block == 0) << module;
  // Lists that lie as they are asked for are read at once, [groups, rows] group by group, and all else one by one.
  const auto at = [&](int64_t row, int64_t group) {
    return row / scales.row_block * scales.row_stride + group * scales.group_stride;
  };
  if (scales.group_stride == 1 || groups == 1) {
    for (int64_t r = 0; r < count; ++r) {
      if (r > 0 && at(first_row + r, 0) == at(first_row + r - 1, 0)) {
        std::copy_n(out + (r - 1) * groups, groups, out + r * groups);
        continue;
      }
      WEFT_RETURN_IF_ERROR(scales.read(at(first_row + r, 0), groups, out + r * groups));
    }
    return {};
  }
  WEFT_CHECK(scales.row_block == 1 && scales.row_stride == 1) << module;
  std::vector<float> column(static_cast<size_t>(count));
  for (int64_t g = 0; g < groups; ++g) {
    WEFT_RETURN_IF_ERROR(scales.read(at(first_row, g), count, column.data()));
    for (int64_t r = 0; r < count; ++r) out[r * groups + g] = column[static_cast<size_t>(r)];
  }
  return {};
}

Status CodedMatrix::read_zeros(int64_t first_row, int64_t count, uint8_t* out) const {
  if (!zeros) {
    std::fill_n(out, count * groups, static_cast<uint8_t>(zero));
    return {};
  }
  WEFT_RETURN_IF_ERROR(zeros->read(first_row, count, 0, groups, out, groups));
  for (int64_t i = 0; i < count * groups; ++i) {
    const int value = out[i] + zero_added;
    if (value < 0 || value > max_zero)
      return fail(Code::data_corrupt, "tensor ", zeros->tensor.name, " holds ", static_cast<int>(out[i]), " for row ",
                  first_row + i / groups, " and group ", i % groups, ", a zero point of ", value,
                  ", which is not one from 0 to ", max_zero);
    out[i] = static_cast<uint8_t>(value);
  }
  return {};
}

Status CodedMatrix::prepare() {
  if (!group_of.empty()) {
    column_order.resize(group_of.size());
    std::iota(column_order.begin(), column_order.end(), 0);
    std::stable_sort(column_order.begin(), column_order.end(), [&](int32_t a, int32_t b) {
      return group_of[static_cast<size_t>(a)] < group_of[static_cast<size_t>(b)];
    });
    for (size_t i = 0; i < column_order.size(); ++i)
      whole_groups =
          whole_groups && group_of[static_cast<size_t>(column_order[i])] == static_cast<int64_t>(i) / group_size;
  }
  if (input_factors) {
    std::vector<float> factors(static_cast<size_t>(cols()));
    WEFT_RETURN_IF_ERROR(widen(*input_factors, 0, cols(), factors.data()));
    WEFT_RETURN_IF_ERROR(check_finite(*input_factors, 0, factors));
  }
  sole_zero = zero;
  if (!zeros || levels) return {};
  sole_zero.reset();
  std::vector<uint8_t> part(static_cast<size_t>(std::min(kRows, rows()) * groups));
  for (int64_t row = 0; row < rows(); row += kRows) {
    const int64_t count = std::min(kRows, rows() - row);
    WEFT_RETURN_IF_ERROR(read_zeros(row, count, part.data()));
    if (row == 0) sole_zero = part[0];
    if (std::any_of(part.begin(), part.begin() + count * groups, [&](uint8_t z) { return z != *sole_zero; })) {
      sole_zero.reset();
      return {};
    }
  }
  return {};
}

Status CodedMatrix::read_values(int64_t first_row, int64_t count, int64_t first_col, int64_t width, float* out,
                                int64_t ld) const {
  if (count == 0 || width == 0) return {};
  std::vector<float> factors;
  if (input_factors) {
    factors.resize(static_cast<size_t>(width));
    WEFT_RETURN_IF_ERROR(widen(*input_factors, first_col, width, factors.data()));
  }
  std::vector<uint8_t> fields(static_cast<size_t>(kRows * width)), zero_points(static_cast<size_t>(kRows * groups));
  std::vector<float> row_scales(flat_block > 0 ? 0 : static_cast<size_t>(kRows * groups));
  for (int64_t done = 0; done < count; done += kRows) {
    const int64_t rows_now = std::min(kRows, count - done), row = first_row + done;
    WEFT_RETURN_IF_ERROR(codes.read(row, rows_now, first_col, width, fields.data(), width));
    WEFT_RETURN_IF_ERROR(read_zeros(row, rows_now, zero_points.data()));
    if (flat_block == 0) WEFT_RETURN_IF_ERROR(read_scales(row, rows_now, row_scales.data()));
    for (int64_t r = 0; r < rows_now; ++r) {
      const uint8_t* field = fields.data() + r * width;
      const float* scale_of = row_scales.data() + r * groups;
      int64_t begin = 0;  // of the flat blocks that the row reaches into
      if (flat_block > 0) {
        const int64_t first = (row + r) * cols() + first_col;
        begin = first / flat_block;
        row_scales.resize(static_cast<size_t>((first + width - 1) / flat_block + 1 - begin));
        WEFT_RETURN_IF_ERROR(scales.read(begin, static_cast<int64_t>(row_scales.size()), row_scales.data()));
        scale_of = row_scales.data();
      }
      float* to = out + (done + r) * ld;
      for (int64_t c = 0; c < width; ++c) {
        const int64_t at =
            flat_block > 0 ? ((row + r) * cols() + first_col + c) / flat_block - begin : group(first_col + c);
        const float scale = scale_of[at];
        const float number =
            levels ? (*levels)[field[c]]
                   : static_cast<float>(field[c] -
                                        (flat_block > 0 ? zero : zero_points[static_cast<size_t>(r * groups + at)]));
        to[c] = number * scale;
      }
      if (!factors.empty())
        for (int64_t c = 0; c < width; ++c) to[c] *= factors[static_cast<size_t>(c)];
    }
  }
  return {};
}

}  // namespace weft
