// compressed-tensors (llm-compressor): groups of modules, each with a scheme of its own.
#include <algorithm>
#include <cstring>

#include "checkpoint/quant/formats.h"
#include "checkpoint/quant/module_match.h"
#include "checkpoint/quant/scaled_fp8.h"

namespace weft {
namespace {

enum class Format : uint8_t { packed, whole, nvfp4, mxfp4, mxfp8 };  // `whole`: a byte for each weight, int8 or fp8

struct Scheme {
  std::string group;  // "config_groups.group_0"
  const Json* targets = nullptr;
  Format format = Format::packed;
  std::string strategy;
  int bits = 8;
  int64_t group_size = 0;
  ScaleBlock block;
  bool is_float = false, symmetric = true;
  bool act_order = false;        // weight_g_idx says which group a column is in
  const Json* inputs = nullptr;  // null: they are not rounded
};

Result<Format> format_of(const std::string& name, const std::string& where) {
  if (name == "pack-quantized") return Format::packed;
  if (name == "int-quantized" || name == "float-quantized" || name == "naive-quantized") return Format::whole;
  if (name == "nvfp4-pack-quantized") return Format::nvfp4;
  if (name == "mxfp4-pack-quantized") return Format::mxfp4;
  if (name == "mxfp8-quantized") return Format::mxfp8;
  return fail(Code::unsupported, where, " has the format ", name.empty() ? "none" : json_quote(name),
              ", which is not supported");
}

std::string text_of(const Json& object, const char* key) {
  const Json* value = object.find(key);
  return value && value->is_string() ? value->as_string() : std::string();
}

Result<Scheme> read_scheme(const Joiner& joiner, const std::string& name, const Json& group) {
  Scheme s;
  s.group = "config_groups." + name;
  const std::string where = joiner.where() + "." + s.group;
  const Json* weights = group.is_object() ? group.find("weights") : nullptr;
  if (!weights || !weights->is_object()) return fail(Code::unsupported, where, " has no weights that are quantised");
  s.targets = group.find("targets");
  const Json* inputs = group.find("input_activations");
  if (inputs && inputs->is_object() && !inputs->members().empty()) s.inputs = inputs;
  const std::string own = text_of(group, "format");
  WEFT_TRY(s.format, format_of(own.empty() ? joiner.text("format") : own, own.empty() ? joiner.where() : where));
  WEFT_TRY(const int64_t bits, joiner.whole(*weights, {"num_bits"}, std::nullopt, 1));
  if (bits > 8) return fail(Code::unsupported, where, ".weights has ", bits, " bits; 1 to 8 are supported");
  s.bits = static_cast<int>(bits), s.is_float = text_of(*weights, "type") == "float";
  const Json* symmetric = weights->find("symmetric");
  s.symmetric = !symmetric || !symmetric->is_bool() || symmetric->as_bool();
  // "static" ("weight") orders columns only while the codes are found; true is "group".
  const Json* order = weights->find("actorder");
  s.act_order = order && (order->is_bool() ? order->as_bool() : text_of(*weights, "actorder") == "group");
  s.strategy = text_of(*weights, "strategy");
  WEFT_TRY(s.group_size, joiner.whole(*weights, {"group_size"}, -1, -1));
  if (s.strategy.empty()) s.strategy = s.group_size > 0 ? "group" : s.group_size == -1 ? "channel" : "tensor";
  const bool fp4 = s.format == Format::nvfp4 || s.format == Format::mxfp4;
  if (fp4 != (s.is_float && s.bits == 4) || (s.is_float && s.bits != 4 && s.bits != 8) ||
      (s.is_float && s.format == Format::packed))
    return fail(Code::unsupported, where, ": ", s.is_float ? "floats" : "integers", " of ", s.bits,
                " bits do not go with its format");
  if (s.strategy == "block") {
    WEFT_TRY(s.block, scale_block(*weights, "block_structure"));
    if (s.block.rows == 0) return fail(Code::invalid_argument, where, ".weights has no block_structure");
  } else if (s.strategy == "group" || s.strategy == "tensor_group") {
    if (s.group_size < 1)
      return fail(Code::invalid_argument, where, ".weights has the strategy ", json_quote(s.strategy),
                  ", but no group_size");
  } else if (s.strategy != "tensor" && s.strategy != "channel") {
    return fail(Code::unsupported, where, ".weights has the strategy ", json_quote(s.strategy),
                ", which is not supported");
  }
  return s;
}

class CompressedReader {
 public:
  explicit CompressedReader(Joiner& joiner) : joiner_(joiner) {}

