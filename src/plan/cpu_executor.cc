#include "plan/cpu_executor.h"

#include <algorithm>

#include "base/check.h"
#include "kernels/layout.h"

namespace weft {

using namespace kernels;

namespace {

constexpr int kLocalBlock = 64;  // tokens of a local group's block
// Threads that wait fetch so much of the weights that they will read next, in steps that wait for memory: of few rows.
constexpr size_t kAheadBytes = 192 << 10;
constexpr int kAheadRows = 32;

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

WeightFormat format_of(const Matrix& matrix, WeightForm form) {
  return matrix.format.value_or(WeightFormat{form_of(matrix, form)});
}

Plan prepare_plan(Plan plan, const CpuTable& table, WeightForm form) {
  plan = fuse_gates(fuse_residual_adds(remove_dead_ops(std::move(plan))));
  return place_operands(std::move(plan), [&](const Matrix& m) {
    const WeightFormat format = format_of(m, form);
    return is_quantized(format.form) ? format.operand : table.operand(format.form);
  });
}

CpuExecutor::CpuExecutor(Plan plan, const Weights& weights, const CpuTable& table, ThreadTeam& team, CacheMemory cache,
                         ExecutorLimits limits)
    : plan_(std::move(plan)), weights_(weights), table_(table), team_(team), cache_(std::move(cache)), limits_(limits),
      layout_(lay_out(plan_, {limits.max_tokens, limits.max_outputs, limits.max_mixed})) {
  arena_ = reserve_or_die(layout_.bytes);
  barriers_ = find_barriers(plan_, layout_, {limits_.max_tokens, limits_.max_outputs, limits_.max_mixed});
  inputs_.ids.resize(limits_.max_tokens);
  inputs_.positions.resize(static_cast<size_t>(plan_.position_axes) * limits_.max_tokens);
  inputs_.token_types.resize(limits_.max_tokens);
  if (plan_.takes_features) inputs_.features.resize(limits_.max_tokens);
  if (plan_.joined_images) inputs_.ends.resize(limits_.max_tokens);
  if (plan_.cross_group) {
    inputs_.cross_starts.resize(limits_.max_tokens), inputs_.cross_ends.resize(limits_.max_tokens);
    inputs_.row_flags.resize(limits_.max_tokens);
  }
  for (std::vector<int32_t>& indices : inputs_.indices) indices.reserve(limits_.max_mixed > 0 ? limits_.max_tokens : 0);
  inputs_.output_rows.resize(limits_.max_outputs);
  inputs_.groups.resize(plan_.groups.size());
  allocate_local_groups();
  size_t partial_bytes = 0;
  const auto groups = static_cast<int>(plan_.groups.size()),
             all = groups + static_cast<int>(plan_.local_groups.size()) + (plan_.cross_group ? 1 : 0);
  for (int g = 0; g < all; ++g) {
    const bool cross = plan_.cross_group && g + 1 == all;
    const CacheRef ref{cross ? 0 : g < groups ? g : g - groups, 0, g >= groups && !cross, cross};
    const LayerGroup& group = plan_.group(ref);
    const CacheView view = cache_view(ref);
    scratch_bytes_ = std::max(scratch_bytes_, table_.attend_scratch_bytes(group.heads, view));
    partial_bytes =
        std::max(partial_bytes, max_partials(limits_.max_sequences, limits_.max_seq_len, group.spec.kv_heads) *
                                    partial_floats(group.heads, view) * sizeof(float));
    const int blocks_per_sequence = (limits_.max_seq_len + view.tokens_per_block - 1) / view.tokens_per_block + 1;
    group_inputs(ref).block_table.reserve(static_cast<size_t>(limits_.max_sequences) *
                                          std::min(blocks_per_sequence, 1024));
    group_inputs(ref).sequences.reserve(limits_.max_sequences);
  }
  scratch_bytes_ = (scratch_bytes_ + 63) / 64 * 64;
  partials_ = reserve_or_die(partial_bytes);
  scratch_ = reserve_or_die(scratch_bytes_ * team_.size());
  walk_ = [this](int thread) { walk({thread, team_.size()}); };
  bind();
}

void* CpuExecutor::address(const Value& v) const {
  const Storage& storage = plan_.storages[v.storage];
  return arena_.data() + layout_.offset[v.storage] +
         static_cast<size_t>(v.first_col) * operand_size_bytes(storage.operand);
}

// A group's keys and values in the type that they are kept in.
CacheSpec CpuExecutor::stored_spec(CacheRef ref) const {
  CacheSpec spec = plan_.group(ref).spec;
  spec.dtype = ref.local ? cache_.local_dtype : cache_.dtype;
  return spec;
}

CacheView CpuExecutor::cache_view(CacheRef ref) const {
  const CacheSpec stored = stored_spec(ref);
  CacheView view{nullptr,
                 0,
                 cache_.tokens_per_block,
                 stored.dtype,
                 stored.kv_heads,
                 stored.k_dim,
                 stored.v_dim,
                 stored.kind == CacheSpec::Kind::latent};
  if (ref.cross) {
    view.tokens_per_block = kCrossBlock;
    view.base = cache_.cross_base + ref.index * cache_layer_bytes(stored, kCrossBlock),
    view.block_stride_bytes = cache_.cross_stride_bytes;
  } else if (ref.local) {
    view.tokens_per_block = kLocalBlock;
    view.base = local_cache_[ref.group].data(), view.block_stride_bytes = cache_layer_bytes(stored, kLocalBlock);
  } else {
    view.base = cache_.base[ref.group] + ref.index * cache_layer_bytes(stored, cache_.tokens_per_block);
    view.block_stride_bytes = cache_.block_stride_bytes[ref.group];
  }
  return view;
}

// Every sequence of a step begins a new block.
void CpuExecutor::allocate_local_groups() {
  inputs_.local_groups.resize(plan_.local_groups.size());
  for (int g = 0; g < static_cast<int>(plan_.local_groups.size()); ++g) {
    const size_t blocks =
        static_cast<size_t>(std::max(limits_.max_tokens, limits_.max_mixed) / kLocalBlock) + limits_.max_sequences + 1;
    local_cache_.push_back(reserve_or_die(blocks * cache_layer_bytes(stored_spec({g, 0, true}), kLocalBlock)));
  }
}

AttendArgs CpuExecutor::attend_args(const Op& op, const AttendOp& attend) const {
  const CacheSpec& spec = plan_.group(attend.cache).spec;
  const GroupInputs& group = group_inputs(attend.cache);
  AttendArgs args;
  args.q = static_cast<const float*>(address(op.in[0])), args.ld_q = ld(op.in[0]);
  args.cache = cache_view(attend.cache);
  args.block_table = group.block_table.data(), args.sequences = group.sequences.data(), args.plan = &group.attend;
  args.heads = attend.heads, args.scale = attend.scale, args.mask = plan_.group(attend.cache).mask;
  args.window = spec.kind == CacheSpec::Kind::window ? spec.span : 0;
  args.chunk = spec.kind == CacheSpec::Kind::chunk ? spec.span : 0;
  args.operand = plan_.storages[op.out->storage].operand;
  args.out = address(*op.out), args.ld_out = ld(*op.out);
  args.partials = reinterpret_cast<float*>(partials_.data());
  args.scratch = scratch_.data(), args.scratch_bytes = scratch_bytes_;
  return args;
}

const std::vector<int32_t>& CpuExecutor::ids_of(IdSource source) const {
  switch (source) {
    case IdSource::tokens: return inputs_.ids;
    case IdSource::positions: return inputs_.positions;
    case IdSource::token_types: return inputs_.token_types;
    case IdSource::index0: return inputs_.indices[0];
    case IdSource::index1: return inputs_.indices[1];
    case IdSource::index2: return inputs_.indices[2];
    case IdSource::index3: return inputs_.indices[3];
    case IdSource::index4: return inputs_.indices[4];
  }
  return inputs_.ids;
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
            a.ids = ids_of(o.ids).data();
            a.cols = op.out->cols, a.scale = o.scale, a.out = out(), a.ld_out = ld(*op.out);
            if (o.matrix >= 0) a.packed = weights_.matrices[o.matrix];
            else a.row_data = weights_.tables[o.table].rows, a.row_type = weights_.tables[o.table].type;
            bound.args = a;
          },
          [&](const LinearOp& o) {
            LinearArgs a;
            a.x = address(op.in[0]), a.ld_x = ld(op.in[0]), a.w = weights_.matrices[o.matrix],
            a.bias = weights_.biases[o.matrix];
            if (o.add) a.residual = in(1), a.ld_residual = ld(op.in[1]);
            if (o.gate) a.gate = {address(*op.out), ld(*op.out), *o.gate, out_operand()};
            else a.y = out(), a.ld_y = ld(*op.out);
            bound.args = a;
          },
          [&](const NormOp& o) {
            bound.args = NormArgs{in(0),      ld(op.in[0]), op.in[0].cols, vector(o.weight), vector(o.bias),
                                  o.one_plus, o.eps,        out_operand(), address(*op.out), ld(*op.out)};
            bound.layer_norm = o.layer;
          },
          [&](const RopeAnglesOp& o) {
            bound.args = RopeAnglesArgs{inputs_.positions.data(),
                                        limits_.max_tokens,
                                        o.axis_of.empty() ? nullptr : o.axis_of.data(),
                                        vector(o.inv_freq),
                                        op.out->cols / 2,
                                        o.factor,
                                        out()};
          },
          [&](const HeadsOp& o) {
            HeadsArgs a;
            a.x = in(0), a.ld_x = ld(op.in[0]), a.stride = o.in_stride;
            a.out = out(), a.ld_out = ld(*op.out), a.out_stride = o.out_stride, a.heads = o.heads, a.dim = o.dim,
            a.norm = o.norm, a.norm_after = o.norm_after;
            a.norm_weight = vector(o.norm_weight), a.eps = o.eps, a.half = o.half, a.interleaved = o.interleaved;
            if (o.half > 0) a.angles = in(1);
            a.positions = inputs_.positions.data(), a.floor_scale = o.floor_scale, a.attn_scale = o.attn_scale;
            bound.args = a;
          },
          [&](const AppendOp& o) {
            const GroupInputs& group = group_inputs(o.cache);
            const bool latent = op.in.size() == 1;
            bound.args = AppendArgs{in(0),
                                    latent ? nullptr : in(1),
                                    ld(op.in[0]),
                                    latent ? 0 : ld(op.in[1]),
                                    cache_view(o.cache),
                                    group.block_table.data(),
                                    group.sequences.data(),
                                    static_cast<int>(group.sequences.size())};
          },
          [&](const AttendOp& o) { bound.args = attend_args(op, o); },
          [&](const ActivateOp& o) {
            bound.args = ActivateArgs{in(0),   ld(op.in[0]) / o.slots, o.cols,           o.act,
                                      o.gated, out_operand(),          address(*op.out), ld(*op.out) / o.slots};
            bound.slots = o.slots;
          },
          [&](const AddOp&) {
            bound.args = AddArgs{in(0), in(1), ld(op.in[0]), ld(op.in[1]), op.out->cols, out(), ld(*op.out)};
          },
          [&](const SelectOp&) {
            bound.args =
                SelectRowsArgs{in(0), ld(op.in[0]), inputs_.output_rows.data(), op.out->cols, out(), ld(*op.out)};
          },
          [&](const ToOperandOp&) {
            bound.args =
                ToOperandArgs{in(0), ld(op.in[0]), op.in[0].cols, out_operand(), address(*op.out), ld(*op.out)};
          },
          [&](const InputOp&) {
            bound.args =
                ToOperandArgs{inputs_.pixels, op.out->cols, op.out->cols, out_operand(), address(*op.out), ld(*op.out)};
          },
          [&](const MixRowsOp& o) {
            const MixTable& table = inputs_.mixes[o.table];
            bound.args = MixRowsArgs{in(0),   ld(op.in[0]), table.offsets.data(), table.entries.data(), op.in[0].cols,
                                     o.parts, out(),        ld(*op.out)};
          },
          [&](const GateOp& o) {
            const uint8_t* flags = o.bit != 0 ? inputs_.row_flags.data() : nullptr;
            bound.args = GateArgs{in(0), ld(op.in[0]), op.out->cols, vector(o.gate), o.complement,
                                  flags, o.bit,        out(),        ld(*op.out)};
          },
          [&](const PlaceOp& o) {
            bound.args = PlaceArgs{in(0), ld(op.in[0]), op.in[0].cols, o.step, out(), ld(*op.out)};
          },
          [&](const MergeFeaturesOp&) {
            bound.args = MergeRowsArgs{inputs_.features.data(), op.out->cols, out(), ld(*op.out)};
          },
          [&](const RouteOp& o) {
            bound.args = RouteArgs{in(0), ld(op.in[0]), o.rule, vector(o.bias), out(), ld(*op.out)};
          },
          [&](const GroupRowsOp& o) {
            bound.args =
                GroupRowsArgs{in(0), ld(op.in[0]), o.experts, o.slots, static_cast<int32_t*>(address(*op.out))};
          },
          [&](const ExpertsOp& o) {
            ExpertsArgs a{{}, &o.matrices, static_cast<const int32_t*>(address(op.in[1]))};
            a.linear.x = address(op.in[0]), a.linear.ld_x = o.same_input ? ld(op.in[0]) : ld(op.in[0]) / o.slots;
            a.linear.x_share = o.same_input ? o.slots : 1;
            a.linear.y = out(), a.linear.ld_y = ld(*op.out) / o.slots;
            bound.args = a;
          },
          [&](const ScaleRowsOp& o) {
            bound.args = ScaleRowsArgs{in(0),
                                       ld(op.in[0]),
                                       in(1),
                                       ld(op.in[1]),
                                       op.in[0].cols,
                                       o.slots,
                                       slot_stride(op.in[0].cols),
                                       out_operand(),
                                       address(*op.out),
                                       ld(*op.out)};
          },
          [&](const CombineOp& o) {
            bound.args = CombineArgs{
                in(0),      ld(op.in[0]), in(1),      ld(op.in[1]), op.out->cols, o.slots, slot_stride(op.out->cols),
                o.weighted, out(),        ld(*op.out)};
          },
          [&](const PerHeadOp& o) {
            const auto element = static_cast<int64_t>(operand_size_bytes(plan_.storages[op.in[0].storage].operand));
            PerHeadArgs a{{}, &o.matrices, o.in_stride * element, o.out_stride};
            a.linear.x = address(op.in[0]), a.linear.ld_x = ld(op.in[0]), a.linear.y = out(),
            a.linear.ld_y = ld(*op.out);
            bound.args = a;
          }},
      op.kind);
  return bound;
}

