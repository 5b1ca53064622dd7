// AWQ (AutoAWQ's gemm layout) and GPTQ (AutoGPTQ, GPTQModel), whose matrices are stored transposed compared with
// Linear: [in, out].
#include "checkpoint/quant/formats.h"
#include "checkpoint/quant/module_match.h"

namespace weft {
namespace {

constexpr const char* kNeeded = "which belongs to a quantised matrix";

// scales [groups, out], the same for both.
Result<ScaleGrid> group_scales(Joiner& joiner, const std::string& module, int64_t groups, int64_t out) {
  ScaleGrid grid;
  WEFT_TRY(grid.values, joiner.take(module + ".scales", kNeeded));
  WEFT_RETURN_IF_ERROR(expect_float(grid.values));
  WEFT_RETURN_IF_ERROR(expect_shape(grid.values, {groups, out}, "the codes and the group size have it"));
  grid.row_stride = 1, grid.group_stride = out;
  return grid;
}

// Fields of words [lines, words] that run along the rows of the matrix (its outputs).
PackedFields output_fields(TensorInfo tensor, int64_t rows, int64_t cols, int bits) {
  PackedFields fields{.tensor = std::move(tensor), .rows = rows, .cols = cols, .bits = bits, .along_rows = true};
  fields.word_bytes = 4, fields.word_stride = 4, fields.line_stride = divided_up(rows * bits, 32) * 4;
  return fields;
}

struct GptqRules {
  int64_t bits = 4, group_size = -1;
  bool act_order = false;  // the columns of a group do not lie together: g_idx says which group each is in
};

// The rules of a module: `dynamic` may change the general ones. Patterns that begin with "-:" name modules that are not
// quantised, which their tensors tell as well.
Result<GptqRules> rules_of(const Joiner& joiner, const std::string& stored, GptqRules rules) {
  const Json* dynamic = joiner.settings().find("dynamic");
  if (!dynamic || !dynamic->is_object()) return rules;
  for (const auto& [key, change] : dynamic->members()) {
    if (key.starts_with("-:")) continue;
    WEFT_TRY(const bool matches, matches_regex(key.starts_with("+:") ? key.substr(2) : key, stored));
    if (!matches) continue;
    if (!change.is_object())
      return fail(Code::invalid_argument, joiner.where(), ": dynamic.", key, " is ", change.type_name(),
                  ", not an object");
    WEFT_TRY(rules.bits, joiner.whole(change, {"bits"}, rules.bits, 1));
    WEFT_TRY(rules.group_size, joiner.whole(change, {"group_size"}, rules.group_size, -1));
    if (const Json* order = change.find("desc_act"); order && order->is_bool()) rules.act_order = order->as_bool();
    return rules;
  }
  return rules;
}

Status join_gptq_module(Joiner& joiner, const std::string& module, const GptqRules& rules, bool second_format) {
  if (rules.bits != 2 && rules.bits != 3 && rules.bits != 4 && rules.bits != 8)
    return fail(Code::unsupported, "tensor ", module, ".qweight: GPTQ with ", rules.bits,
                " bits is not supported, 2, 3, 4 and 8 are");
  const int bits = static_cast<int>(rules.bits);
  WEFT_TRY(TensorInfo codes, joiner.take(module + ".qweight", ""));
  WEFT_RETURN_IF_ERROR(expect_type(codes, StorageType::i32));
  WEFT_RETURN_IF_ERROR(expect_matrix(codes));
  if (codes.shape[0] * 32 % bits != 0)
    return fail(Code::data_corrupt, "tensor ", codes.name, " is ", shape_text(codes.shape), ", which does not hold ",
                bits, " bits for each weight");
  const int64_t in = codes.shape[0] * 32 / bits, out = codes.shape[1];
  CodedMatrix m{.format = "GPTQ", .module = module};
  m.group_size = rules.group_size > 0 ? rules.group_size : in;
  m.groups = divided_up(in, std::max<int64_t>(m.group_size, 1));
  m.codes = {.tensor = std::move(codes), .rows = out, .cols = in, .bits = bits};
  m.codes.word_bytes = 4, m.codes.word_stride = out * 4, m.codes.line_stride = 4;
  WEFT_TRY(m.scales, group_scales(joiner, module, m.groups, out));
  WEFT_TRY(TensorInfo zeros, joiner.take(module + ".qzeros", kNeeded));
  WEFT_RETURN_IF_ERROR(expect_type(zeros, StorageType::i32));
  WEFT_RETURN_IF_ERROR(
      expect_shape(zeros, {m.groups, divided_up(out * bits, 32)}, "the codes and the group size have it"));
  m.zeros = output_fields(std::move(zeros), out, m.groups, bits);
  m.zero_added = second_format ? 0 : 1, m.max_zero = (1 << bits) - 1;
  if (const auto groups = joiner.take_optional(module + ".g_idx")) {
    WEFT_TRY(m.group_of, read_groups(*groups, in, m.group_size, m.groups));
  } else if (rules.act_order && m.groups > 1) {
    return fail(Code::not_found, "tensor ", module,
                ".g_idx is absent, and desc_act says that columns are in its order");
  }
  return joiner.add(std::move(m));
}

Status join_awq_module(Joiner& joiner, const std::string& module, int64_t group_size) {
  WEFT_TRY(TensorInfo codes, joiner.take(module + ".qweight", ""));
  WEFT_RETURN_IF_ERROR(expect_type(codes, StorageType::i32));
  WEFT_RETURN_IF_ERROR(expect_matrix(codes));
  const int64_t in = codes.shape[0], words = codes.shape[1], out = words * 8;
  CodedMatrix m{.format = "AWQ", .module = module};
  m.group_size = group_size > 0 ? group_size : in;
  m.groups = divided_up(in, std::max<int64_t>(m.group_size, 1));
  m.codes = output_fields(std::move(codes), out, in, 4);
  m.codes.order = PackedFields::Order::awq;
  WEFT_TRY(m.scales, group_scales(joiner, module, m.groups, out));
  WEFT_TRY(TensorInfo zeros, joiner.take(module + ".qzeros", kNeeded));
  WEFT_RETURN_IF_ERROR(expect_type(zeros, StorageType::i32));
  WEFT_RETURN_IF_ERROR(expect_shape(zeros, {m.groups, words}, "the codes and the group size have it"));
  m.zeros = output_fields(std::move(zeros), out, m.groups, 4);
  m.zeros->order = PackedFields::Order::awq;
  return joiner.add(std::move(m));
}

}  // namespace

Status join_awq(Joiner& joiner) {
  WEFT_TRY(const int64_t bits, joiner.whole({"bits", "w_bit"}, 4, 1));
  WEFT_TRY(const int64_t group_size, joiner.whole({"group_size", "q_group_size"}, 128, -1));
  std::string version = joiner.text("version");
  for (char& c : version) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  for (const std::string& module : joiner.modules_with(".qweight")) {
    if (!version.empty() && version != "gemm")
      return fail(Code::unsupported, "tensor ", module, ".qweight: AWQ's layout ", json_quote(version),
                  " is not supported, \"gemm\" is");
    if (bits != 4)
      return fail(Code::unsupported, "tensor ", module, ".qweight: AWQ with ", bits, " bits is not supported, 4 are");
    WEFT_RETURN_IF_ERROR(join_awq_module(joiner, module, group_size));
  }
  return {};
}

Status join_gptq(Joiner& joiner) {
  GptqRules rules;
  const std::vector<std::string> modules = joiner.modules_with(".qweight");
  if (modules.empty()) return {};
  WEFT_TRY(rules.bits, joiner.whole({"bits"}, std::nullopt, 1));
  WEFT_TRY(rules.group_size, joiner.whole({"group_size"}, 128, -1));
  rules.act_order = joiner.flag("desc_act", false);
  // GPTQModel has written either key.
  const char* key = joiner.text("checkpoint_format").empty() ? "format" : "checkpoint_format";
  const std::string format = joiner.text(key);
  for (const std::string& module : modules) {
    if (!format.empty() && format != "gptq" && format != "gptq_v2")
      return fail(Code::unsupported, "tensor ", module, ".qweight: GPTQ's ", key, " ", json_quote(format),
                  " is not supported, \"gptq\" and \"gptq_v2\" are");
    std::string stored = joiner.stored_name(module + ".qweight");
    stored.resize(stored.size() - std::string_view(".qweight").size());
    WEFT_TRY(const GptqRules own, rules_of(joiner, stored, rules));
    WEFT_RETURN_IF_ERROR(join_gptq_module(joiner, module, own, format == "gptq_v2"));
  }
  return {};
}

}  // namespace weft