  Status join() {
    for (const char* key : {"sparsity_config", "transform_config"}) {
      const Json* other = joiner_.settings().find(key);
      if (!other || !other->is_object() || other->members().empty()) continue;
      const std::string format = text_of(*other, "format");
      if (std::string_view(key) == "sparsity_config" && (format == "dense" || format.empty())) continue;
      return fail(Code::unsupported, joiner_.where(), ".", key, " is not supported");
    }
    const Json* groups = joiner_.settings().find("config_groups");
    if (!groups || !groups->is_object() || groups->members().empty())
      return fail(Code::unsupported, joiner_.where(), ": compressed-tensors without config_groups is not supported");
    for (const auto& [name, group] : groups->members()) {
      WEFT_TRY(Scheme scheme, read_scheme(joiner_, name, group));
      schemes_.push_back(std::move(scheme));
    }
    for (const std::string& module : joiner_.modules_with(".weight_packed")) WEFT_RETURN_IF_ERROR(join_packed(module));
    std::vector<std::string> bytes;
    for (const auto& [name, tensor] : joiner_.builder().tensors())
      if (is_fp8(tensor.type) || tensor.type == StorageType::i8) bytes.push_back(name);
    for (const std::string& name : bytes) WEFT_RETURN_IF_ERROR(join_bytes(name));
    return {};
  }

 private:
  // The scheme of a module: the one whose targets name it most closely.
  Result<const Scheme*> scheme_of(const std::string& tensor) const {
    std::string module = joiner_.stored_name(tensor);
    module.resize(module.rfind('.') == std::string::npos ? module.size() : module.rfind('.'));
    const Scheme* best = nullptr;
    Closeness how = Closeness::none;
    for (const Scheme& scheme : schemes_) {
      WEFT_TRY(const Closeness close, closeness(scheme.targets, module));
      if (close > how) best = &scheme, how = close;
    }
    if (!best)
      return fail(Code::unsupported, "tensor ", tensor, " is quantised, but no group of ", joiner_.where(),
                  ".config_groups has its module among its targets");
    return best;
  }

  // What the scheme does with the input of products.
  Result<InputRounding> rounding_of(const std::string& module, const Scheme& scheme) {
    using Kind = InputRounding::Kind;
    if (!scheme.inputs) return InputRounding{};
    const Json& in = *scheme.inputs;
    WEFT_TRY(const int64_t bits, joiner_.whole(in, {"num_bits"}, 8, 1));
    WEFT_TRY(const int64_t group, joiner_.whole(in, {"group_size"}, 0, -1));
    const std::string strategy = text_of(in, "strategy");
    const Json* dynamic = in.find("dynamic");
    const Json* symmetric = in.find("symmetric");
    const bool found = dynamic && dynamic->is_bool() && dynamic->as_bool(), is_float = text_of(in, "type") == "float";
    InputRounding rounding{.kind = bits == 8 ? (is_float ? Kind::fp8 : Kind::int8) : Kind::other};
    if (symmetric && symmetric->is_bool() && !symmetric->as_bool()) return InputRounding{.kind = Kind::other};
    if (scheme.format == Format::nvfp4 && bits == 4 && strategy == "tensor_group" && group == 16) {
      const TensorInfo* outer = joiner_.builder().find(module + ".input_global_scale");
      if (!outer) return InputRounding{.kind = Kind::other};
      WEFT_TRY(const float divisor, sole_factor(*outer));
      return InputRounding{.kind = Kind::fp4, .group = 16, .outer = 1 / divisor};
    }
    if (scheme.format == Format::mxfp8) return InputRounding{.kind = Kind::other};
    if (found && strategy == "token") return rounding;
    if (found && (strategy == "group" || strategy == "tensor_group") && group > 0) {
      rounding.group = static_cast<int>(group);
      return rounding;
    }
    if (!found && strategy == "tensor") {
      const TensorInfo* scale = joiner_.builder().find(module + ".input_scale");
      if (!scale)
        return fail(Code::not_found, "tensor ", module, ".input_scale is absent, but ", scheme.group,
                    " has fixed scales of inputs");
      WEFT_TRY(rounding.scale, sole_factor(*scale));
      return rounding;
    }
    return InputRounding{.kind = Kind::other};
  }

