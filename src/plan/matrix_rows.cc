#include "plan/matrix_rows.h"

namespace weft {
namespace {

// Outputs [first, first + count) of a source whose outputs are the tensor's columns.
Status gather_columns(const TensorInfo& tensor, const TensorRows& source, const Matrix& matrix, int64_t first,
                      int64_t count, float* out) {
  constexpr int64_t kRows = 64;
  const int64_t k = matrix.k, first_row = source.first_row + matrix.first_k;
  std::vector<float> block(static_cast<size_t>(kRows * count));
  for (int64_t row = 0; row < k; row += kRows) {
    const int64_t rows = std::min<int64_t>(kRows, k - row);
    WEFT_RETURN_IF_ERROR(
        read_block(tensor, first_row + row, rows, source.first_col + first, count, block.data(), count));
    for (int64_t n = 0; n < count; ++n)
      for (int64_t i = 0; i < rows; ++i) out[n * k + row + i] = block[static_cast<size_t>(i * count + n)];
  }
  return {};
}

}  // namespace

Status gather(const Claimed& claimed, int64_t first, int64_t count, float* out) {
  const int k = claimed.matrix->k;
  return each_source(claimed, first, count,
                     [&](const TensorRows& source, const TensorInfo& tensor, int64_t at, int64_t n, int64_t place) {
                       const Matrix& m = *claimed.matrix;
                       if (source.transposed) return gather_columns(tensor, source, m, at, n, out + place * k);
                       if (m.tensor_k > 0)
                         return read_block(tensor, source.first_row + at, n, m.first_k, k, out + place * k, k);
                       // A tensor of more dimensions (a convolution's) lies in memory as the matrix does.
                       const int64_t pieces = k / tensor.cols();
                       return read_rows(tensor, (source.first_row + at) * pieces, n * pieces, out + place * k,
                                        tensor.cols());
                     });
}

}  // namespace weft
