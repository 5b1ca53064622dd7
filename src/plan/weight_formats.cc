#include "plan/weight_formats.h"

#include <algorithm>
#include <map>

#include "checkpoint/quant/coded_matrix.h"
#include "kernels/quantize.h"

namespace weft {

using namespace kernels;

namespace {

// bfloat16 as it is; float16 too where the form has no other numbers than the codes; else what it is in float32.
ScaleKind scale_kind(const CodedMatrix& m, bool may_be_f16) {
  const bool plain = m.scales.factor == 1 && !m.scales.nested;
  if (plain && m.scales.values.type == StorageType::bf16) return ScaleKind::bf16;
  return plain && may_be_f16 && m.scales.values.type == StorageType::f16 ? ScaleKind::f16 : ScaleKind::f32;
}

std::optional<CodeLevels> known_levels(const std::array<float, 16>& levels) {
  for (const CodeLevels known : {CodeLevels::e2m1, CodeLevels::nf4, CodeLevels::bnb_fp4})
    if (std::equal(levels.begin(), levels.end(), levels_of(known))) return known;
  return std::nullopt;
}

std::optional<WeightFormat> coded_format(const CodedMatrix& m, Operand operand) {
  const int k = static_cast<int>(m.cols()), whole = static_cast<int>(strip_count(k)) * kStrip;
  if (m.flat_block > 0 || !m.whole_groups) return std::nullopt;
  const int unit = m.levels ? kStrip / 2 : kStrip;  // that groups consist of
  if (m.groups > 1 && m.group_size % unit != 0) return std::nullopt;
  const int size = m.groups > 1 ? static_cast<int>(m.group_size) : whole;
  if (m.levels) {
    const auto levels = known_levels(*m.levels);
    if (!levels) return std::nullopt;
    return WeightFormat{WeightForm::fp4, {size, scale_kind(m, false), OffsetKind::none, *levels}, operand};
  }
  const int largest = (1 << m.codes.bits) - 1;
  if (const std::optional<int> shift = code_shift(m, 8, 15); shift && largest <= 15)
    return WeightFormat{WeightForm::int4, {size, scale_kind(m, true)}, operand};
  if (largest <= 15) return WeightFormat{WeightForm::int4, {size, scale_kind(m, true), OffsetKind::zero}, operand};
  if (code_shift(m, 128, 255)) return WeightFormat{WeightForm::int8, {size, scale_kind(m, true)}, operand};
  return std::nullopt;
}

}  // namespace

std::optional<int> code_shift(const CodedMatrix& m, int zero, int largest) {
  if (!m.sole_zero) return std::nullopt;
  const int shift = zero - *m.sole_zero;
  return shift >= 0 && shift + (1 << m.codes.bits) - 1 <= largest ? std::optional(shift) : std::nullopt;
}

bool arranges_input(const CodedMatrix* m) { return m && (!m->column_order.empty() || m->input_factors); }

std::optional<WeightFormat> stored_format(const TensorInfo& tensor, int k, Operand operand) {
  if (tensor.offset != 0 || tensor.cols() != k) return std::nullopt;
  if (tensor.coded) return coded_format(*tensor.coded, operand);
  const auto groups = [&](WeightForm form, int size, ScaleKind scale, OffsetKind offset = OffsetKind::none) {
    return std::optional<WeightFormat>({form, {size, scale, offset}, operand});
  };
  switch (tensor.type) {
    case StorageType::f8_e4m3: {
      if (!tensor.scale) return std::nullopt;
      // The scale grid belongs to the whole tensor. Each column of the packed matrix gets its own copy of its block's
      // scales, so that rows may be sliced and stacked at will; along k only the width of a block counts.
      const int whole = static_cast<int>(strip_count(k)) * kStrip, width = tensor.scale_block_cols;
      if (width >= k) return groups(WeightForm::fp8, whole, ScaleKind::f32);
      if (width % kStrip == 0) return groups(WeightForm::fp8, width, ScaleKind::f32);
      return std::nullopt;
    }
    case StorageType::q8_0: return groups(WeightForm::int8, 32, ScaleKind::f16);
    case StorageType::q4_0: return groups(WeightForm::int4, 32, ScaleKind::f16);
    case StorageType::q4_1: return groups(WeightForm::int4, 32, ScaleKind::f16, OffsetKind::minimum);
    case StorageType::q4_k: return groups(WeightForm::int4, 32, ScaleKind::super, OffsetKind::minimum);
    case StorageType::q6_k:
    case StorageType::q3_k: return groups(WeightForm::int6, 16, ScaleKind::super);
    case StorageType::q5_0: return groups(WeightForm::int6, 32, ScaleKind::f16);
    case StorageType::q5_1: return groups(WeightForm::int6, 32, ScaleKind::f16, OffsetKind::minimum);
    case StorageType::q5_k: return groups(WeightForm::int6, 32, ScaleKind::super, OffsetKind::minimum);
    case StorageType::q2_k: return groups(WeightForm::int6, 16, ScaleKind::super, OffsetKind::minimum);
    case StorageType::q1_0: return groups(WeightForm::int4, 128, ScaleKind::f16);
    case StorageType::tq1_0:
    case StorageType::tq2_0: return groups(WeightForm::int4, 256, ScaleKind::f16);
    case StorageType::q8_1:
    case StorageType::iq4_nl: return groups(WeightForm::int8, 32, ScaleKind::f16);
    case StorageType::q8_k:
    case StorageType::iq4_xs:
    case StorageType::iq2_xxs: return groups(WeightForm::int8, 32, ScaleKind::f32);
    case StorageType::mxfp4: return groups(WeightForm::int8, 32, ScaleKind::bf16);
    case StorageType::iq1_s:
    case StorageType::iq3_xxs:
    case StorageType::iq3_s: return groups(WeightForm::int6, 32, ScaleKind::f32);
    case StorageType::iq1_m:
    case StorageType::nvfp4: return groups(WeightForm::int6, 16, ScaleKind::f32);
    default: return std::nullopt;  // groups of 16 codes in 8 bits (iq2_xs, iq2_s), and what is not quantised
  }
}

namespace {

class FormatChooser {
 public:
  FormatChooser(Plan plan, const Checkpoint& checkpoint, const FormatOptions& options)
      : plan_(std::move(plan)), checkpoint_(checkpoint), options_(options) {}

