#include "plan/bind.h"

namespace weft {

using namespace kernels;

namespace {

// What the overloads of bind() below ask about their op.
class Binding {
 public:
  Binding(const Op& op, const StepMemory& memory, const Weights& weights) : memory(memory), weights(weights), op_(op) {}

  size_t inputs() const { return op_.in.size(); }
  const float* in(size_t i) const { return static_cast<const float*>(memory.address(op_.in[i])); }
  const void* in_operand(size_t i) const { return memory.address(op_.in[i]); }
  int64_t in_ld(size_t i) const { return memory.ld(op_.in[i]); }
  int in_cols(size_t i) const { return op_.in[i].cols; }
  Rows in_rows(size_t i) const { return op_.in[i].rows; }
  int in_storage_cols(size_t i) const { return memory.storage_cols(op_.in[i]); }
  int in_element_bytes(size_t i) const { return operand_size_bytes(memory.operand(op_.in[i])); }

  float* out() const { return static_cast<float*>(memory.address(*op_.out)); }
  void* out_address() const { return memory.address(*op_.out); }
  int64_t out_ld() const { return memory.ld(*op_.out); }
  int out_cols() const { return op_.out->cols; }
  Operand out_operand() const { return memory.operand(*op_.out); }

  const float* vector(int id) const { return id < 0 ? nullptr : weights.vectors[id].data(); }

  const StepMemory& memory;
  const Weights& weights;

