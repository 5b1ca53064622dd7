// Rows of checkpoint tensors as codes and scales, for packing into quantised panels.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "checkpoint/checkpoint.h"
#include "kernels/kernels.h"
#include "plan/plan.h"

namespace weft {

// A buffer for some rows of one matrix [.., k] in one format. Used by one thread at a time.
class QuantizedSource {
 public:
  // Columns [first_k, first_k + k) of the tensors; first_k is a multiple of their groups, and of their blocks where
  // those have a minimum or a super scale. All of k may be inside one group.
  QuantizedSource(const kernels::WeightFormat& format, int k, int first_k = 0);

  void clear() { rows_ = 0; }
  // Appends rows [first, first + count) of a tensor that is stored in this format: codes as they are. Errors: a scale
  // that is too large for the kernels.
  Status append_stored(const TensorInfo& tensor, int64_t first, int64_t count);
  // The same for outputs [first, first + count) of a transposed source: columns of an fp8 tensor.
  Status append_transposed(const TensorInfo& tensor, const TensorRows& source, int64_t first, int64_t count);
  // Appends a row of k floats, quantised (--quantize).
  void append_floats(const float* row);
  // What has been appended since clear(); valid until the next call.
  kernels::QuantizedRows rows() const;

 private:
  void grow();
  Status append_fp8(const TensorInfo& tensor, int64_t row);
  Status check_fp8_scale(const TensorInfo& grid, int64_t row, float scale) const;
  bool last_scales_are_finite() const;
  Status append_coded(const CodedMatrix& matrix, int64_t first, int64_t count);
  void append_blocks(StorageType type, const std::byte* blocks);
  void append_block(StorageType type, const uint8_t* block, int index, uint8_t* codes);
  void append_codes(StorageType type, const std::byte* blocks);

  kernels::WeightFormat format_;
  int k_, first_k_, groups_, scale_rows_;  // per row: groups, and scales (fewer for super scales)
  int rows_ = 0;
  std::vector<uint8_t> codes_, factors_, offset_factors_;
  std::vector<uint16_t> narrow_scales_, minima_;
  std::vector<float> scales_;
  std::vector<float> block_scales_;  // of the row at hand
  std::vector<uint8_t> zeros_, fields_;
};

}  // namespace weft