  Plan choose() {
    const int head = head_matrix();
    const int count = static_cast<int>(plan_.matrices.size());
    for (int i = 0; i < count; ++i) {
      Matrix& m = plan_.matrices[i];
      if (m.borrowed() != Borrowed::no) continue;  // as its owner has it
      if (m.keep_float32) m.format = WeightFormat{WeightForm::f32};
      else if (options_.quantize != Quantize::none) m.format = quantized(i, i == head);
      else choose_stored(i);
    }
    make_lists_equal();
    if (options_.quantize != Quantize::none) untie_embedding();
    split();
    return std::move(plan_);
  }

 private:
  // The matrix that makes the logits, -1 if the plan's output is something else.
  int head_matrix() const {
    if (plan_.head != HeadKind::lm) return -1;
    for (const Op& op : plan_.ops)
      if (const auto* linear = std::get_if<LinearOp>(&op.kind); linear && op.out->storage == plan_.output.storage)
        return linear->matrix;
    return -1;
  }

  WeightFormat quantized(int index, bool head) const {
    const WeightForm form = options_.quantize == Quantize::int8 || head ? WeightForm::int8 : WeightForm::int4;
    return quantized_format(form, plan_.matrices[index].k,
                            options_.form == WeightForm::f32 ? Operand::f32
                            : reads_part_of_a_row(index)     ? Operand::f32_as_bf16
                                                             : Operand::int8);
  }

  // Heads, and slots of experts, are parts of a row; a row in int8 form is only whole.
  bool reads_part_of_a_row(int matrix) const {
    const auto among = [&](const std::vector<int>& list) {
      return std::find(list.begin(), list.end(), matrix) != list.end();
    };
    return std::any_of(plan_.ops.begin(), plan_.ops.end(), [&](const Op& op) {
      if (const auto* experts = std::get_if<ExpertsOp>(&op.kind))
        return !experts->same_input && among(experts->matrices);
      const auto* heads = std::get_if<PerHeadOp>(&op.kind);
      return heads && among(heads->matrices);
    });
  }