void CpuExecutor::bind() {
  bound_.clear();
  for (size_t i = 0; i < plan_.ops.size(); ++i) {
    BoundOp op = bind_op(plan_.ops[i]);
    op.barrier = barriers_[i];
    op.images_only = plan_.ops[i].images_only;
    bound_.push_back(op);
    // Key splits of long contexts that were spread over threads are joined by a second pass.
    if (const auto* args = std::get_if<AttendArgs>(&op.args))
      bound_.push_back({AttendCombine{*args}, Rows::tokens, 1, false, op.images_only, true, -1, args->plan});
  }
  int next = -1;
  for (size_t i = bound_.size(); i-- > 0; bound_[i].next_product = next)
    if (std::holds_alternative<LinearArgs>(bound_[i].args)) next = static_cast<int>(i);
}

ThreadTeam::Ahead CpuExecutor::first_weights(int product, Part part) const {
  if (product < 0) return {};
  const PackedMatrix& w = std::get<LinearArgs>(bound_[product].args).w;
  const Range panels = share_panels((w.out + w.panel - 1) / w.panel, part);
  const size_t bytes = static_cast<size_t>(panels.last - panels.first) * w.panel_bytes;
  const std::byte* begin = w.data + panels.first * w.panel_bytes;
  return {begin, begin + std::min(bytes, kAheadBytes)};
}