 private:
  const Op& op_;
};

EmbedArgs bind(const EmbedOp& o, const Binding& b) {
  EmbedArgs a;
  a.ids = b.memory.ids(o.ids).data();
  a.first_id = o.first_id, a.id_count = o.id_count;
  a.cols = b.out_cols(), a.scale = o.scale, a.out = b.out(), a.ld_out = b.out_ld();
  if (o.matrix >= 0) a.packed = b.weights.matrices[o.matrix];
  else a.row_data = b.weights.tables[o.table].rows, a.row_type = b.weights.tables[o.table].type;
  return a;
}

LinearArgs bind(const LinearOp& o, const Binding& b) {
  LinearArgs a;
  a.x = b.in_operand(0), a.ld_x = b.in_ld(0), a.w = b.weights.matrices[o.matrix];
  if (!o.partial) a.bias = b.weights.biases[o.matrix];
  if (o.add) a.residual = b.in(1), a.ld_residual = b.in_ld(1);
  if (o.gate) a.gate = {b.out_address(), b.out_ld(), *o.gate, b.out_operand()};
  else a.y = b.out(), a.ld_y = b.out_ld();
  if (o.apart) a.half = b.out_cols() / 2;
  return a;
}

NormArgs bind(const NormOp& o, const Binding& b) {
  return {.layer = o.layer,
          .x = b.in(0),
          .ld_x = b.in_ld(0),
          .cols = b.in_cols(0),
          .weight = b.vector(o.weight),
          .bias = b.vector(o.bias),
          .one_plus = o.one_plus,
          .eps = o.eps,
          .operand = b.out_operand(),
          .out = b.out_address(),
          .ld_out = b.out_ld()};
}

RopeAnglesArgs bind(const RopeAnglesOp& o, const Binding& b) {
  return {.positions = b.memory.inputs().positions.data(),
          .ld_positions = b.memory.limits().max_tokens,
          .axis_of = o.axis_of.empty() ? nullptr : o.axis_of.data(),
          .inv_freq = b.vector(o.inv_freq),
          .half = b.out_cols() / 2,
          .factor = o.factor,
          .out = b.out()};
}

HeadsArgs bind(const HeadsOp& o, const Binding& b) {
  return {.x = b.in(0),
          .ld_x = b.in_ld(0),
          .stride = o.in_stride,
          .out = b.out(),
          .ld_out = b.out_ld(),
          .out_stride = o.out_stride,
          .heads = o.heads,
          .dim = o.dim,
          .norm = o.norm,
          .norm_after = o.norm_after,
          .norm_weight = b.vector(o.norm_weight),
          .eps = o.eps,
          .angles = o.half > 0 ? b.in(1) : nullptr,
          .half = o.half,
          .interleaved = o.interleaved,
          .positions = b.memory.inputs().positions.data(),
          .floor_scale = o.floor_scale,
          .attn_scale = o.attn_scale};
}

AppendArgs bind(const AppendOp& o, const Binding& b) {
  const GroupInputs& group = b.memory.inputs().group(o.cache);
  const bool latent = b.inputs() == 1;
  return {.k = b.in(0),
          .v = latent ? nullptr : b.in(1),
          .ld_k = b.in_ld(0),
          .ld_v = latent ? 0 : b.in_ld(1),
          .cache = b.memory.cache_view(o.cache),
          .block_table = group.block_table.data(),
          .sequences = group.sequences.data(),
          .sequence_count = static_cast<int>(group.sequences.size())};
}

AttendArgs bind(const AttendOp& o, const Binding& b) {
  AttendArgs a = b.memory.attend_args(o.cache);
  a.q = b.in(0), a.ld_q = b.in_ld(0), a.heads = o.heads, a.scale = o.scale, a.soft_cap = o.soft_cap;
  a.operand = b.out_operand(), a.out = b.out_address(), a.ld_out = b.out_ld();
  return a;
}

ActivateArgs bind(const ActivateOp& o, const Binding& b) {
  return {.x = b.in(0),
          .ld_x = b.in_ld(0) / o.slots,
          .cols = o.cols,
          .act = o.act,
          .gated = o.gated,
          .operand = b.out_operand(),
          .out = b.out_address(),
          .ld_out = b.out_ld() / o.slots,
          .slots = o.slots};
}

template <IsElementwise F>
ElementwiseArgs<F> bind(const F& f, const Binding& b) {
  ElementwiseArgs<F> a{.f = f, .a = b.in(0), .ld_a = b.in_ld(0)};
  if (F::kInputs == 2) a.b = b.in(1), a.ld_b = b.in_ld(1);
  a.cols = b.out_cols(), a.out = b.out(), a.ld_out = b.out_ld();
  return a;
}

SelectRowsArgs bind(const SelectOp&, const Binding& b) {
  return {b.in(0), b.in_ld(0), b.memory.inputs().output_rows.data(), b.out_cols(), b.out(), b.out_ld()};
}

ToOperandArgs bind(const ToOperandOp& o, const Binding& b) {
  return {b.in(0), b.in_ld(0) / o.slots, o.cols, b.out_operand(), b.out_address(), b.out_ld() / o.slots};
}

ToOperandArgs bind(const InputOp&, const Binding& b) {
  return {b.memory.inputs().pixels, b.out_cols(), b.out_cols(), b.out_operand(), b.out_address(), b.out_ld()};
}

MixRowsArgs bind(const MixRowsOp& o, const Binding& b) {
  const MixTable& table = b.memory.inputs().mixes[o.table];
  return {b.in(0), b.in_ld(0), table.offsets.data(), table.entries.data(), b.in_cols(0), o.parts, b.out(), b.out_ld()};
}

GateArgs bind(const GateOp& o, const Binding& b) {
  const uint8_t* flags = o.bit != 0 ? b.memory.inputs().row_flags.data() : nullptr;
  return {b.in(0), b.in_ld(0), b.out_cols(), b.vector(o.gate), o.complement, flags, o.bit, b.out(), b.out_ld()};
}

ArrangeArgs bind(const ArrangeOp& o, const Binding& b) {
  return {.x = b.in(0),
          .ld_x = b.in_ld(0),
          .order = b.vector(o.order),
          .factors = b.vector(o.factors),
          .rounding = o.rounding,
          .slots = o.slots,
          .slot_stride = slot_stride(o.cols),
          .cols = o.cols > 0 ? o.cols : b.out_cols(),
          .out = b.out(),
          .ld_out = b.out_ld()};
}

PlaceArgs bind(const PlaceOp& o, const Binding& b) {
  return {b.in(0), b.in_ld(0), b.in_cols(0), o.step, b.out(), b.out_ld()};
}

MergeRowsArgs bind(const MergeFeaturesOp&, const Binding& b) {
  return {b.memory.inputs().features.data(), b.out_cols(), b.out(), b.out_ld()};
}

MergeRowsArgs bind(const StatesOp&, const Binding& b) {
  return {b.memory.inputs().states.data(), b.out_cols(), b.out(), b.out_ld()};
}

RouteArgs bind(const RouteOp& o, const Binding& b) {
  return {b.in(0), b.in_ld(0), o.rule, b.vector(o.bias), b.out(), b.out_ld()};
}

GroupRowsArgs bind(const GroupRowsOp& o, const Binding& b) {
  return {b.in(0), b.in_ld(0), o.experts, o.slots, static_cast<int32_t*>(b.out_address())};
}

ExpertsCall bind(const ExpertsOp& o, const Binding& b) {
  ExpertsCall call{{}, &o.matrices, o.experts, o.first_expert, static_cast<const int32_t*>(b.in_operand(1))};
  call.linear.x = b.in_operand(0), call.linear.ld_x = o.same_input ? b.in_ld(0) : b.in_ld(0) / o.slots;
  call.linear.x_share = o.same_input ? o.slots : 1;
  call.linear.y = b.out(), call.linear.ld_y = b.out_ld() / o.slots;
  return call;
}

ScaleRowsArgs bind(const ScaleRowsOp& o, const Binding& b) {
  return {.x = b.in(0),
          .ld_x = b.in_ld(0),
          .chosen = b.in(1),
          .ld_chosen = b.in_ld(1),
          .cols = b.in_cols(0),
          .slots = o.slots,
          .slot_stride = slot_stride(b.in_cols(0)),
          .operand = b.out_operand(),
          .out = b.out_address(),
          .ld_out = b.out_ld()};
}

CombineArgs bind(const CombineOp& o, const Binding& b) {
  return {.experts = o.experts,
          .first_expert = o.first_expert,
          .last_expert = o.last_expert,
          .x = b.in(0),
          .ld_x = b.in_ld(0),
          .chosen = b.in(1),
          .ld_chosen = b.in_ld(1),
          .cols = b.out_cols(),
          .slots = o.slots,
          .slot_stride = slot_stride(b.out_cols()),
          .weighted = o.weighted,
          .out = b.out(),
          .ld_out = b.out_ld()};
}

PerHeadCall bind(const PerHeadOp& o, const Binding& b) {
  PerHeadCall call{{}, &o.matrices, int64_t{o.in_stride} * b.in_element_bytes(0), o.out_stride};
  call.linear.x = b.in_operand(0), call.linear.ld_x = b.in_ld(0);
  call.linear.y = b.out(), call.linear.ld_y = b.out_ld();
  return call;
}

AllReduceCall bind(const AllReduceOp& o, const Binding& b) {
  AllReduceCall call{
      {.ld_part = b.in_ld(0), .cols = b.out_cols(), .out = b.out(), .ld_out = b.out_ld()}, b.in(0), o.places};
  if (o.matrix >= 0) call.args.bias = b.weights.biases[o.matrix];
  if (o.add) call.args.residual = b.in(1), call.args.ld_residual = b.in_ld(1);
  return call;
}

PickRowsCall bind(const PickRowsOp&, const Binding& b) {
  return {{.ld_part = b.in_ld(0), .cols = b.out_cols(), .out = b.out(), .ld_out = b.out_ld()}, b.in(0)};
}

AllGatherCall bind(const AllGatherOp&, const Binding& b) {
  return {{.ld_part = b.in_ld(0),
           .cols = b.in_storage_cols(0),
           .all_cols = b.out_cols(),
           .out = b.out(),
           .ld_out = b.out_ld()},
          b.in(0)};
}

GatherSlotsCall bind(const GatherSlotsOp& o, const Binding& b) {
  return {{.ld_part = b.in_ld(0) / o.slots,
           .cols = o.cols,
           .all_cols = o.cols * o.ranks,
           .out = b.out(),
           .ld_out = b.out_ld() / o.slots},
          b.in(0),
          o.ranks};
}

GatherRowsCall bind(const GatherRowsOp&, const Binding& b) {
  return {{.ld_part = b.in_ld(0), .cols = b.out_cols(), .out = b.out(), .ld_out = b.out_ld()}, b.in(0)};
}

ReduceScatterCall bind(const ReduceScatterOp& o, const Binding& b) {
  ReduceScatterCall call{
      {.ld_part = b.in_ld(0), .cols = b.out_cols(), .out = b.out(), .ld_out = b.out_ld()}, b.in(0), o.places};
  if (o.add) call.args.residual = b.in(1), call.args.ld_residual = b.in_ld(1);
  return call;
}

SendCall bind(const SendOp&, const Binding& b) { return {b.in(0), b.in_ld(0), b.in_rows(0)}; }

ReceiveCall bind(const ReceiveOp&, const Binding& b) {
  return {{.count = 1,
           .ld_part = b.out_ld(),
           .cols = b.out_cols(),
           .all_cols = b.out_cols(),
           .out = b.out(),
           .ld_out = b.out_ld()}};
}

AdapterInCall bind(const AdapterInOp& o, const Binding& b) {
  AdapterInCall call;
  call.op = &o, call.rows = b.in_rows(0);
  call.linear.x = b.in_operand(0), call.linear.ld_x = o.same_input ? b.in_ld(0) : b.in_ld(0) / o.slots;
  call.linear.x_share = o.same_input ? o.slots : 1;
  call.linear.y = b.out(), call.linear.ld_y = b.out_ld() / o.slots;
  if (o.experts) call.grouped = static_cast<const int32_t*>(b.in_operand(1));
  return call;
}

AdapterOutCall bind(const AdapterOutOp& o, const Binding& b) {
  AdapterOutCall call;
  call.op = &o, call.rows = b.in_rows(0);
  call.linear.x = b.in(0), call.linear.ld_x = b.in_ld(0) / o.slots;
  call.linear.y = b.out(), call.linear.ld_y = b.out_ld() / o.slots;
  call.linear.residual = call.linear.y, call.linear.ld_residual = call.linear.ld_y;
  if (o.experts) call.grouped = static_cast<const int32_t*>(b.in_operand(1));
  return call;
}

}  // namespace

BoundArgs bind_op(const Op& op, const StepMemory& memory, const Weights& weights) {
  const Binding binding(op, memory, weights);
  return std::visit([&](const auto& kind) -> BoundArgs { return bind(kind, binding); }, op.kind);
}

}  // namespace weft