  void choose_stored(int index) {
    Matrix& m = plan_.matrices[index];
    m.format = WeightFormat{options_.form};
    std::vector<Held> held;
    for (const TensorRows& source : m.sources) held.push_back(held_as(source, m));
    const bool product = can_split(index);
    if (!product) {
      // Only plain products can have their input arranged; experts have it rounded all together (round_experts).
      if (std::any_of(held.begin(), held.end(), [](const Held& h) { return h.arranged != nullptr; })) return;
      for (Held& h : held) h.rounding = {};
    }
    if (std::all_of(held.begin(), held.end(), [&](const Held& h) { return h == held[0]; })) {
      m.format = held[0].format;
      if (held[0].changes_input()) inputs_[index] = held[0];
    } else if (product) {
      mixed_[index] = std::move(held);
    }
  }

  // A source's format, for what its products' input must be arranged (null: nothing), and how it is rounded.
  struct Held {
    WeightFormat format;
    const CodedMatrix* arranged = nullptr;
    InputRounding rounding = {};
    bool changes_input() const { return arranged || rounding.kind != InputRounding::Kind::none; }
    bool operator==(const Held& other) const {
      return format == other.format && same_arrangement(arranged, other.arranged) && rounding == other.rounding;
    }
  };

  static bool same_arrangement(const CodedMatrix* a, const CodedMatrix* b) {
    if (a == b || !a || !b) return a == b;
    return a->column_order == b->column_order && input_factors_of(*a) == input_factors_of(*b);
  }

  // In the order in which the columns are kept; empty if there are none.
  static std::vector<float> input_factors_of(const CodedMatrix& m) {
    if (!m.input_factors) return {};
    auto factors = read_all(*m.input_factors);
    if (!factors.ok()) return std::vector<float>(static_cast<size_t>(m.cols()));  // the loader finds the file's fault
    if (m.column_order.empty()) return std::move(factors).value();
    std::vector<float> ordered;
    for (const int32_t column : m.column_order) ordered.push_back((*factors)[static_cast<size_t>(column)]);
    return ordered;
  }

  // Fused experts in fp8, stored as [in, out], whose k has one scale.
  static std::optional<WeightFormat> transposed_format(const TensorInfo& tensor, const TensorRows& source, int k,
                                                       Operand operand) {
    if (tensor.type != StorageType::f8_e4m3 || !tensor.scale || tensor.shape.size() != 3) return std::nullopt;
    const int64_t block = tensor.scale_block_rows;
    if (source.first_row / block != (source.first_row + k - 1) / block) return std::nullopt;
    return WeightFormat{WeightForm::fp8, {static_cast<int>(strip_count(k)) * kStrip, ScaleKind::f32}, operand};
  }

  Held held_as(const TensorRows& source, const Matrix& m) const {
    const Operand operand = options_.form == WeightForm::f32 ? Operand::f32 : Operand::f32_as_bf16;
    const TensorInfo* tensor = checkpoint_.find(source.tensor);
    Held held{*m.format};
    if (!tensor) return held;
    if (options_.round_inputs) held.rounding = tensor->input_rounding;
    if (options_.dequantize) return held;
    const std::optional<WeightFormat> format =
        source.transposed ? transposed_format(*tensor, source, m.k, operand) : stored_format(*tensor, m.k, operand);
    if (!format) return held;
    held.format = *format;
    if (arranges_input(tensor->coded)) held.arranged = tensor->coded;
    return held;
  }

  // The matrices of one op (experts, heads) read one value, so they must agree.
  void make_lists_equal() {
    for (const Op& op : plan_.ops) {
      const auto* experts = std::get_if<ExpertsOp>(&op.kind);
      const auto* heads = std::get_if<PerHeadOp>(&op.kind);
      if (!experts && !heads) continue;
      const std::vector<int>& list = experts ? experts->matrices : heads->matrices;
      const auto same = [&](int i) { return plan_.matrices[i].format == plan_.matrices[list[0]].format; };
      if (!std::all_of(list.begin(), list.end(), same))
        for (const int i : list) plan_.matrices[i].format = WeightFormat{options_.form};
    }
  }