// Threads take pieces of a product of many rows as they get done: a core that others use too may be several times
// slower than the rest for a while. With few rows a piece would be over before its stream from memory is under way, and
// over several NUMA nodes each thread reads what lies near it.
void CpuExecutor::run_linear(const LinearArgs& args, int rows, Part part, std::atomic<int>& next_task) const {
  constexpr int kRows = 32, kMostPerThread = 8;
  constexpr int64_t kLeast = 1 << 16;  // outputs of a piece
  const int64_t per_thread = int64_t{args.w.out} * rows / (part.count * kLeast);
  if (rows <= kRows || part.count == 1 || team_.spans_nodes() || per_thread < 2) return table_.linear(args, rows, part);
  const int tasks = part.count * (per_thread >= kMostPerThread ? kMostPerThread : per_thread >= 4 ? 4 : 2);
  for (int task = next_task.fetch_add(1, std::memory_order_relaxed); task < tasks;
       task = next_task.fetch_add(1, std::memory_order_relaxed))
    table_.linear(args, rows, {task, tasks});
}

void CpuExecutor::run_op(size_t index, Part part) {
  const BoundOp& op = bound_[index];
  const int rows = (op.rows == Rows::tokens  ? inputs_.tokens
                    : op.rows == Rows::mixed ? inputs_.mixed
                                             : inputs_.outputs) *
                   op.slots;
  std::visit(
      Overloaded{[&](const EmbedArgs& a) { table_.embed(a, rows, part); },
                 [&](const LinearArgs& a) { run_linear(a, rows, part, tasks_[index].next); },
                 [&](const NormArgs& a) { (op.layer_norm ? table_.layer_norm : table_.rms_norm)(a, rows, part); },
                 [&](const RopeAnglesArgs& a) { table_.rope_angles(a, rows, part); },
                 [&](const HeadsArgs& a) { table_.heads(a, rows, part); },
                 [&](const AppendArgs& a) { table_.append(a, rows, part); },
                 [&](const AttendArgs& a) { table_.attend(a, rows, part); },
                 [&](const AttendCombine& a) { table_.attend_combine(a.args, rows, part); },
                 [&](const ActivateArgs& a) { table_.activate(a, rows, part); },
                 [&](const AddArgs& a) { table_.add(a, rows, part); },
                 [&](const SelectRowsArgs& a) { table_.select_rows(a, rows, part); },
                 [&](const ToOperandArgs& a) { table_.to_operand(a, rows, part); },
                 [&](const MixRowsArgs& a) { table_.mix_rows(a, rows, part); },
                 [&](const GateArgs& a) { table_.gate(a, rows, part); },
                 [&](const PlaceArgs& a) { table_.place(a, rows, part); },
                 [&](const MergeRowsArgs& a) { table_.merge_rows(a, rows, part); },
                 [&](const RouteArgs& a) { table_.route(a, rows, part); },
                 [&](const GroupRowsArgs& a) { table_.group_rows(a, rows, part); },
                 [&](const ExpertsArgs& a) { run_experts(a, part); },
                 [&](const ScaleRowsArgs& a) { table_.scale_rows(a, rows, part); },
                 [&](const CombineArgs& a) { table_.combine(a, rows, part); },
                 [&](const PerHeadArgs& a) { run_per_head(a, rows, part); }},
      op.args);
}

