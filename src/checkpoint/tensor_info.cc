// Reading rows of stored tensors, with what the format's reader noted about them (scales, offsets, GGUF's row order)
// applied.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/dequantize.h"
#include "checkpoint/quant/coded_matrix.h"
#include "checkpoint/random_values.h"

namespace weft {
namespace {

// GGUF interleaves the two halves of each rotary head: Hugging Face's row (half s, pair i) of a head lies at 2 i + s
// there.
int64_t stored_rotary_row(int64_t row, int64_t rows, int heads) {
  const int64_t head_rows = rows / heads, in_head = row % head_rows, half = head_rows / 2;
  return row - in_head + (in_head < half ? 2 * in_head : 2 * (in_head - half) + 1);
}

// Columns [first, first + count) of the row stored at `row`; blocks that are cut go through a buffer.
void read_columns(StorageType type, const std::byte* row, int64_t first, int64_t count, float* out) {
  const StorageLayout shape = layout(type);
  if (shape.block_values == 1) return dequantize(type, row + first * shape.block_bytes, count, out);
  const int64_t size = shape.block_values;
  float buffer[256];
  while (count > 0) {
    const std::byte* block = row + first / size * shape.block_bytes;
    const int64_t skip = first % size;
    int64_t step = std::min(count, size - skip);
    if (skip == 0 && count >= size) {
      step = count / size * size;
      dequantize(type, block, step, out);
    } else {
      dequantize(type, block, size, buffer);
      std::memcpy(out, buffer + skip, static_cast<size_t>(step) * sizeof(float));
    }
    first += step, count -= step, out += step;
  }
}

// Dummy weights: matrices of variance 1 / columns, so that signals keep their size through a model; norms near 1.
class RandomRows {
 public:
  explicit RandomRows(const TensorInfo& tensor) : cols_(tensor.cols()), seed_(random_seed(tensor.name)) {
    if (tensor.shape.size() == 1 && tensor.name.find("norm") != std::string::npos) center_ = 1.0f, width_ = 0.1f;
    else width_ = std::sqrt(3.0f / static_cast<float>(cols_));
  }
  void read(int64_t row, int64_t first, int64_t count, float* out) const {
    random_values(seed_, static_cast<uint64_t>(row * cols_ + first), count, center_, width_, out);
  }

 private:
  int64_t cols_;
  uint64_t seed_;
  float center_ = 0, width_ = 0;
};

// The factors of a scaled fp8 weight for one of its rows: one per `block_cols` columns.
class RowScales {
 public:
  explicit RowScales(const TensorInfo& tensor) : scale_(tensor.scale), tensor_(tensor) {
    if (scale_) values_.resize(static_cast<size_t>(scale_->cols()));
  }
  Status apply(int64_t row, int64_t first, int64_t count, float* out) {
    const int64_t scale_row = std::min(row / tensor_.scale_block_rows, scale_->rows() - 1);
    if (scale_row != loaded_row_) {
      const int64_t row_bytes = scale_->cols() * layout(scale_->type).block_bytes;
      dequantize(scale_->type, scale_->data.data() + scale_row * row_bytes, scale_->cols(), values_.data());
      for (const float value : values_)
        if (!std::isfinite(value))
          return fail(Code::data_corrupt, "tensor ", scale_->name, " holds ", value, " in row ", scale_row,
                      ", and a scale must be finite");
      loaded_row_ = scale_row;
    }
    for (int64_t done = 0; done < count;) {
      const int64_t column = first + done, block = column / tensor_.scale_block_cols;
      const int64_t end = std::min(count, (block + 1) * tensor_.scale_block_cols - first);
      const float factor = values_[static_cast<size_t>(block)];
      for (; done < end; ++done) out[done] *= factor;
    }
    return {};
  }

 private:
  const TensorInfo* scale_;
  const TensorInfo& tensor_;
  std::vector<float> values_;
  int64_t loaded_row_ = -1;
};

}  // namespace

Result<MappedFile::Pin> TensorInfo::pin(int64_t first_row, int64_t rows) const {
  if (!source) return MappedFile::Pin();
  // Rows that lie in another order, or columns in their place.
  if (rotary_heads > 0 || this->rows() == 0 || (coded && !coded->codes.rows_lie_together())) return pin();
  const size_t row_bytes = data.size() / static_cast<size_t>(this->rows());
  return pin(data.subspan(static_cast<size_t>(first_row) * row_bytes, static_cast<size_t>(rows) * row_bytes));
}

Result<MappedFile::Pin> TensorInfo::pin(std::span<const std::byte> part) const {
  return source ? source->pin(part) : MappedFile::Pin();
}

int64_t TensorInfo::rows() const {
  int64_t product = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) product *= shape[i];
  return product;
}