  // The scales of whole numbers and of 4-bit floats, [rows, groups].
  Status join_scales(const std::string& module, const Scheme& scheme, CodedMatrix& m) {
    WEFT_TRY(m.scales.values, joiner_.take(module + ".weight_scale", "which belongs to a quantised matrix"));
    TensorInfo& values = m.scales.values;
    if (scheme.format == Format::mxfp4) {
      if (values.type == StorageType::u8) values.type = StorageType::f8_e8m0;
      WEFT_RETURN_IF_ERROR(expect_type(values, StorageType::f8_e8m0));
    } else if (scheme.format == Format::nvfp4) {
      WEFT_RETURN_IF_ERROR(expect_type(values, StorageType::f8_e4m3));
    } else {
      WEFT_RETURN_IF_ERROR(expect_float(values));
    }
    const int64_t rows = m.rows(), cols = m.cols();
    m.group_size = cols;
    if (scheme.strategy == "group" || scheme.strategy == "tensor_group") {
      m.group_size = scheme.group_size, m.groups = divided_up(cols, m.group_size);
      m.scales.row_stride = m.groups, m.scales.group_stride = 1;
      return expect_shape(values, {rows, m.groups}, "the weights and the group size have it");
    }
    if (scheme.strategy == "block") {
      m.group_size = scheme.block.cols, m.groups = divided_up(cols, m.group_size);
      m.scales.row_block = scheme.block.rows, m.scales.row_stride = m.groups, m.scales.group_stride = 1;
      return expect_shape(values, {divided_up(rows, scheme.block.rows), m.groups},
                          "the weights and the blocks have it");
    }
    if (scheme.strategy == "tensor") {
      m.scales.row_block = rows;
      if (values.values() == 1 && values.shape.size() <= 2) return {};
      return expect_shape(values, {1}, "there is one scale");
    }
    m.scales.row_stride = 1;
    if (values.shape == std::vector<int64_t>{rows}) return {};
    return expect_shape(values, {rows, 1}, "there is a scale for each row");
  }

  // Of symmetric weights, whose zero points there need not be: all of them are 0. Those of packed rows that fill up the
  // last word may be anything.
  static Status expect_no_zeros(const TensorInfo& zeros, const CodedMatrix& m) {
    const bool packed = zeros.type == StorageType::i32;
    if (packed) WEFT_RETURN_IF_ERROR(expect_shape(zeros, {divided_up(m.rows() * m.codes.bits, 32), m.groups}, ""));
    else if (zeros.type != StorageType::i8 && !is_float(zeros.type)) return expect_type(zeros, StorageType::i8);
    WEFT_TRY(const MappedFile::Pin pin, zeros.pin());
    std::vector<uint8_t> points;
    bool none = true;
    if (packed) {
      points.resize(static_cast<size_t>(m.rows() * m.groups));
      PackedFields fields{
          .tensor = zeros, .rows = m.rows(), .cols = m.groups, .bits = m.codes.bits, .along_rows = true};
      fields.word_bytes = 4, fields.word_stride = m.groups * 4, fields.line_stride = 4;
      WEFT_RETURN_IF_ERROR(fields.read(0, m.rows(), 0, m.groups, points.data(), m.groups));
      none = std::all_of(points.begin(), points.end(), [&](uint8_t point) { return point == m.zero; });
    } else if (zeros.type == StorageType::i8) {
      none = std::all_of(zeros.data.begin(), zeros.data.end(), [](std::byte b) { return b == std::byte{0}; });
    } else {
      WEFT_TRY(const std::vector<float> values, read_all(zeros));
      none = std::all_of(values.begin(), values.end(), [](float value) { return value == 0; });
    }
    if (none) return {};
    return fail(Code::data_corrupt, "tensor ", zeros.name,
                " has zero points, and its weights are symmetric as the settings have it");
  }

