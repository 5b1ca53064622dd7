// What ranks that compute one step together put together again.
#include <cstring>

#include "kernels/layout.h"
#include "kernels/ref.h"

namespace weft::kernels {
namespace {

float part_tree(const ReduceArgs& a, int64_t at, int first, int count) {
  return count == 1 ? a.parts[first][at]
                    : part_tree(a, at, first, count / 2) + part_tree(a, at, first + count / 2, count / 2);
}

float picked(const PickRowsArgs& a, int64_t at) {
  uint32_t bits = 0;
  for (int p = 0; p < a.count; ++p) {
    uint32_t part = 0;
    std::memcpy(&part, a.parts[p] + at, sizeof part);
    bits |= part;
  }
  float value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace

void reference(const ReduceArgs& a, int rows, Part part) {
  const Range range = share(static_cast<int64_t>(rows) * a.cols, part);
  for (int64_t i = range.first; i < range.last; ++i) {
    const int64_t r = i / a.cols, c = i % a.cols, at = r * a.ld_part + c;
    float value = part_tree(a, at, 0, a.count);
    if (a.bias) value += a.bias[c];
    if (a.residual) value += a.residual[r * a.ld_residual + c];
    a.out[r * a.ld_out + c] = value;
  }
}

void reference(const PickRowsArgs& a, int rows, Part part) {
  const Range range = share(static_cast<int64_t>(rows) * a.cols, part);
  for (int64_t i = range.first; i < range.last; ++i) {
    const int64_t r = i / a.cols, c = i % a.cols;
    a.out[r * a.ld_out + c] = picked(a, r * a.ld_part + c);
  }
}

void reference(const JoinColumnsArgs& a, int rows, Part part) {
  const Range range = share(rows, part);
  for (int64_t r = range.first; r < range.last; ++r)
    for (int p = 0; p < a.count; ++p) {
      const int first = p * a.cols, cols = a.cols < a.all_cols - first ? a.cols : a.all_cols - first;
      std::memcpy(a.out + r * a.ld_out + first, a.parts[p] + r * a.ld_part, sizeof(float) * static_cast<size_t>(cols));
    }
}

void reference(const JoinRowsArgs& a, int rows, Part part) {
  const Range range = share(rows, part);
  for (int64_t r = range.first; r < range.last; ++r) {
    int p = 0;
    while (r >= a.first[p + 1]) ++p;
    std::memcpy(a.out + r * a.ld_out, a.parts[p] + (r - a.first[p]) * a.ld_part,
                sizeof(float) * static_cast<size_t>(a.cols));
  }
}

}  // namespace weft::kernels
