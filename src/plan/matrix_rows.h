// The rows of a plan's matrix in the tensors that it is made of.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/result.h"
#include "checkpoint/checkpoint.h"
#include "plan/plan.h"

namespace weft {

// A matrix whose tensors have been found.
struct Claimed {
  const Matrix* matrix = nullptr;
  std::vector<const TensorInfo*> sources;
};

// The row of the stacked sources that an output is.
inline int64_t stacked_row(const Matrix& matrix, int64_t output) {
  if (!matrix.gated) return output;
  const int64_t chunk = output / kernels::kGateColumns;
  return chunk / 2 * kernels::kGateColumns + output % kernels::kGateColumns + (chunk % 2 != 0 ? matrix.out() / 2 : 0);
}

// Calls read(source, its tensor, first output of the source, outputs, place among the rows asked for) for the sources
// of rows [first, first + count) of the stacked sources.
template <class Read>
Status each_stacked(const Claimed& claimed, int64_t first, int64_t count, Read read) {
  int64_t begin = 0;
  for (size_t s = 0; s < claimed.sources.size(); ++s) {
    const TensorRows& rows = claimed.matrix->sources[s];
    const int64_t from = std::max(first, begin), to = std::min(first + count, begin + rows.rows);
    if (from < to) WEFT_RETURN_IF_ERROR(read(rows, *claimed.sources[s], from - begin, to - from, from - first));
    begin += rows.rows;
  }
  return {};
}

// The same for output rows of the matrix.
template <class Read>
Status each_source(const Claimed& claimed, int64_t first, int64_t count, Read read) {
  if (!claimed.matrix->gated) return each_stacked(claimed, first, count, read);
  for (int64_t done = 0; done < count;) {
    const int64_t inside = (first + done) % kernels::kGateColumns,
                  n = std::min(kernels::kGateColumns - inside, count - done);
    const auto placed = [&](const TensorRows& source, const TensorInfo& tensor, int64_t at, int64_t rows,
                            int64_t place) { return read(source, tensor, at, rows, done + place); };
    WEFT_RETURN_IF_ERROR(each_stacked(claimed, stacked_row(*claimed.matrix, first + done), n, placed));
    done += n;
  }
  return {};
}

// Output rows [first, first + count) of the matrix as float32, row after row. Any thread.
Status gather(const Claimed& claimed, int64_t first, int64_t count, float* out);

}  // namespace weft
