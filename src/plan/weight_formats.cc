#include "plan/weight_formats.h"

#include <algorithm>
#include <map>

#include "kernels/quantize.h"

namespace weft {

using namespace kernels;

std::optional<WeightFormat> stored_format(const TensorInfo& tensor, int k, Operand operand) {
  if (tensor.offset != 0 || tensor.cols() != k) return std::nullopt;
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
    if (options_.dequantize) return;
    std::vector<WeightFormat> formats;
    for (const TensorRows& source : m.sources) {
      const Operand operand = options_.form == WeightForm::f32 ? Operand::f32 : Operand::f32_as_bf16;
      const TensorInfo* tensor = checkpoint_.find(source.tensor);
      const bool rows = tensor && !source.transposed;
      formats.push_back((rows ? stored_format(*tensor, m.k, operand) : std::nullopt).value_or(*m.format));
    }
    if (std::all_of(formats.begin(), formats.end(), [&](const WeightFormat& f) { return f == formats[0]; }))
      m.format = formats[0];
    else if (can_split(index)) mixed_[index] = std::move(formats);
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
  void split() {
    std::map<int, std::vector<int>> parts;  // of a mixed matrix
    for (const auto& [index, formats] : mixed_) {
      const Matrix whole = plan_.matrices[index];
      for (size_t first = 0; first < formats.size();) {
        size_t last = first + 1;
        while (last < formats.size() && formats[last] == formats[first]) ++last;
        Matrix part = whole;
        part.format = formats[first];
        part.sources.assign(whole.sources.begin() + static_cast<ptrdiff_t>(first),
                            whole.sources.begin() + static_cast<ptrdiff_t>(last));
        if (!whole.biases.empty())
          part.biases.assign(whole.biases.begin() + static_cast<ptrdiff_t>(first),
                             whole.biases.begin() + static_cast<ptrdiff_t>(last));
        // The first takes the place of the whole, so that no index moves.
        const int place = first == 0 ? index : static_cast<int>(plan_.matrices.size());
        if (first == 0) plan_.matrices[index] = std::move(part);
        else plan_.matrices.push_back(std::move(part));
        parts[index].push_back(place);
        first = last;
      }
    }
    std::vector<Op> ops;
    for (Op& op : plan_.ops) {
      const auto* linear = std::get_if<LinearOp>(&op.kind);
      const auto found = linear ? parts.find(linear->matrix) : parts.end();
      if (found == parts.end()) {
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
        ops.push_back(std::move(piece));
      }
    }
    plan_.ops = std::move(ops);
  }

  Plan plan_;
  const Checkpoint& checkpoint_;
  const FormatOptions& options_;
  std::map<int, std::vector<WeightFormat>> mixed_;  // formats of the sources
};

}  // namespace

Plan choose_formats(Plan plan, const Checkpoint& checkpoint, const FormatOptions& options) {
  return FormatChooser(std::move(plan), checkpoint, options).choose();
}

}  // namespace weft
