// MXFP4 as gpt-oss stores it: X_blocks [.., rows, cols / 32, 16], two values in a byte, the even column in its low
// bits, and X_scales [.., rows, cols / 32], exponents plus 127.
#include <algorithm>

#include "checkpoint/names.h"
#include "checkpoint/quant/formats.h"

namespace weft {
namespace {

Status join_blocks(Joiner& joiner, const std::string& name) {
  WEFT_TRY(const TensorInfo codes, joiner.take(name + "_blocks", ""));
  WEFT_TRY(TensorInfo scales, joiner.take(name + "_scales", "which belongs to a quantised matrix"));
  WEFT_RETURN_IF_ERROR(expect_type(codes, StorageType::u8));
  if (scales.type == StorageType::u8) scales.type = StorageType::f8_e8m0;
  WEFT_RETURN_IF_ERROR(expect_type(scales, StorageType::f8_e8m0));
  std::vector<int64_t> shape = codes.shape;
  const bool huge = std::any_of(shape.begin(), shape.end(), [](int64_t extent) { return extent > int64_t{1} << 31; });
  if ((shape.size() != 3 && shape.size() != 4) || shape.back() != 16 || huge)
    return fail(Code::data_corrupt, "tensor ", codes.name, " is ", shape_text(shape),
                ", which are no blocks of 16 bytes");
  shape.pop_back();
  WEFT_RETURN_IF_ERROR(expect_shape(scales, shape, "there is a scale for each block"));
  const int64_t groups = shape.back(), rows = shape[shape.size() - 2];
  const auto part = [&](int64_t first_row, int64_t count) {
    const auto cut = [&](TensorInfo tensor, int64_t row_bytes) {
      tensor.data =
          tensor.data.subspan(static_cast<size_t>(first_row * row_bytes), static_cast<size_t>(count * row_bytes));
      return tensor;
    };
    CodedMatrix m{.format = "MXFP4", .module = name};
    m.codes = row_fields(cut(codes, groups * 16), count, groups * 32, 4, 1);
    m.levels = kE2m1;
    m.group_size = 32, m.groups = groups;
    m.scales.values = cut(scales, groups);
    m.scales.row_stride = groups, m.scales.group_stride = 1;
    return m;
  };
  if (shape.size() == 2) return joiner.add(part(0, rows), name);
  const std::vector<ExpertPart> parts = expert_parts(joiner.config(), name, shape[0], rows);
  if (parts.empty())
    return fail(Code::unsupported, "tensor ", codes.name, ": MXFP4 experts of this architecture are not supported");
  for (const ExpertPart& expert : parts)
    WEFT_RETURN_IF_ERROR(joiner.add(part(expert.first_row, expert.rows), expert.name));
  return {};
}

}  // namespace

Status join_mxfp4(Joiner& joiner) {
  for (const std::string& name : joiner.modules_with("_blocks")) WEFT_RETURN_IF_ERROR(join_blocks(joiner, name));
  return {};
}

}  // namespace weft