  // Zero points of whole numbers: packed along the rows, or a byte each.
  Status join_zeros(const std::string& module, const Scheme& scheme, CodedMatrix& m) {
    m.zero = 1 << (m.codes.bits - 1);
    m.max_zero = (1 << m.codes.bits) - 1;
    const std::string name = module + ".weight_zero_point";
    if (scheme.symmetric && !joiner_.has(name)) return {};
    WEFT_TRY(TensorInfo zeros, joiner_.take(name, "and its weights are not symmetric"));
    if (scheme.symmetric) return expect_no_zeros(zeros, m);
    if (scheme.strategy == "block" || scheme.strategy == "tensor")
      return fail(Code::unsupported, "tensor ", zeros.name, ": zero points with the strategy ",
                  json_quote(scheme.strategy), " are not supported");
    if (zeros.type == StorageType::i8) {
      WEFT_RETURN_IF_ERROR(expect_shape(zeros, {m.rows(), m.groups}, "there is a zero point for each scale"));
      m.zeros = row_fields(std::move(zeros), m.rows(), m.groups, 8, 1);
      m.zeros->flip = 0x80, m.zero_added = m.zero - 128;
      return {};
    }
    WEFT_RETURN_IF_ERROR(expect_type(zeros, StorageType::i32));
    const int64_t words = divided_up(m.rows() * m.codes.bits, 32);
    WEFT_RETURN_IF_ERROR(expect_shape(zeros, {words, m.groups}, "the weights and the groups have it"));
    m.zeros = PackedFields{
        .tensor = std::move(zeros), .rows = m.rows(), .cols = m.groups, .bits = m.codes.bits, .along_rows = true};
    m.zeros->word_bytes = 4, m.zeros->word_stride = m.groups * 4, m.zeros->line_stride = 4;
    return {};
  }

  Status join_packed(const std::string& module) {
    const std::string name = module + ".weight_packed";
    WEFT_TRY(const Scheme* scheme, scheme_of(name));
    if (scheme->format == Format::whole || scheme->format == Format::mxfp8)
      return fail(Code::data_corrupt, "tensor ", name, " is packed, but ", scheme->group, " has another format");
    WEFT_TRY(TensorInfo codes, joiner_.take(name, ""));
    WEFT_RETURN_IF_ERROR(expect_matrix(codes));
    CodedMatrix m{.format = "compressed-tensors", .module = module};
    if (scheme->format == Format::packed) {
      WEFT_RETURN_IF_ERROR(join_integers(module, *scheme, std::move(codes), m));
      WEFT_TRY(const InputRounding rounding, rounding_of(module, *scheme));
      return joiner_.add(std::move(m), "", rounding);
    }
    WEFT_RETURN_IF_ERROR(expect_type(codes, StorageType::u8));
    const int64_t rows = codes.shape[0], cols = codes.shape[1] * 2;
    m.format = scheme->format == Format::nvfp4 ? "NVFP4" : "MXFP4";
    m.codes = row_fields(std::move(codes), rows, cols, 4, 1);
    m.levels = kE2m1;
    WEFT_RETURN_IF_ERROR(join_scales(module, *scheme, m));
    if (scheme->format == Format::nvfp4) {
      WEFT_TRY(const TensorInfo global, joiner_.take(module + ".weight_global_scale", "which NVFP4 needs"));
      WEFT_TRY(m.scales.factor, sole_factor(global));
      m.scales.divided = true;
    }
    WEFT_TRY(const InputRounding rounding, rounding_of(module, *scheme));
    return joiner_.add(std::move(m), "", rounding);
  }

  Status join_integers(const std::string& module, const Scheme& scheme, TensorInfo codes, CodedMatrix& m) {
    WEFT_RETURN_IF_ERROR(expect_type(codes, StorageType::i32));
    WEFT_TRY(const TensorInfo shape, joiner_.take(module + ".weight_shape", "which has the matrix's true width"));
    WEFT_TRY(const auto extents, read_extents(shape));
    const auto [rows, cols] = extents;
    WEFT_RETURN_IF_ERROR(
        expect_shape(codes, {rows, divided_up(cols * scheme.bits, 32)}, "weight_shape and the bits have it"));
    m.codes = row_fields(std::move(codes), rows, cols, scheme.bits, 4);
    WEFT_RETURN_IF_ERROR(join_scales(module, scheme, m));
    WEFT_RETURN_IF_ERROR(join_zeros(module, scheme, m));
    if (const auto groups = joiner_.take_optional(module + ".weight_g_idx")) {
      WEFT_TRY(m.group_of, read_groups(*groups, cols, m.group_size, m.groups));
    } else if (scheme.act_order && m.groups > 1) {
      return fail(Code::not_found, "tensor ", module, ".weight_g_idx is absent, and ", scheme.group,
                  " has an actorder by groups");
    }
    return {};
  }

