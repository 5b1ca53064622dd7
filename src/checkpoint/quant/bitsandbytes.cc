// bitsandbytes: weights of 4 bits in flat blocks with a state beside them, and int8 with a scale for each row.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "checkpoint/dequantize.h"
#include "checkpoint/quant/formats.h"

namespace weft {
namespace {

constexpr std::string_view kState = ".quant_state.bitsandbytes__";

// float32 [count]
Status read_levels(const TensorInfo& tensor, int64_t count, float* out) {
  WEFT_RETURN_IF_ERROR(expect_type(tensor, StorageType::f32));
  WEFT_RETURN_IF_ERROR(expect_shape(tensor, {count}, "there is a value for each code"));
  WEFT_TRY(const MappedFile::Pin pin, tensor.pin());
  dequantize(StorageType::f32, tensor.data.data(), count, out);
  for (int64_t i = 0; i < count; ++i)
    if (!std::isfinite(out[i]))
      return fail(Code::data_corrupt, "tensor ", tensor.name, " holds ", out[i], ", which is no value of a weight");
  return {};
}

Result<Json> read_state(const TensorInfo& tensor) {
  WEFT_RETURN_IF_ERROR(expect_type(tensor, StorageType::u8));
  WEFT_TRY(const MappedFile::Pin pin, tensor.pin());
  auto state = parse_json(std::string_view(reinterpret_cast<const char*>(tensor.data.data()), tensor.data.size()));
  if (!state.ok() || !state->is_object())
    return fail(Code::data_corrupt, "tensor ", tensor.name,
                " is no JSON object: ", state.ok() ? state->type_name() : state.error().message());
  return std::move(state).value();
}

Status join_four_bits(Joiner& joiner, const std::string& state_name) {
  const std::string weight = state_name.substr(0, state_name.find(kState));  // MODULE.weight
  WEFT_TRY(const TensorInfo state_tensor, joiner.take(state_name, ""));
  WEFT_TRY(const Json state, read_state(state_tensor));
  const Json* shape = state.find("shape");
  const auto extent = [&](size_t i) {
    const Json& value = shape->items()[i];
    return value.is_integer() && value.as_integer() >= 1 && value.as_integer() <= int64_t{1} << 31 ? value.as_integer()
                                                                                                   : 0;
  };
  if (!shape || !shape->is_array() || shape->items().size() != 2 || extent(0) == 0 || extent(1) == 0)
    return fail(Code::data_corrupt, "tensor ", state_name, " has no shape of a matrix");
  const int64_t rows = extent(0), cols = extent(1);
  auto size = joiner.whole(state, {"blocksize"}, std::nullopt, 1);
  if (!size.ok()) return std::move(size).error().with("tensor " + state_name);
  const int64_t block = *size;
  WEFT_TRY(TensorInfo codes, joiner.take(weight, "which its quant_state describes"));
  WEFT_RETURN_IF_ERROR(expect_type(codes, StorageType::u8));
  if (cols % 2 != 0)
    return fail(Code::unsupported, "tensor ", weight, " has rows of ", cols,
                " values of 4 bits, which end in a half byte");
  if (static_cast<int64_t>(codes.data.size()) != rows * cols / 2)
    return fail(Code::data_corrupt, "tensor ", weight, " is ", shape_text(codes.shape), ", but [", rows, ", ", cols,
                "] values of 4 bits are ", rows * cols / 2, " bytes");
  CodedMatrix m{.format = state_name.ends_with("nf4") ? "bitsandbytes nf4" : "bitsandbytes fp4"};
  m.module = weight.substr(0, weight.rfind('.'));
  m.codes = row_fields(std::move(codes), rows, cols, 4, 1);
  m.codes.order = PackedFields::Order::high_first;
  WEFT_TRY(const TensorInfo levels, joiner.take(weight + ".quant_map", "which has the codes' values"));
  m.levels.emplace();
  WEFT_RETURN_IF_ERROR(read_levels(levels, 16, m.levels->data()));

  const int64_t blocks = divided_up(rows * cols, block);
  WEFT_TRY(m.scales.values, joiner.take(weight + ".absmax", "which has the blocks' scales"));
  WEFT_RETURN_IF_ERROR(expect_shape(m.scales.values, {blocks}, "there is one for each block"));
  if (auto outer = joiner.take_optional(weight + ".nested_absmax")) {
    WEFT_RETURN_IF_ERROR(expect_type(m.scales.values, StorageType::u8));
    ScaleGrid::Nested& nested = m.scales.nested.emplace();
    WEFT_TRY(nested.outer_block, joiner.whole(state, {"nested_blocksize"}, 256, 1));
    WEFT_RETURN_IF_ERROR(expect_type(*outer, StorageType::f32));
    WEFT_RETURN_IF_ERROR(expect_shape(*outer, {divided_up(blocks, nested.outer_block)}, "there is one for each block"));
    nested.outer = std::move(*outer);
    const Json* offset = state.find("nested_offset");
    nested.offset = offset && offset->is_number() ? static_cast<float>(offset->as_number()) : 0.0f;
    WEFT_TRY(const TensorInfo map, joiner.take(weight + ".nested_quant_map", "which has the scales' values"));
    WEFT_RETURN_IF_ERROR(read_levels(map, 256, nested.levels.data()));
  } else {
    WEFT_RETURN_IF_ERROR(expect_type(m.scales.values, StorageType::f32));
  }
  if (cols % block == 0) {
    m.group_size = block, m.groups = cols / block;
    m.scales.row_stride = m.groups, m.scales.group_stride = 1;
  } else if (block % cols == 0) {
    m.group_size = cols, m.scales.row_block = block / cols, m.scales.row_stride = 1;
  } else {
    m.group_size = cols, m.flat_block = block;
  }
  return joiner.add(std::move(m), weight);
}

// int8 [rows, cols] with float32 SCB [rows]: code * SCB / 127.
Status join_int8(Joiner& joiner, const std::string& module) {
  WEFT_TRY(TensorInfo codes, joiner.take(module + ".weight", "which its SCB is for"));
  WEFT_RETURN_IF_ERROR(expect_type(codes, StorageType::i8));
  WEFT_RETURN_IF_ERROR(expect_matrix(codes));
  CodedMatrix m{.format = "bitsandbytes int8", .module = module};
  const int64_t rows = codes.shape[0], cols = codes.shape[1];
  m.codes = row_fields(std::move(codes), rows, cols, 8, 1);
  m.codes.flip = 0x80, m.zero = 128, m.group_size = cols;
  WEFT_TRY(m.scales.values, joiner.take(module + ".SCB", ""));
  WEFT_RETURN_IF_ERROR(expect_float(m.scales.values));
  WEFT_RETURN_IF_ERROR(expect_shape(m.scales.values, {rows}, "there is a scale for each row"));
  m.scales.row_stride = 1, m.scales.factor = 127, m.scales.divided = true;
  if (const auto layout = joiner.take_optional(module + ".weight_format")) {
    // uint8 []: 0 is rows one after the other, others are layouts of a GPU's multipliers.
    WEFT_RETURN_IF_ERROR(expect_type(*layout, StorageType::u8));
    WEFT_TRY(const MappedFile::Pin pin, layout->pin());
    if (layout->data.size() != 1 || layout->data[0] != std::byte{0})
      return fail(Code::unsupported, "tensor ", layout->name, " names the layout ",
                  layout->data.empty() ? -1 : static_cast<int>(layout->data[0]),
                  " of the weights; 0 (by rows) is supported");
  }
  return joiner.add(std::move(m));
}

}  // namespace

Status join_bitsandbytes(Joiner& joiner) {
  std::vector<std::string> states;
  for (const auto& [name, tensor] : joiner.builder().tensors())
    if (name.find(kState) != std::string::npos) states.push_back(name);
  for (const std::string& state : states) WEFT_RETURN_IF_ERROR(join_four_bits(joiner, state));
  for (const std::string& module : joiner.modules_with(".SCB")) WEFT_RETURN_IF_ERROR(join_int8(joiner, module));
  for (const std::string& module : joiner.modules_with(".weight"))
    if (const TensorInfo* weight = joiner.builder().find(module + ".weight");
        weight->type == StorageType::u8 || weight->type == StorageType::i8)
      return fail(Code::not_found, "tensor ", module, ".weight holds ", name(weight->type), " values, but ",
                  weight->type == StorageType::u8 ? "its quant_state" : module + ".SCB", " is absent");
  return {};
}

}  // namespace weft