// Only experts with rows are read.
void CpuExecutor::run_experts(const ExpertsArgs& args, Part part) const {
  const size_t experts = args.matrices->size();
  const int32_t* entries = args.grouped + experts + 1;
  LinearArgs linear = args.linear;
  for (size_t e = 0; e < experts; ++e) {
    const int32_t first = args.grouped[e], rows = args.grouped[e + 1] - first;
    if (rows == 0) continue;
    linear.w = weights_.matrices[(*args.matrices)[e]], linear.row_map = entries + first;
    table_.linear(linear, rows, part);
  }
}

void CpuExecutor::run_per_head(const PerHeadArgs& args, int rows, Part part) const {
  const auto heads = static_cast<int64_t>(args.matrices->size());
  // Whole heads for each thread while there are enough of them, else all threads on each head.
  const bool whole = heads >= part.count;
  const int64_t first = whole ? heads * part.index / part.count : 0,
                last = whole ? heads * (part.index + 1) / part.count : heads;
  for (int64_t h = first; h < last; ++h) {
    LinearArgs linear = args.linear;
    linear.x = static_cast<const std::byte*>(args.linear.x) + h * args.in_stride_bytes;
    linear.y = args.linear.y + h * args.out_stride;
    linear.w = weights_.matrices[(*args.matrices)[h]];
    table_.linear(linear, rows, whole ? Part{0, 1} : part);
  }
}

