#include "plan/trace.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "kernels/quantized_layout.h"

namespace weft {

namespace {

std::string without_weight(std::string path) {
  constexpr std::string_view kEnd = ".weight";
  if (path.ends_with(kEnd)) path.resize(path.size() - kEnd.size());
  return path;
}

// What two paths begin with, up to a dot.
std::string common_module(const std::string& a, const std::string& b) {
  size_t end = 0;
  for (size_t i = 0; i <= std::min(a.size(), b.size()); ++i) {
    const bool a_ends = i == a.size() || a[i] == '.', b_ends = i == b.size() || b[i] == '.';
    if (a_ends && b_ends) end = i;
    if (i == a.size() || i == b.size() || a[i] != b[i]) break;
  }
  return a.substr(0, end);
}

float value_at(const std::byte* row, kernels::Operand operand, int col, int row_cols) {
  if (operand == kernels::Operand::bf16) {
    uint16_t half;
    std::memcpy(&half, row + 2 * static_cast<size_t>(col), sizeof half);
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
  if (operand == kernels::Operand::int8) {
    const auto* codes = reinterpret_cast<const int8_t*>(row);
    return static_cast<float>(codes[col]) * kernels::strip_scales(codes, row_cols)[col / kernels::kStrip];
  }
  float value;
  std::memcpy(&value, row + sizeof(float) * static_cast<size_t>(col), sizeof value);
  return value;
}

float integer_at(const std::byte* row, int col) {
  int32_t value;
  std::memcpy(&value, row + sizeof value * static_cast<size_t>(col), sizeof value);
  return static_cast<float>(value);
}

}  // namespace

// ---- Names ----------------------------------------------------------------------------------------------------------

TracedPlan::TracedPlan(PlanTrace& trace, const Plan& plan, const std::string& pathless)
    : trace_(trace), plan_(plan), pathless_(pathless) {
  for (const Op& op : plan_.ops) name_op(op);
}

std::string TracedPlan::unique(std::string name) {
  std::string numbered = name;
  for (int n = 2; !used_.insert(numbered).second; ++n) numbered = name + "." + std::to_string(n);
  return numbered;
}

// The values that lie in these columns now, the last written first found.
std::vector<std::string> TracedPlan::names_of(const Value& v) const {
  std::vector<std::string> names;
  for (const auto& [value, name] : written_)
    if (value.storage == v.storage && value.first_col < v.first_col + v.cols &&
        v.first_col < value.first_col + value.cols)
      names.push_back(name);
  return names;
}

void TracedPlan::name_op(const Op& op) {
  inputs_.push_back(op.in.empty() ? std::vector<std::string>() : names_of(op.in[0]));
  std::vector<Part>& parts = parts_.emplace_back();
  if (!op.out) return;
  const std::string path = op.path.empty() ? pathless_ : without_weight(op.path);
  const std::string what = (path.empty() ? "" : ":") + std::string(op_name(op));
  const Columns all{0, op.out->cols};
  const auto slots = [](int count, int cols) {
    std::vector<Columns> columns;
    for (int i = 0; i < count; ++i) columns.push_back({i * slot_stride(cols), cols});
    return columns;
  };
  if (const auto* linear = std::get_if<LinearOp>(&op.kind)) {
    const Matrix& m = plan_.matrices[linear->matrix];
    if (linear->gate) {
      parts.push_back({path + ":gated", {all}});
    } else if (linear->add) {
      parts.push_back({path + ":residual", {all}});
    } else {
      int first = 0;
      for (const TensorRows& source : m.sources) {
        parts.push_back({without_weight(source.tensor), {{first, static_cast<int>(source.rows)}}});
        first += static_cast<int>(source.rows);
      }
    }
  } else if (const auto* heads = std::get_if<HeadsOp>(&op.kind)) {
    // In place: named by the projection whose heads they are, or by their norm.
    const std::vector<std::string> from = names_of(op.in[0]);
    const bool rotates = heads->half > 0;
    const std::string base = heads->norm_weight >= 0 || from.empty() ? path : from.back();
    parts.push_back({heads->norm_weight >= 0 && !rotates ? base : base + (rotates ? ":rotated" : ":normed"), {all}});
  } else if (const auto* route = std::get_if<RouteOp>(&op.kind)) {
    const int chosen = route->rule.chosen;
    parts.push_back({path + ":chosen", {{0, chosen}}, true});
    parts.push_back({path + ":weights", {{chosen, chosen}}});
  } else if (const auto* experts = std::get_if<ExpertsOp>(&op.kind)) {
    const Matrix &a = plan_.matrices[experts->matrices.front()], &b = plan_.matrices[experts->matrices.back()];
    parts.push_back({common_module(a.sources.front().tensor, b.sources.front().tensor) + what,
                     slots(experts->slots, static_cast<int>(a.out()))});
  } else if (const auto* activate = std::get_if<ActivateOp>(&op.kind); activate && activate->slots > 1) {
    parts.push_back({path + what, slots(activate->slots, activate->cols)});
  } else if (const auto* scale = std::get_if<ScaleRowsOp>(&op.kind)) {
    parts.push_back({path + what, slots(scale->slots, op.in[0].cols)});
  } else if (std::holds_alternative<EmbedOp>(op.kind) || std::holds_alternative<NormOp>(op.kind)) {
    parts.push_back({path, {all}});
  } else if (!std::holds_alternative<GroupRowsOp>(op.kind)) {
    parts.push_back({path + what, {all}});
  }
  std::vector<std::pair<Value, std::string>> now;
  for (Part& part : parts) {
    part.name = unique(std::move(part.name));
    const Columns first = part.columns.front(), last = part.columns.back();
    now.push_back(
        {{op.out->storage, op.out->first_col + first.first, last.first + last.cols - first.first, op.out->rows},
         part.name});
  }
  // What it overwrites is there no more.
  std::erase_if(written_, [&](const auto& old) {
    return std::any_of(now.begin(), now.end(), [&](const auto& fresh) {
      const Value &a = old.first, &b = fresh.first;
      return a.storage == b.storage && a.first_col >= b.first_col && a.first_col + a.cols <= b.first_col + b.cols;
    });
  });
  written_.insert(written_.end(), now.begin(), now.end());
}

void TracedPlan::product_inputs(std::map<std::string, ProductInput>& inputs) const {
  for (size_t i = 0; i < plan_.ops.size(); ++i) {
    const OpKind& kind = plan_.ops[i].kind;
    if ((!std::holds_alternative<LinearOp>(kind) && !std::holds_alternative<ExpertsOp>(kind)) || inputs_[i].size() != 1)
      continue;
    for (const int index : matrices_of(plan_.ops[i])) {
      const Matrix& matrix = plan_.matrices[static_cast<size_t>(index)];
      for (const TensorRows& source : matrix.sources) inputs[source.tensor] = {inputs_[i].front(), matrix.k};
    }
  }
}

void TracedPlan::describe(Json& ops) const {
  for (size_t i = 0; i < parts_.size(); ++i)
    for (const Part& part : parts_[i]) {
      Json input = Json::array();
      for (const std::string& name : inputs_[i]) input.push_back(name);
      ops.push_back(Json::object({{"name", part.name}, {"op", op_name(plan_.ops[i])}, {"input", std::move(input)}}));
    }
}

// ---- Values ---------------------------------------------------------------------------------------------------------

void TracedPlan::ran(size_t op, int rows, const void* data, int64_t ld) {
  if (std::holds_alternative<RopeAnglesOp>(plan_.ops[op].kind)) ld = plan_.ops[op].out->cols;  // no gaps between rows
  for (const Part& part : parts_[op]) {
    if (!trace_.wants(part.name)) continue;
    const Storage& storage = plan_.storages[plan_.ops[op].out->storage];
    const auto row_bytes = static_cast<size_t>(ld) * kernels::operand_size_bytes(storage.operand);
    int cols = 0;
    for (const Columns& c : part.columns) cols += c.cols;
    std::vector<float> values;
    values.reserve(static_cast<size_t>(rows) * cols);
    for (int r = 0; r < rows; ++r) {
      const std::byte* row = static_cast<const std::byte*>(data) + r * row_bytes;
      for (const Columns& c : part.columns)
        for (int col = c.first; col < c.first + c.cols; ++col)
          values.push_back(part.integers ? integer_at(row, col) : value_at(row, storage.operand, col, storage.cols));
    }
    trace_.add(part.name, rows, cols, std::move(values));
  }
}

TracedPlan& PlanTrace::add_plan(const Plan& plan, const std::string& pathless) {
  plans_.push_back(std::make_unique<TracedPlan>(*this, plan, pathless));
  return *plans_.back();
}

bool PlanTrace::wants(const std::string& name) const {
  return prefixes_.empty() ||
         std::any_of(prefixes_.begin(), prefixes_.end(), [&](const std::string& p) { return name.starts_with(p); });
}

void PlanTrace::add(const std::string& name, int rows, int cols, std::vector<float> values) {
  if (keep_ == Keep::square_sums) {
    std::vector<float> sums(static_cast<size_t>(cols));
    for (size_t i = 0; i < values.size(); ++i) sums[i % sums.size()] += values[i] * values[i];
    values = std::move(sums);
  }
  const auto known = std::find_if(values_.begin(), values_.end(), [&](const TracedValue& v) { return v.name == name; });
  if (known == values_.end()) {
    values_.push_back({name, rows, cols, std::move(values)});
    return;
  }
  WEFT_CHECK(known->cols == cols) << name << " has " << cols << " columns, before " << known->cols;
  known->rows += rows;
  if (keep_ == Keep::square_sums) {
    for (size_t i = 0; i < values.size(); ++i) known->values[i] += values[i];
    return;
  }
  known->values.insert(known->values.end(), values.begin(), values.end());
}

std::vector<TracedValue> PlanTrace::take() { return std::exchange(values_, {}); }

std::map<std::string, ProductInput> PlanTrace::product_inputs() const {
  std::map<std::string, ProductInput> inputs;
  for (const auto& plan : plans_) plan->product_inputs(inputs);
  return inputs;
}

Json PlanTrace::describe() const {
  Json ops = Json::array();
  for (const auto& plan : plans_) plan->describe(ops);
  return ops;
}

}  // namespace weft