std::span<const std::byte> stored_row(const TensorInfo& tensor, int64_t row) {
  WEFT_CHECK(row >= 0 && row < tensor.rows() && tensor.type != StorageType::random && !tensor.coded)
      << tensor.name << " row " << row;
  const StorageLayout shape = layout(tensor.type);
  const int64_t row_bytes = tensor.cols() / shape.block_values * shape.block_bytes;
  if (tensor.rotary_heads > 0) row = stored_rotary_row(row, tensor.rows(), tensor.rotary_heads);
  return tensor.data.subspan(static_cast<size_t>(row * row_bytes), static_cast<size_t>(row_bytes));
}

Status read_block(const TensorInfo& tensor, int64_t first_row, int64_t rows, int64_t first_col, int64_t cols,
                  float* out, int64_t ld) {
  WEFT_CHECK(first_row >= 0 && rows >= 0 && first_row + rows <= tensor.rows())
      << tensor.name << " rows " << first_row << " + " << rows;
  WEFT_CHECK(first_col >= 0 && cols >= 0 && first_col + cols <= tensor.cols())
      << tensor.name << " columns " << first_col << " + " << cols;
  WEFT_CHECK(rows <= 1 || ld >= cols) << tensor.name << " ld " << ld;
  if (!is_float(tensor.type))
    return fail(Code::data_corrupt, tensor.name, " holds ", name(tensor.type), " values, not floats");
  if (rows == 0 || cols == 0) return {};

  if (tensor.coded) return tensor.coded->read_values(first_row, rows, first_col, cols, out, ld);
  const StorageLayout shape = layout(tensor.type);
  const int64_t row_bytes = tensor.cols() / shape.block_values * shape.block_bytes;
  const bool vector = tensor.shape.size() <= 1;
  if (tensor.type == StorageType::random) {
    const RandomRows random(tensor);
    for (int64_t r = 0; r < rows; ++r) random.read(first_row + r, first_col, cols, out + r * ld);
    return {};
  }
  WEFT_TRY(const MappedFile::Pin pin, tensor.pin(first_row, rows));
  MappedFile::Pin scale_pin;
  if (tensor.scale) {
    WEFT_TRY(scale_pin, tensor.scale->pin());
  }
  RowScales scales(tensor);
  for (int64_t r = 0; r < rows; ++r) {
    float* target = out + r * ld;
    int64_t row = first_row + r;
    if (tensor.rotary_heads > 0 && vector) {  // a bias: its values are what the rows of the weight are
      for (int64_t c = 0; c < cols; ++c) {
        const int64_t stored = stored_rotary_row(first_col + c, tensor.cols(), tensor.rotary_heads);
        read_columns(tensor.type, tensor.data.data(), stored, 1, target + c);
      }
    } else {
      if (tensor.rotary_heads > 0) row = stored_rotary_row(row, tensor.rows(), tensor.rotary_heads);
      read_columns(tensor.type, tensor.data.data() + row * row_bytes, first_col, cols, target);
    }
    if (tensor.offset != 0)
      for (int64_t c = 0; c < cols; ++c) target[c] += tensor.offset;
    if (tensor.scale) WEFT_RETURN_IF_ERROR(scales.apply(first_row + r, first_col, cols, target));
    // Of a block, what is not finite comes from its scales.
    if (shape.block_values > 1 && !std::all_of(target, target + cols, [](float value) { return std::isfinite(value); }))
      return fail(Code::data_corrupt, "tensor ", tensor.name, " has a block in row ", first_row + r,
                  " whose scale is not finite");
  }
  return {};
}

Status read_rows(const TensorInfo& tensor, int64_t first_row, int64_t rows, float* out, int64_t ld) {
  return read_block(tensor, first_row, rows, 0, tensor.cols(), out, ld);
}

Result<std::vector<float>> read_all(const TensorInfo& tensor) {
  if (!is_float(tensor.type))  // of unknown types the number of values is not bounded by the file
    return fail(Code::data_corrupt, tensor.name, " holds ", name(tensor.type), " values, not floats");
  std::vector<float> values(static_cast<size_t>(tensor.values()));
  WEFT_RETURN_IF_ERROR(read_rows(tensor, 0, tensor.rows(), values.data(), tensor.cols()));
  return values;
}

}  // namespace weft