void CpuExecutor::measure_ops() {
  std::vector<std::string> names;
  for (const Op& op : plan_.ops) {
    names.push_back(op_class(plan_, op));
    if (std::holds_alternative<AttendOp>(op.kind)) names.push_back("attend_combine");
  }
  names.push_back("sampling");
  times_ = std::make_unique<OpTimes>(std::move(names));
}

void CpuExecutor::walk(Part part) {
  OpTimes* const times = part.index == 0 ? times_.get() : nullptr;
  if (times) times->start(inputs_.outputs == inputs_.tokens);
  const bool ahead_helps = inputs_.tokens <= kAheadRows;
  int product = -1;
  ThreadTeam::Ahead ahead;  // of what is left of its first weights
  for (size_t i = first_; i < last_; ++i) {
    const BoundOp& op = bound_[i];
    if (op.combine_of && op.combine_of->combines.empty()) continue;
    if (op.barrier) {  // also before an op that is left out: the next one counts on it
      if (ahead_helps && op.next_product != product) product = op.next_product, ahead = first_weights(product, part);
      team_.barrier(ahead);
    }
    if (op.images_only && !inputs_.has_images) continue;
    if (times) times->waited(i);
    run_op(i, part);
    if (times) times->ran(i);
  }
  if (*tail_) {
    team_.barrier();
    if (times) times->waited(bound_.size());
    (*tail_)(part);
    if (times) times->ran(bound_.size());
  }
}

