#include "plan/cpu_executor.h"

#include <algorithm>

#include "base/check.h"

namespace weft {

using namespace kernels;

namespace {

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;

Memory reserve_or_die(size_t bytes) {
  auto memory = Memory::reserve(bytes, true);
  WEFT_CHECK(memory.ok()) << memory.error().to_string();  // address space for a step's values
  return std::move(memory).value();
}

}  // namespace

WeightForm form_of(const Matrix& matrix, WeightForm form) { return matrix.keep_float32 ? WeightForm::f32 : form; }

WeightFormat format_of(const Matrix& matrix, WeightForm form) { return matrix.format.value_or(WeightFormat{form_of(matrix, form)}); }

Plan prepare_plan(Plan plan, const CpuTable& table, WeightForm form) {
  plan = fuse_residual_adds(remove_dead_ops(std::move(plan)));
  return place_operands(std::move(plan), [&](const Matrix& m) {
    const WeightFormat format = format_of(m, form);
    return is_quantized(format.form) ? format.operand : table.operand(format.form);
  });
}

CpuExecutor::CpuExecutor(Plan plan, const Weights& weights, const CpuTable& table, ThreadTeam& team, CacheMemory cache, ExecutorLimits limits)
    : plan_(std::move(plan)), weights_(weights), table_(table), team_(team), cache_(std::move(cache)), limits_(limits),
      layout_(lay_out(plan_, limits.max_tokens, limits.max_outputs)) {
  arena_ = reserve_or_die(layout_.bytes);
  barriers_ = find_barriers(plan_, layout_, limits_.max_tokens, limits_.max_outputs);
  inputs_.ids.resize(limits_.max_tokens);
  inputs_.positions.resize(static_cast<size_t>(plan_.position_axes) * limits_.max_tokens);
  inputs_.output_rows.resize(limits_.max_outputs);
  inputs_.groups.resize(plan_.groups.size());
  size_t partial_bytes = 0;
  for (size_t g = 0; g < plan_.groups.size(); ++g) {
    const LayerGroup& group = plan_.groups[g];
    const CacheView view = cache_view({static_cast<int>(g), 0});
    scratch_bytes_ = std::max(scratch_bytes_, table_.attend_scratch_bytes(group.heads, view));
    partial_bytes = std::max(partial_bytes, max_partials(limits_.max_sequences, limits_.max_seq_len, group.spec.kv_heads) *
                                                partial_floats(group.heads, view) * sizeof(float));
    const int blocks_per_sequence = (limits_.max_seq_len + cache_.tokens_per_block - 1) / cache_.tokens_per_block + 1;
    inputs_.groups[g].block_table.reserve(static_cast<size_t>(limits_.max_sequences) * std::min(blocks_per_sequence, 1024));
    inputs_.groups[g].sequences.reserve(limits_.max_sequences);
  }
  scratch_bytes_ = (scratch_bytes_ + 63) / 64 * 64;
  partials_ = reserve_or_die(partial_bytes);
  scratch_ = reserve_or_die(scratch_bytes_ * team_.size());
  walk_ = [this](int member) { walk({member, team_.size()}); };
  bind();
}

void* CpuExecutor::address(const Value& v) const {
  const Storage& storage = plan_.storages[v.storage];
  return arena_.data() + layout_.offset[v.storage] + static_cast<size_t>(v.first_col) * operand_size_bytes(storage.operand);
}

CacheView CpuExecutor::cache_view(CacheRef ref) const {
  const CacheSpec& spec = plan_.groups[ref.group].spec;
  CacheSpec stored = spec;
  stored.dtype = cache_.dtype;
  return {cache_.base[ref.group] + ref.index * cache_layer_bytes(stored, cache_.tokens_per_block), cache_.block_stride_bytes[ref.group],
          cache_.tokens_per_block, cache_.dtype, spec.kv_heads, spec.k_dim, spec.v_dim};
}

AttendArgs CpuExecutor::attend_args(const Op& op, const AttendOp& attend) const {
  const CacheSpec& spec = plan_.groups[attend.cache.group].spec;
  const GroupInputs& group = inputs_.groups[attend.cache.group];
  AttendArgs args;
  args.q = static_cast<const float*>(address(op.in[0])), args.ld_q = ld(op.in[0]);
  args.cache = cache_view(attend.cache);
  args.block_table = group.block_table.data(), args.sequences = group.sequences.data(), args.plan = &group.attend;
  args.heads = attend.heads, args.scale = attend.scale, args.mask = attend.mask;
  args.window = spec.kind == CacheSpec::Kind::window ? spec.span : 0;
  args.chunk = spec.kind == CacheSpec::Kind::chunk ? spec.span : 0;
  args.operand = plan_.storages[op.out->storage].operand;
  args.out = address(*op.out), args.ld_out = ld(*op.out);
  args.partials = reinterpret_cast<float*>(partials_.data());
  args.scratch = scratch_.data(), args.scratch_bytes = scratch_bytes_;
  return args;
}

CpuExecutor::BoundOp CpuExecutor::bind_op(const Op& op) const {
  const auto in = [&](size_t i) { return static_cast<const float*>(address(op.in[i])); };
  const auto vector = [&](int id) { return id < 0 ? nullptr : weights_.vectors[id].data(); };
  const auto out_operand = [&] { return plan_.storages[op.out->storage].operand; };
  const auto out = [&] { return static_cast<float*>(address(*op.out)); };
  BoundOp bound;
  bound.rows = op.out ? op.out->rows : Rows::tokens;
  std::visit(
      Overloaded{
          [&](const EmbedOp& o) {
            EmbedArgs a;
            a.ids = inputs_.ids.data(), a.cols = op.out->cols, a.scale = o.scale, a.out = out(), a.ld_out = ld(*op.out);
            if (o.matrix >= 0) a.packed = weights_.matrices[o.matrix];
            else a.row_data = weights_.tables[o.table].rows, a.row_type = weights_.tables[o.table].type;
            bound.args = a;
          },
          [&](const LinearOp& o) {
            LinearArgs a;
            a.x = address(op.in[0]), a.ld_x = ld(op.in[0]), a.w = weights_.matrices[o.matrix], a.bias = weights_.biases[o.matrix];
            if (o.add) a.residual = in(1), a.ld_residual = ld(op.in[1]);
            a.y = out(), a.ld_y = ld(*op.out);
            bound.args = a;
          },
          [&](const NormOp& o) {
            bound.args = NormArgs{in(0), ld(op.in[0]), op.in[0].cols, vector(o.weight), vector(o.bias), o.one_plus, o.eps, out_operand(),
                                  address(*op.out), ld(*op.out)};
            bound.layer_norm = o.layer;
          },
          [&](const RopeAnglesOp& o) {
            bound.args = RopeAnglesArgs{inputs_.positions.data(), limits_.max_tokens, o.axis_of.empty() ? nullptr : o.axis_of.data(),
                                        vector(o.inv_freq), op.out->cols / 2, o.factor, out()};
          },
          [&](const HeadsOp& o) {
            HeadsArgs a;
            a.x = out(), a.ld_x = ld(*op.out), a.heads = o.heads, a.dim = o.dim, a.norm = o.norm, a.norm_after = o.norm_after;
            a.norm_weight = vector(o.norm_weight), a.eps = o.eps, a.half = o.half, a.interleaved = o.interleaved;
            if (o.half > 0) a.angles = in(1);
            a.positions = inputs_.positions.data(), a.floor_scale = o.floor_scale, a.attn_scale = o.attn_scale;
            bound.args = a;
          },
          [&](const AppendOp& o) {
            const GroupInputs& group = inputs_.groups[o.cache.group];
            bound.args = AppendArgs{in(0), in(1), ld(op.in[0]), ld(op.in[1]), cache_view(o.cache), group.block_table.data(),
                                    group.sequences.data(), static_cast<int>(group.sequences.size())};
          },
          [&](const AttendOp& o) { bound.args = attend_args(op, o); },
          [&](const ActivateOp& o) {
            bound.args = ActivateArgs{in(0), ld(op.in[0]), op.out->cols, o.act, o.gated, out_operand(), address(*op.out), ld(*op.out)};
          },
          [&](const AddOp&) { bound.args = AddArgs{in(0), in(1), ld(op.in[0]), ld(op.in[1]), op.out->cols, out(), ld(*op.out)}; },
          [&](const SelectOp&) {
            bound.args = SelectRowsArgs{in(0), ld(op.in[0]), inputs_.output_rows.data(), op.out->cols, out(), ld(*op.out)};
          },
          [&](const ToOperandOp&) {
            bound.args = ToOperandArgs{in(0), ld(op.in[0]), op.in[0].cols, out_operand(), address(*op.out), ld(*op.out)};
          }},
      op.kind);
  return bound;
}

void CpuExecutor::bind() {
  bound_.clear();
  for (size_t i = 0; i < plan_.ops.size(); ++i) {
    BoundOp op = bind_op(plan_.ops[i]);
    op.barrier = barriers_[i];
    bound_.push_back(op);
    // Key splits of long contexts that were spread over threads are joined by a second pass.
    if (const auto* args = std::get_if<AttendArgs>(&op.args)) bound_.push_back({AttendCombine{*args}, Rows::tokens, false, true, args->plan});
  }
}

void CpuExecutor::run_op(const BoundOp& op, Part part) const {
  const int rows = op.rows == Rows::tokens ? inputs_.tokens : inputs_.outputs;
  std::visit(Overloaded{[&](const EmbedArgs& a) { table_.embed(a, rows, part); },
                        [&](const LinearArgs& a) { table_.linear(a, rows, part); },
                        [&](const NormArgs& a) { (op.layer_norm ? table_.layer_norm : table_.rms_norm)(a, rows, part); },
                        [&](const RopeAnglesArgs& a) { table_.rope_angles(a, rows, part); },
                        [&](const HeadsArgs& a) { table_.heads(a, rows, part); },
                        [&](const AppendArgs& a) { table_.append(a, rows, part); },
                        [&](const AttendArgs& a) { table_.attend(a, rows, part); },
                        [&](const AttendCombine& a) { table_.attend_combine(a.args, rows, part); },
                        [&](const ActivateArgs& a) { table_.activate(a, rows, part); },
                        [&](const AddArgs& a) { table_.add(a, rows, part); },
                        [&](const SelectRowsArgs& a) { table_.select_rows(a, rows, part); },
                        [&](const ToOperandArgs& a) { table_.to_operand(a, rows, part); }},
             op.args);
}

void CpuExecutor::walk(Part part) {
  for (const BoundOp& op : bound_) {
    if (op.combine_of && op.combine_of->combines.empty()) continue;
    if (op.barrier) team_.barrier();
    run_op(op, part);
  }
  if (*tail_) {
    team_.barrier();
    (*tail_)(part);
  }
}

void CpuExecutor::plan_groups() {
  for (size_t g = 0; g < plan_.groups.size(); ++g) {
    const LayerGroup& group = plan_.groups[g];
    GroupInputs& in = inputs_.groups[g];
    const bool window = group.spec.kind == CacheSpec::Kind::window, chunk = group.spec.kind == CacheSpec::Kind::chunk;
    plan_attention(in.sequences, cache_view({static_cast<int>(g), 0}), group.heads, Mask::causal, window ? group.spec.span : 0,
                   chunk ? group.spec.span : 0, team_.size(), in.attend);
  }
  // The inputs' vectors may have moved, and the number of sequences is the step's.
  size_t i = 0;
  for (const Op& op : plan_.ops) {
    BoundOp& bound = bound_[i++];
    if (auto* append = std::get_if<AppendArgs>(&bound.args)) {
      const GroupInputs& in = inputs_.groups[std::get<AppendOp>(op.kind).cache.group];
      append->block_table = in.block_table.data(), append->sequences = in.sequences.data();
      append->sequence_count = static_cast<int>(in.sequences.size());
    } else if (auto* attend = std::get_if<AttendArgs>(&bound.args)) {
      const GroupInputs& in = inputs_.groups[std::get<AttendOp>(op.kind).cache.group];
      attend->block_table = in.block_table.data(), attend->sequences = in.sequences.data();
      std::get<AttendCombine>(bound_[i++].args).args = *attend;
    }
  }
}

void CpuExecutor::run(const std::function<void(Part)>& tail, bool replay) {
  WEFT_CHECK(inputs_.tokens <= limits_.max_tokens && inputs_.outputs <= limits_.max_outputs) << "the step is larger than the executor";
  if (!replay) bind();
  plan_groups();
  tail_ = &tail;
  team_.run(walk_);
}

const float* CpuExecutor::output() const { return static_cast<const float*>(address(plan_.output)); }
int64_t CpuExecutor::output_ld() const { return ld(plan_.output); }

}  // namespace weft