  // Only plain products can be cut into several.
  bool can_split(int matrix) const {
    bool product = false, embedding = false;
    for (const Op& op : plan_.ops) {
      if (const auto* linear = std::get_if<LinearOp>(&op.kind)) product = product || linear->matrix == matrix;
      if (const auto* embed = std::get_if<EmbedOp>(&op.kind)) embedding = embedding || embed->matrix == matrix;
    }
    return product && !embedding;
  }

  // Quantising the head must not touch the embedding: its rows are read where the file is mapped.
  void untie_embedding() {
    for (Op& op : plan_.ops) {
      auto* embed = std::get_if<EmbedOp>(&op.kind);
      if (!embed || embed->matrix < 0) continue;
      const Matrix& m = plan_.matrices[embed->matrix];
      if (m.borrowed() != Borrowed::no) continue;
      const TensorInfo* tensor = m.sources.size() == 1 ? checkpoint_.find(m.sources[0].tensor) : nullptr;
      const bool plain =
          tensor && tensor->is_plain() &&
          (tensor->type == StorageType::f32 || tensor->type == StorageType::bf16 || tensor->type == StorageType::f16);
      if (!plain) continue;
      plan_.tables.push_back(m.sources[0]);
      plan_.table_cols.push_back(m.k);
      embed->table = static_cast<int>(plan_.tables.size()) - 1, embed->matrix = -1;
    }
  }

  // Replaces the products with matrices of mixed formats by one for each run of equal formats, side by side in the same
  // value.
  std::map<int, std::vector<int>> split_matrices() {
    std::map<int, std::vector<int>> parts;  // of a mixed matrix
    for (const auto& [index, held] : mixed_) {
      const Matrix whole = plan_.matrices[index];
      for (size_t first = 0; first < held.size();) {
        size_t last = first + 1;
        while (last < held.size() && held[last] == held[first]) ++last;
        Matrix part = whole;
        part.format = held[first].format;
        part.sources.assign(whole.sources.begin() + static_cast<ptrdiff_t>(first),
                            whole.sources.begin() + static_cast<ptrdiff_t>(last));
        if (!whole.biases.empty())
          part.biases.assign(whole.biases.begin() + static_cast<ptrdiff_t>(first),
                             whole.biases.begin() + static_cast<ptrdiff_t>(last));
        // The first takes the place of the whole, so that no index moves.
        const int place = first == 0 ? index : static_cast<int>(plan_.matrices.size());
        if (held[first].changes_input()) inputs_[place] = held[first];
        if (first == 0) plan_.matrices[index] = std::move(part);
        else plan_.matrices.push_back(std::move(part));
        parts[index].push_back(place);
        first = last;
      }
    }
    return parts;
  }

  // Rebuilds the list of ops: products with mixed matrices in parts, and with arranged ones behind what arranges their
  // input.
  void split() {
    const std::map<int, std::vector<int>> parts = split_matrices();
    std::vector<Op> ops;
    std::vector<size_t> layer_starts;
    for (size_t i = 0; i < plan_.ops.size(); ++i) {
      Op& op = plan_.ops[i];
      while (layer_starts.size() < plan_.layer_starts.size() && plan_.layer_starts[layer_starts.size()] == i)
        layer_starts.push_back(ops.size());
      const auto* linear = std::get_if<LinearOp>(&op.kind);
      const auto found = linear ? parts.find(linear->matrix) : parts.end();
      if (found == parts.end()) {
        if (linear) arrange_input(op, linear->matrix, ops);
        if (const auto* experts = std::get_if<ExpertsOp>(&op.kind)) round_input(op, *experts, ops);
        ops.push_back(std::move(op));
        continue;
      }
      int first_col = op.out->first_col;
      for (const int matrix : found->second) {
        const Matrix& m = plan_.matrices[matrix];
        Op piece = op;
        std::get<LinearOp>(piece.kind).matrix = matrix;
        piece.path = m.sources.front().tensor;
        piece.out->first_col = first_col, piece.out->cols = static_cast<int>(m.out());
        first_col += piece.out->cols;
        arrange_input(piece, matrix, ops);
        ops.push_back(std::move(piece));
      }
    }
    plan_.ops = std::move(ops);
    plan_.layer_starts = std::move(layer_starts);
  }