void CpuExecutor::plan_group(CacheRef ref) {
  const LayerGroup& group = plan_.group(ref);
  GroupInputs& in = group_inputs(ref);
  if (ref.local) {
    in.block_table.clear();
    for (SequenceView& sequence : in.sequences) {
      sequence.first_position = sequence.first_block = 0;
      sequence.table_offset = static_cast<int64_t>(in.block_table.size());
      for (int row = 0; row < sequence.rows; row += kLocalBlock)
        in.block_table.push_back(static_cast<int32_t>(in.block_table.size()));
    }
  }
  const bool window = group.spec.kind == CacheSpec::Kind::window, chunk = group.spec.kind == CacheSpec::Kind::chunk;
  plan_attention(in.sequences, cache_view(ref), group.heads, group.mask, window ? group.spec.span : 0,
                 chunk ? group.spec.span : 0, team_.size(), in.attend);
}

void CpuExecutor::plan_groups() {
  for (size_t g = 0; g < plan_.groups.size(); ++g) plan_group({static_cast<int>(g), 0, false});
  for (size_t g = 0; g < plan_.local_groups.size(); ++g) plan_group({static_cast<int>(g), 0, true});
  if (plan_.cross_group) plan_group({0, 0, false, true});
  // The inputs' vectors may have moved, and the number of sequences is the step's.
  size_t i = 0;
  for (const Op& op : plan_.ops) {
    BoundOp& bound = bound_[i++];
    if (auto* append = std::get_if<AppendArgs>(&bound.args)) {
      const GroupInputs& in = group_inputs(std::get<AppendOp>(op.kind).cache);
      append->block_table = in.block_table.data(), append->sequences = in.sequences.data();
      append->sequence_count = static_cast<int>(in.sequences.size());
    } else if (auto* attend = std::get_if<AttendArgs>(&bound.args)) {
      const GroupInputs& in = group_inputs(std::get<AttendOp>(op.kind).cache);
      attend->block_table = in.block_table.data(), attend->sequences = in.sequences.data();
      std::get<AttendCombine>(bound_[i++].args).args = *attend;
    }
  }
}

void CpuExecutor::run(const std::function<void(Part)>& tail, bool replay) {
  WEFT_CHECK(inputs_.tokens <= limits_.max_tokens && inputs_.outputs <= limits_.max_outputs)
      << "the step is larger than the executor";
  if (!replay) bind();
  plan_groups();
  tail_ = &tail;
  first_ = 0, last_ = bound_.size();
  reset_tasks();
  team_.run(walk_);
}

void CpuExecutor::begin_pieces() {
  WEFT_CHECK(inputs_.tokens <= limits_.max_tokens && inputs_.outputs <= limits_.max_outputs)
      << "the step is larger than the executor";
  bind();
  plan_groups();
  last_ = 0;
}

bool CpuExecutor::run_piece(int ops) {
  static const std::function<void(Part)> nothing;
  tail_ = &nothing;
  first_ = last_, last_ = std::min(bound_.size(), first_ + ops);
  reset_tasks();
  team_.run(walk_);
  return last_ < bound_.size();
}

// No thread runs yet.
void CpuExecutor::reset_tasks() {
  if (tasks_.size() != bound_.size()) tasks_ = std::vector<TaskCounter>(bound_.size());
  for (size_t i = first_; i < last_; ++i) tasks_[i].next.store(0, std::memory_order_relaxed);
}

const float* CpuExecutor::output() const { return static_cast<const float*>(address(plan_.output)); }
int64_t CpuExecutor::output_ld() const { return ld(plan_.output); }

}  // namespace weft
