#include "plan/step_memory.h"

#include <algorithm>

#include "base/check.h"

namespace weft {

using namespace kernels;

StepInputs size_inputs(const Plan& plan, const ExecutorLimits& limits) {
  StepInputs inputs;
  inputs.ids.resize(limits.max_tokens);
  inputs.positions.resize(static_cast<size_t>(plan.position_axes) * limits.max_tokens);
  inputs.token_types.resize(limits.max_tokens);
  inputs.adapter_of.resize(limits.max_tokens, -1);
  inputs.gathered_adapters.reserve(limits.max_tokens), inputs.adapter_rows.reserve(limits.max_tokens);
  inputs.adapter_groups.reserve(limits.max_tokens);
  if (plan.takes_features) inputs.features.resize(limits.max_tokens);
  if (plan.takes_states) inputs.states.resize(limits.max_tokens);
  if (plan.joined_images) inputs.ends.resize(limits.max_tokens);
  if (plan.cross_group) {
    inputs.cross_starts.resize(limits.max_tokens), inputs.cross_ends.resize(limits.max_tokens);
    inputs.row_flags.resize(limits.max_tokens);
  }
  inputs.output_rows.resize(limits.max_outputs);
  inputs.summary_bytes.resize(limits.max_outputs);
  inputs.groups.resize(plan.groups.size());
  inputs.local_groups.resize(plan.local_groups.size());
  return inputs;
}

StepMemory::StepMemory(const Plan& plan, const CpuTable& table, int threads, CacheMemory cache, ExecutorLimits limits,
                       std::shared_ptr<StepInputs> inputs)
    : plan_(plan), cache_(std::move(cache)), limits_(limits), layout_(lay_out(plan, limits.rows())),
      arena_(reserve_or_throw(layout_.bytes)),
      inputs_(inputs ? std::move(inputs) : std::make_shared<StepInputs>(size_inputs(plan, limits))) {
  reserve_local_groups();
  reserve_attention(table, threads);
}

// Every sequence of a step begins a new block.
void StepMemory::reserve_local_groups() {
  const size_t blocks =
      static_cast<size_t>(std::max(limits_.max_tokens, limits_.max_mixed) / kLocalBlock) + limits_.max_sequences + 1;
  for (const CacheRef ref : plan_.caches())
    if (ref.kind == CacheRef::Kind::local)
      local_cache_.push_back(reserve_or_throw(blocks * cache_layer_bytes(stored_spec(ref), kLocalBlock)));
}

void StepMemory::reserve_attention(const CpuTable& table, int threads) {
  size_t partial_bytes = 0;
  for (const CacheRef ref : plan_.caches()) {
    const LayerGroup& group = plan_.group(ref);
    const CacheView view = cache_view(ref);
    scratch_bytes_ = std::max(scratch_bytes_, table.attend_scratch_bytes(group.heads, view));
    partial_bytes =
        std::max(partial_bytes, max_partials(limits_.max_sequences, limits_.max_seq_len, group.spec.kv_heads) *
                                    partial_floats(group.heads, view) * sizeof(float));
    const int blocks_per_sequence = (limits_.max_seq_len + view.tokens_per_block - 1) / view.tokens_per_block + 1;
    GroupInputs& inputs = inputs_->group(ref);
    if (ref.kind != CacheRef::Kind::paged)  // else the worker's
      inputs.block_table.reserve(static_cast<size_t>(limits_.max_sequences) * std::min(blocks_per_sequence, 1024));
    inputs.sequences.reserve(limits_.max_sequences);
  }
  for (const Op& op : plan_.ops)
    if (const auto* adapter = std::get_if<AdapterOutOp>(&op.kind); adapter && adapter->operand != Operand::f32) {
      const Value& inner = op.in[0];
      const size_t elements = static_cast<size_t>(limits_.rows().of(inner.rows)) * static_cast<size_t>(ld(inner));
      scratch_bytes_ = std::max(scratch_bytes_, elements * static_cast<size_t>(operand_size_bytes(adapter->operand)));
    }
  scratch_bytes_ = (scratch_bytes_ + 63) / 64 * 64;
  partials_ = reserve_or_throw(partial_bytes);
  scratch_ = reserve_or_throw(scratch_bytes_ * static_cast<size_t>(threads));
}

const std::vector<int32_t>& StepMemory::ids(IdSource source) const {
  const VisionIndices& vision = inputs_->indices;
  switch (source) {
    case IdSource::tokens: return inputs_->ids;
    case IdSource::positions: return inputs_->positions;
    case IdSource::token_types: return inputs_->token_types;
    case IdSource::class_rows: return vision.class_rows;
    case IdSource::tile_rows: return vision.tile_rows;
    case IdSource::canvas_rows: return vision.canvas_rows;
    case IdSource::canvas_tiles: return vision.canvas_tiles;
    case IdSource::padded_canvas_tiles: return vision.padded_canvas_tiles;
  }
  return inputs_->ids;
}

void* StepMemory::address(const Value& v) const {
  return arena_.data() + layout_.offset[v.storage] + static_cast<size_t>(v.first_col) * operand_size_bytes(operand(v));
}

// A group's keys and values in the type that they are kept in.
CacheSpec StepMemory::stored_spec(CacheRef ref) const {
  CacheSpec spec = plan_.group(ref).spec;
  spec.dtype = ref.kind == CacheRef::Kind::local ? cache_.local_dtype : cache_.dtype;
  return spec;
}

CacheView StepMemory::cache_view(CacheRef ref) const {
  const CacheSpec stored = stored_spec(ref);
  CacheView view;
  view.dtype = stored.dtype, view.latent = stored.kind == CacheSpec::Kind::latent;
  view.kv_heads = stored.kv_heads, view.k_dim = stored.k_dim, view.v_dim = stored.v_dim;
  switch (ref.kind) {
    case CacheRef::Kind::paged:
      view.tokens_per_block = cache_.tokens_per_block;
      view.base = cache_.base[ref.group], view.block_stride_bytes = cache_.block_stride_bytes[ref.group];
      break;
    case CacheRef::Kind::local:  // its layers take turns
      view.tokens_per_block = kLocalBlock;
      view.base = local_cache_[ref.group].data(), view.block_stride_bytes = cache_layer_bytes(stored, kLocalBlock);
      return view;
    case CacheRef::Kind::cross:
      view.tokens_per_block = kCrossBlock;
      view.base = cache_.cross_base, view.block_stride_bytes = cache_.cross_stride_bytes;
      break;
  }
  view.base += ref.index * cache_layer_bytes(stored, view.tokens_per_block);
  return view;
}

AttendArgs StepMemory::attend_args(CacheRef ref) const {
  const LayerGroup& layers = plan_.group(ref);
  const GroupInputs& group = inputs_->group(ref);
  AttendArgs args;
  args.cache = cache_view(ref);
  args.block_table = group.block_table.data(), args.sequences = group.sequences.data(), args.plan = &group.attend;
  args.mask = layers.mask, args.window = layers.window(), args.chunk = layers.chunk();
  args.partials = reinterpret_cast<float*>(partials_.data());
  args.scratch = scratch_.data(), args.scratch_bytes = scratch_bytes_;
  return args;
}

}  // namespace weft