  // Puts an op before a product that makes the order of columns that its matrix has.
  void arrange_input(Op& product, int matrix, std::vector<Op>& ops) {
    const auto found = inputs_.find(matrix);
    if (found == inputs_.end()) return;
    const auto vector = [&](std::vector<float> values) {
      if (values.empty()) return -1;
      const auto size = static_cast<int64_t>(values.size());
      plan_.vectors.push_back({.tensor = "", .size = size, .values = std::move(values), .divided_by = ""});
      return static_cast<int>(plan_.vectors.size()) - 1;
    };
    ArrangeOp arrange{.rounding = found->second.rounding};
    if (const CodedMatrix* m = found->second.arranged) {
      arrange.order = vector({m->column_order.begin(), m->column_order.end()});
      arrange.factors = vector(input_factors_of(*m));
    }
    push_arrange(arrange, product, ops);
  }

  // The input of experts, which all read one value, is rounded as the format of them all says.
  void round_input(Op& op, const ExpertsOp& experts, std::vector<Op>& ops) {
    if (!options_.round_inputs) return;
    const TensorInfo* tensor = checkpoint_.find(plan_.matrices[experts.matrices.front()].sources.front().tensor);
    if (!tensor || tensor->input_rounding.kind == InputRounding::Kind::none) return;
    ArrangeOp arrange{.rounding = tensor->input_rounding};
    if (!experts.same_input) arrange.slots = experts.slots, arrange.cols = plan_.matrices[experts.matrices.front()].k;
    push_arrange(arrange, op, ops);
  }

  void push_arrange(const ArrangeOp& arrange, Op& reader, std::vector<Op>& ops) {
    const Value x = reader.in[0], out{static_cast<int>(plan_.storages.size()), 0, x.cols, x.rows};
    plan_.storages.push_back({.cols = x.cols, .rows = x.rows});
    Op op{arrange, {x}, out, reader.path};
    op.images_only = reader.images_only, op.pass = reader.pass;
    ops.push_back(std::move(op));
    reader.in[0] = out;
  }

  Plan plan_;
  const Checkpoint& checkpoint_;
  const FormatOptions& options_;
  std::map<int, std::vector<Held>> mixed_;  // of the sources
  std::map<int, Held> inputs_;              // by matrix: where its products' input is arranged or rounded
};

}  // namespace

Status check_input_rounding(const Plan& plan, const Checkpoint& checkpoint) {
  const auto rounding_of = [&](const TensorRows& source) {
    const TensorInfo* tensor = checkpoint.find(source.tensor);
    return tensor ? tensor->input_rounding : InputRounding();
  };
  const auto refuse = [](const TensorRows& source, const char* why) {
    return fail(Code::unsupported, "tensor ", source.tensor, ": ", why,
                ", so --activation-quantization checkpoint is not possible")
        .about("activation-quantization");
  };
  for (const Op& op : plan.ops) {
    const auto* experts = std::get_if<ExpertsOp>(&op.kind);
    const bool heads = std::holds_alternative<PerHeadOp>(op.kind);
    for (const int index : matrices_of(op))
      for (const TensorRows& source : plan.matrices[index].sources) {
        const InputRounding rounding = rounding_of(source);
        if (rounding.kind == InputRounding::Kind::none && !experts) continue;
        if (rounding.kind == InputRounding::Kind::other)
          return refuse(source, "its format rounds inputs in a way that is not supported");
        if (heads)
          return refuse(source, "its products are part of latent attention, which has no input of its own for it");
        if (experts && rounding != rounding_of(plan.matrices[experts->matrices.front()].sources.front()))
          return refuse(source, "experts have scales of inputs of their own, and all read one input");
      }
  }
  return {};
}

Plan choose_formats(Plan plan, const Checkpoint& checkpoint, const FormatOptions& options) {
  return FormatChooser(std::move(plan), checkpoint, options).choose();
}

}  // namespace weft
