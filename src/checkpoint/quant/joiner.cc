#include "checkpoint/quant/joiner.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "checkpoint/dequantize.h"

namespace weft {

const std::array<float, 16> kE2m1 = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                     -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

std::vector<std::string> Joiner::modules_with(std::string_view end) const {
  std::vector<std::string> modules;
  for (const auto& [name, tensor] : builder_.tensors())
    if (name.ends_with(end)) modules.push_back(name.substr(0, name.size() - end.size()));
  return modules;
}

std::string Joiner::stored_name(const std::string& tensor) const {
  const TensorInfo* found = builder_.find(tensor);
  return found && !found->stored_name.empty() ? found->stored_name : tensor;
}

Result<TensorInfo> Joiner::take(const std::string& name, std::string_view why) {
  std::optional<TensorInfo> found = take_optional(name);
  if (!found) return fail(Code::not_found, "tensor ", name, " is absent", why.empty() ? "" : ", ", why);
  return std::move(*found);
}

std::optional<TensorInfo> Joiner::take_optional(const std::string& name) {
  auto& tensors = builder_.tensors();
  const auto found = tensors.find(name);
  if (found == tensors.end()) return std::nullopt;
  std::optional<TensorInfo> taken(std::move(found->second));
  tensors.erase(found);
  return taken;
}

Status Joiner::add(CodedMatrix matrix, std::string name, InputRounding rounding) {
  TensorInfo tensor = matrix.codes.tensor;
  tensor.name = name.empty() ? matrix.module + ".weight" : std::move(name);
  tensor.stored_name.clear();
  tensor.type = StorageType::coded;
  tensor.shape = {matrix.rows(), matrix.cols()};
  tensor.input_rounding = rounding;
  if (matrix.rows() == 0 || matrix.cols() == 0)
    return fail(Code::data_corrupt, "tensor ", matrix.codes.tensor.name, " makes a matrix of ",
                shape_text(tensor.shape));
  WEFT_RETURN_IF_ERROR(matrix.prepare());
  tensor.coded = builder_.keep_coded(std::move(matrix));
  return builder_.add(std::move(tensor));
}

Result<int64_t> Joiner::whole(const Json& object, std::initializer_list<const char*> keys,
                              std::optional<int64_t> absent, int64_t low) const {
  for (const char* key : keys) {
    const Json* value = object.find(key);
    if (!value || value->is_null()) continue;
    if (!value->is_integer() || value->as_integer() < low || value->as_integer() > (int64_t{1} << 31))
      return fail(Code::invalid_argument, where_, ": ", key, " is ", value->dump(), ", not a whole number of at least ",
                  low);
    return value->as_integer();
  }
  if (absent) return *absent;
  return fail(Code::invalid_argument, where_, " has no ", *keys.begin());
}

bool Joiner::flag(const char* key, bool absent) const {
  const Json* value = settings_.find(key);
  return value && value->is_bool() ? value->as_bool() : absent;
}

std::string Joiner::text(const char* key) const {
  const Json* value = settings_.find(key);
  return value && value->is_string() ? value->as_string() : std::string();
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

Status expect_shape(const TensorInfo& tensor, const std::vector<int64_t>& shape, std::string_view why) {
  if (tensor.shape == shape) return {};
  return fail(Code::data_corrupt, "tensor ", tensor.name, " is ", shape_text(tensor.shape), " instead of ",
              shape_text(shape), why.empty() ? "" : ", as ", why);
}

Status expect_matrix(const TensorInfo& tensor) {
  constexpr int64_t kMost = int64_t{1} << 31;
  if (tensor.shape.size() == 2 && tensor.shape[0] <= kMost && tensor.shape[1] <= kMost) return {};
  return fail(Code::data_corrupt, "tensor ", tensor.name, " is ", shape_text(tensor.shape), ", not a matrix");
}

Status expect_type(const TensorInfo& tensor, StorageType type) {
  if (tensor.type == type) return {};
  return fail(Code::data_corrupt, "tensor ", tensor.name, " holds ", name(tensor.type), " values, not ", name(type));
}

Status expect_float(const TensorInfo& tensor) {
  if (tensor.type == StorageType::f16 || tensor.type == StorageType::bf16 || tensor.type == StorageType::f32) return {};
  return fail(Code::data_corrupt, "tensor ", tensor.name, " holds ", name(tensor.type), " values, not floats");
}

Result<float> sole_factor(const TensorInfo& tensor) {
  WEFT_RETURN_IF_ERROR(expect_float(tensor));
  if (tensor.values() != 1)
    return fail(Code::data_corrupt, "tensor ", tensor.name, " is ", shape_text(tensor.shape), ", not one value");
  WEFT_TRY(const MappedFile::Pin pin, tensor.pin());
  float value = 0;
  dequantize(tensor.type, tensor.data.data(), 1, &value);
  if (!std::isfinite(value) || value == 0)
    return fail(Code::data_corrupt, "tensor ", tensor.name, " holds ", value,
                ", and a scale of a whole matrix must be finite and not 0");
  return value;
}

PackedFields row_fields(TensorInfo tensor, int64_t rows, int64_t cols, int bits, int word_bytes) {
  PackedFields fields{.tensor = std::move(tensor), .rows = rows, .cols = cols, .bits = bits};
  fields.word_bytes = word_bytes, fields.word_stride = word_bytes;
  fields.line_stride = divided_up(cols * bits, 8 * word_bytes) * word_bytes;
  return fields;
}

Result<std::vector<int32_t>> read_groups(const TensorInfo& tensor, int64_t cols, int64_t group_size, int64_t groups) {
  WEFT_RETURN_IF_ERROR(expect_type(tensor, StorageType::i32));
  WEFT_RETURN_IF_ERROR(expect_shape(tensor, {cols}, "it has a group for each column"));
  WEFT_TRY(const MappedFile::Pin pin, tensor.pin());
  std::vector<int32_t> group_of(static_cast<size_t>(cols));
  std::memcpy(group_of.data(), tensor.data.data(), tensor.data.size());
  bool in_order = true;
  for (int64_t c = 0; c < cols; ++c) {
    const int32_t group = group_of[static_cast<size_t>(c)];
    if (group < 0 || group >= groups)
      return fail(Code::data_corrupt, "tensor ", tensor.name, ": column ", c, " is in group ", group,
                  ", and there are ", groups, " groups");
    in_order = in_order && group == c / group_size;
  }
  if (in_order) group_of.clear();
  return group_of;
}

}  // namespace weft