  // int64 (or int32) [2]
  static Result<std::pair<int64_t, int64_t>> read_extents(const TensorInfo& shape) {
    WEFT_RETURN_IF_ERROR(expect_shape(shape, {2}, ""));
    WEFT_TRY(const MappedFile::Pin pin, shape.pin());
    int64_t extents[2] = {};
    for (int i = 0; i < 2; ++i) {
      if (shape.type == StorageType::i64) {
        std::memcpy(&extents[i], shape.data.data() + 8 * i, 8);
      } else {
        WEFT_RETURN_IF_ERROR(expect_type(shape, StorageType::i32));
        int32_t narrow;
        std::memcpy(&narrow, shape.data.data() + 4 * i, 4);
        extents[i] = narrow;
      }
      if (extents[i] < 1 || extents[i] > (int64_t{1} << 31))
        return fail(Code::data_corrupt, "tensor ", shape.name, " holds ", extents[i],
                    ", which is no extent of a matrix");
    }
    return std::pair(extents[0], extents[1]);
  }

  // A weight with a byte for each value.
  Status join_bytes(const std::string& name) {
    TensorInfo& weight = *joiner_.builder().find(name);
    const TensorInfo* scale = find_scale(joiner_.builder(), name);
    if (!scale) {
      if (!name.ends_with(".weight")) return {};  // no weight of a module
      return fail(Code::not_found, "tensor ", name, " holds ", weft::name(weight.type), " values, but ", name,
                  "_scale is absent");
    }
    WEFT_TRY(const Scheme* scheme, scheme_of(name));
    if ((scheme->format != Format::whole && scheme->format != Format::mxfp8) || scheme->is_float != is_fp8(weight.type))
      return fail(Code::data_corrupt, "tensor ", name, " holds ", weft::name(weight.type), " values, but ",
                  scheme->group, " says otherwise");
    if (scheme->is_float) {
      if (!scheme->symmetric)
        return fail(Code::unsupported, "tensor ", name, ": fp8 weights with zero points are not supported");
      const bool grouped = scheme->strategy == "group" || scheme->strategy == "tensor_group";
      WEFT_TRY(weight.input_rounding, rounding_of(name.substr(0, name.rfind('.')), *scheme));
      TensorInfo factors = *scale;
      if (scheme->format == Format::mxfp8 && factors.type == StorageType::u8) factors.type = StorageType::f8_e8m0;
      return join_scale(joiner_.builder(), weight, factors,
                        grouped ? ScaleBlock{1, scheme->group_size} : scheme->block);
    }
    if (weight.shape.size() != 2 || !name.ends_with(".weight"))
      return fail(Code::unsupported, "tensor ", name, " holds int8 values but is not a module's matrix");
    const std::string module = name.substr(0, name.size() - std::string_view(".weight").size());
    WEFT_TRY(TensorInfo codes, joiner_.take(name, ""));
    WEFT_RETURN_IF_ERROR(expect_matrix(codes));
    CodedMatrix m{.format = "compressed-tensors", .module = module};
    const int64_t rows = codes.shape[0], cols = codes.shape[1];
    m.codes = row_fields(std::move(codes), rows, cols, 8, 1);
    m.codes.flip = 0x80;
    WEFT_RETURN_IF_ERROR(join_scales(module, *scheme, m));
    WEFT_RETURN_IF_ERROR(join_zeros(module, *scheme, m));
    WEFT_TRY(const InputRounding rounding, rounding_of(module, *scheme));
    return joiner_.add(std::move(m), "", rounding);
  }

  Joiner& joiner_;
  std::vector<Scheme> schemes_;
};

}  // namespace

Status join_compressed(Joiner& joiner) { return CompressedReader(joiner).join(); }

}  // namespace weft
