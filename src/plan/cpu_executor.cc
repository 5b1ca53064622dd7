#include "plan/cpu_executor.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "kernels/layout.h"

namespace weft {

using namespace kernels;

namespace {

// Threads that wait fetch so much of the weights that they will read next, in steps that wait for memory: of few rows.
constexpr size_t kAheadBytes = 192 << 10;
constexpr int kAheadRows = 32;

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;

// Ops for whose kernel each slot is a row.
int slots_of(const Op& op) {
  if (const auto* gather = std::get_if<GatherSlotsOp>(&op.kind)) return gather->slots;
  if (const auto* convert = std::get_if<ToOperandOp>(&op.kind)) return convert->slots;
  return 1;
}

// Into how many tasks a product is cut for so many threads, where these take one after the other.
int task_count(const LinearArgs& args, int rows, int threads) {
  constexpr int64_t kLeast = 1 << 16;  // outputs of a task
  const int64_t per_thread = int64_t{args.w.out} * rows / (threads * kLeast);
  return threads * (per_thread >= 8 ? 8 : per_thread >= 4 ? 4 : per_thread >= 2 ? 2 : 1);
}

// The sums of parts, each of which is of one of so many ranges of columns, in turn.
void add_parts(const CpuTable& table, const ReduceArgs& all, int places, Communicator::Parts parts, int rows,
               Part part) {
  const int count = static_cast<int>(parts.size()) / places, cols = all.cols / places;
  for (int place = 0; place < places; ++place) {
    std::array<const float*, kMaxRanks> own;
    for (int p = 0; p < count; ++p)
      own[p] = reinterpret_cast<const float*>(parts[static_cast<size_t>(p * places + place)]);
    ReduceArgs args = all;
    args.parts = own.data(), args.count = count, args.cols = cols, args.out += place * cols;
    if (args.bias) args.bias += place * cols;
    if (args.residual) args.residual += place * cols;
    table.run(args, rows, part);
  }
}

}  // namespace

WeightForm form_of(const Matrix& matrix, WeightForm form) { return matrix.keep_float32 ? WeightForm::f32 : form; }

WeightFormat format_of(const Matrix& matrix, WeightForm form) {
  return matrix.format.value_or(WeightFormat{form_of(matrix, form)});
}

Plan prepare_plan(Plan plan, const CpuTable& table, WeightForm form, const AdapterForm* adapters) {
  plan = fuse_gates(fuse_residual_adds(remove_dead_ops(std::move(plan))));
  if (adapters) plan = add_adapters(std::move(plan), table, *adapters);
  return place_operands(std::move(plan), [&](const Matrix& m) {
    const WeightFormat format = format_of(m, form);
    return is_quantized(format.form) ? format.operand : table.operand(format.form);
  });
}

CpuExecutor::CpuExecutor(Plan plan, const Weights& weights, const CpuTable& table, RankSeat seat, CacheMemory cache,
                         ExecutorLimits limits, std::shared_ptr<StepInputs> inputs, bool plans_attention)
    : plan_(std::move(plan)), weights_(weights), table_(table), seat_(seat),
      plans_attention_(plans_attention || inputs == nullptr),
      memory_(plan_, table, seat.threads, std::move(cache), limits, std::move(inputs)),
      barriers_(find_barriers(plan_, memory_.layout(), limits.rows())) {
  walk_ = [this](int thread) { walk({thread, seat_.threads}); };
  bind();
}

void CpuExecutor::barrier(Ahead& ahead) {
  if (seat_.barrier) seat_.barrier->wait(ahead);
  else seat_.team.barrier(ahead);
}

void CpuExecutor::bind() {
  bound_.clear();
  appends_.assign(plan_.groups.size(), {});
  for (size_t i = 0; i < plan_.ops.size(); ++i) {
    const Op& op = plan_.ops[i];
    if (const auto* append = std::get_if<AppendOp>(&op.kind); append && append->cache.kind == CacheRef::Kind::paged) {
      std::vector<size_t>& layers = appends_[static_cast<size_t>(append->cache.group)];
      WEFT_CHECK(append->cache.index == static_cast<int>(layers.size())) << "layers of a group are out of order";
      layers.push_back(bound_.size());
    }
    BoundOp bound{.args = bind_op(op, memory_, weights_)};
    bound.rows = op.out ? op.out->rows : Rows::tokens;
    bound.slots = slots_of(op), bound.images_only = op.images_only, bound.pass = op.pass, bound.barrier = barriers_[i];
    bound_.push_back(bound);
    // Key splits of long contexts that were spread over threads are joined by a second pass.
    if (const auto* args = std::get_if<AttendArgs>(&bound.args))
      bound_.push_back(
          {.args = AttendCombineArgs{*args}, .images_only = op.images_only, .barrier = true, .combine_of = args->plan});
  }
  for (size_t i = 1; i < bound_.size(); ++i) {
    auto* const sum = std::get_if<AllReduceCall>(&bound_[i].args);
    const auto* product = std::get_if<LinearArgs>(&bound_[i - 1].args);
    if (sum && product) sum->of_product = sum->mine == product->y;
  }
  int next = -1;
  for (size_t i = bound_.size(); i-- > 0; bound_[i].next_product = next)
    if (std::holds_alternative<LinearArgs>(bound_[i].args)) next = static_cast<int>(i);
}

Ahead CpuExecutor::first_weights(int product, Part part) const {
  if (product < 0) return {};
  const PackedMatrix& w = std::get<LinearArgs>(bound_[product].args).w;
  const Range panels = share_panels((w.out + w.panel - 1) / w.panel, part);
  const size_t bytes = static_cast<size_t>(panels.last - panels.first) * w.panel_bytes;
  const std::byte* begin = w.data + panels.first * w.panel_bytes;
  return {begin, begin + std::min(bytes, kAheadBytes)};
}

// Threads take tasks of a product of many rows as they get done: a core that others use too may be several times slower
// than the rest for a while. With few rows a task would be over before its stream from memory is under way, and over
// several NUMA nodes each thread reads what lies near it.
void CpuExecutor::run_linear(const LinearArgs& args, int rows, Part part, std::atomic<int>& next_task) const {
  constexpr int kRows = 32;
  const int tasks = task_count(args, rows, part.count);
  if (rows <= kRows || part.count == 1 || seat_.team.spans_nodes() || tasks == part.count)
    return table_.run(args, rows, part);
  for (int task = next_task.fetch_add(1, std::memory_order_relaxed); task < tasks;
       task = next_task.fetch_add(1, std::memory_order_relaxed))
    table_.run(args, rows, {task, tasks});
}

// Without `mine` where the sum is taken at once. The same on all ranks, whose threads may be different in number.
Communicator::Pieces CpuExecutor::pieces_of(const AllReduceCall& call, int rows) const {
  const int wanted = memory_.limits().piece_rows, pieces = sum_pieces(rows);
  if (!call.of_product || (wanted == 0 && (pieces == 1 || !seat_.communicator->overlaps()))) return {};
  const auto ld = static_cast<size_t>(call.args.ld_part);
  const auto piece = static_cast<size_t>(wanted > 0 ? wanted : (rows + pieces - 1) / pieces);
  return {call.mine, static_cast<size_t>(rows) * ld, piece * ld};
}

void CpuExecutor::run_product(size_t index, int rows, Part part) {
  const auto& args = std::get<LinearArgs>(bound_[index].args);
  std::atomic<int>& next_task = tasks_[index].next;
  const auto* sum = index + 1 < bound_.size() ? std::get_if<AllReduceCall>(&bound_[index + 1].args) : nullptr;
  const Communicator::Pieces pieces = sum ? pieces_of(*sum, rows) : Communicator::Pieces{};
  if (pieces.mine) run_in_pieces(args, pieces, rows, part, next_task);
  else run_linear(args, rows, part, next_task);
}

// Threads take tasks of one piece after the other and wait for nobody in between.
void CpuExecutor::run_in_pieces(const LinearArgs& args, const Communicator::Pieces& sum, int rows, Part part,
                                std::atomic<int>& next_task) const {
  const Operand operand = is_quantized(args.w.form) ? args.w.operand : table_.operand(args.w.form);
  const auto piece_rows = static_cast<int>(sum.piece / static_cast<size_t>(args.ld_y));
  const int tasks = task_count(args, piece_rows, part.count), own = tasks / part.count;  // of a piece; of a thread
  const auto all = tasks * static_cast<int>(sum.count());
  const auto nth = [&](int turn) {  // over several NUMA nodes each thread has the same share of every piece
    if (!seat_.team.spans_nodes()) return next_task.fetch_add(1, std::memory_order_relaxed);
    return turn / own * tasks + part.index * own + turn % own;
  };
  int turn = 0;
  for (int task = nth(turn); task < all; task = nth(++turn)) {
    const int piece = task / tasks, first = piece * piece_rows;
    seat_.communicator->written(sum, static_cast<size_t>(piece), {part.index, part.count});
    LinearArgs some = args;
    some.x = static_cast<const std::byte*>(args.x) + first * args.ld_x * operand_size_bytes(operand);
    some.y = args.y + first * args.ld_y;
    table_.run(some, std::min(piece_rows, rows - first), {task % tasks, tasks});
  }
  seat_.communicator->written(sum, sum.count(), {part.index, part.count});
}

int CpuExecutor::row_count(Rows rows) const {
  const StepInputs& in = memory_.inputs();
  switch (rows) {
    case Rows::tokens: return in.tokens;
    case Rows::outputs: return in.outputs;
    case Rows::mixed: return in.mixed;
    case Rows::gathered: return in.home_rows.back();
  }
  return in.tokens;
}

void CpuExecutor::run_op(size_t index, Part part) {
  const int rows = row_count(bound_[index].rows) * bound_[index].slots;
  std::visit(Overloaded{[&](const LinearArgs&) { run_product(index, rows, part); },
                        [&](const ExpertsCall& call) { run_experts(call, part); },
                        [&](const PerHeadCall& call) { run_per_head(call, rows, part); },
                        [&]<class Args>(const CollectiveCall<Args>& call) { run_collective(call, rows, part); },
                        [&](const GatherSlotsCall& call) { run_gather_slots(call, rows, part); },
                        [&](const AllReduceCall& call) { run_all_reduce(call, rows, part); },
                        [&](const ReduceScatterCall& call) { run_reduce_scatter(call, rows, part); },
                        [&](const AdapterInCall& call) { run_adapter_in(call, part); },
                        [&](const AdapterOutCall& call) { run_adapter_out(call, part); },
                        [&](const SendCall& call) { run_send(call, part); },
                        [&](const ReceiveCall& call) { run_receive(call, rows, part); },
                        [&](const auto& args) { table_.run(args, rows, part); }},
             bound_[index].args);
}

// Only experts with rows are read.
void CpuExecutor::run_experts(const ExpertsCall& call, Part part) const {
  const int32_t* offsets = call.grouped + call.first_expert;
  const int32_t* entries = call.grouped + call.experts + 1;
  LinearArgs linear = call.linear;
  for (size_t e = 0; e < call.matrices->size(); ++e) {
    const int32_t first = offsets[e], rows = offsets[e + 1] - first;
    if (rows == 0) continue;
    linear.w = weights_.matrices[(*call.matrices)[e]], linear.row_map = entries + first;
    table_.run(linear, rows, part);
  }
}

void CpuExecutor::run_per_head(const PerHeadCall& call, int rows, Part part) const {
  const auto heads = static_cast<int64_t>(call.matrices->size());
  // Whole heads for each thread while there are enough of them, else all threads on each head.
  const bool whole = heads >= part.count;
  const int64_t first = whole ? heads * part.index / part.count : 0,
                last = whole ? heads * (part.index + 1) / part.count : heads;
  for (int64_t h = first; h < last; ++h) {
    LinearArgs linear = call.linear;
    linear.x = static_cast<const std::byte*>(call.linear.x) + h * call.in_stride_bytes;
    linear.y = call.linear.y + h * call.out_stride;
    linear.w = weights_.matrices[(*call.matrices)[h]];
    table_.run(linear, rows, whole ? Part{0, 1} : part);
  }
}

template <class Args>
void CpuExecutor::run_collective(const CollectiveCall<Args>& call, int rows, Part part) const {
  const Communicator::Thread thread{part.index, part.count};
  const size_t floats = static_cast<size_t>(rows) * static_cast<size_t>(call.args.ld_part);
  Communicator& ranks = *seat_.communicator;
  std::array<size_t, kMaxRanks> bytes;
  const std::vector<int32_t>& first = memory_.inputs().home_rows;
  for (int r = 0; r < ranks.size(); ++r) {
    const bool own_rows = std::is_same_v<Args, JoinRowsArgs>;
    bytes[r] = own_rows ? static_cast<size_t>(first[r + 1] - first[r]) * call.args.ld_part * sizeof(float)
                        : floats * sizeof(float);
  }
  const auto count = static_cast<size_t>(ranks.size());
  const Communicator::Parts parts = ranks.gather(call.mine, std::span(bytes).first(count), thread);
  Args args = call.args;
  if constexpr (std::is_same_v<Args, JoinRowsArgs>) args.first = memory_.inputs().home_rows.data();
  args.parts = reinterpret_cast<const float* const*>(parts.data()), args.count = static_cast<int>(parts.size());
  table_.run(args, rows, part);
}

void CpuExecutor::run_gather_slots(const GatherSlotsCall& call, int rows, Part part) const {
  const size_t bytes = static_cast<size_t>(rows) * static_cast<size_t>(call.args.ld_part) * sizeof(float);
  const Communicator::Parts parts =
      seat_.communicator->gather_set(call.mine, bytes, call.ranks, {part.index, part.count});
  JoinColumnsArgs args = call.args;
  args.parts = reinterpret_cast<const float* const*>(parts.data()), args.count = static_cast<int>(parts.size());
  table_.run(args, rows, part);
}

void CpuExecutor::run_all_reduce(const AllReduceCall& call, int rows, Part part) const {
  const Communicator::Thread thread{part.index, part.count};
  const size_t floats = static_cast<size_t>(rows) * static_cast<size_t>(call.args.ld_part);
  Communicator& ranks = *seat_.communicator;
  if (const Communicator::Pieces sum = pieces_of(call, rows); sum.mine)
    return add_parts(table_, call.args, 1, ranks.reduce_pieces(sum, thread), rows, part);
  if (call.places == 1) return add_parts(table_, call.args, 1, ranks.reduce(call.mine, floats, thread), rows, part);
  std::array<size_t, kMaxRanks> bytes;
  bytes.fill(floats * sizeof(float));
  const auto count = static_cast<size_t>(ranks.size());
  add_parts(table_, call.args, call.places, ranks.gather(call.mine, std::span(bytes).first(count), thread), rows, part);
}

// From every rank its part of the sum for this rank's rows.
void CpuExecutor::run_reduce_scatter(const ReduceScatterCall& call, int rows, Part part) const {
  Communicator& ranks = *seat_.communicator;
  const std::vector<int32_t>& first = memory_.inputs().home_rows;
  const size_t row_bytes = static_cast<size_t>(call.args.ld_part) * sizeof(float);
  const auto count = static_cast<size_t>(ranks.size());
  std::array<size_t, kMaxRanks + 1> offsets;
  std::array<size_t, kMaxRanks> received;
  for (size_t r = 0; r <= count; ++r) offsets[r] = static_cast<size_t>(first[r]) * row_bytes;
  received.fill(static_cast<size_t>(rows) * row_bytes);
  const Communicator::Parts parts = ranks.exchange(call.mine, std::span(offsets).first(count + 1),
                                                   std::span(received).first(count), {part.index, part.count});
  add_parts(table_, call.args, call.places, parts, rows, part);
}

void CpuExecutor::run_send(const SendCall& call, Part part) const {
  const size_t bytes = static_cast<size_t>(row_count(call.rows)) * static_cast<size_t>(call.ld) * sizeof(float);
  seat_.next->send(call.mine, bytes, {part.index, part.count});
}

void CpuExecutor::run_receive(const ReceiveCall& call, int rows, Part part) const {
  const size_t bytes = static_cast<size_t>(rows) * static_cast<size_t>(call.args.ld_part) * sizeof(float);
  const auto* sent = reinterpret_cast<const float*>(seat_.before->receive(bytes, {part.index, part.count}));
  JoinColumnsArgs args = call.args;
  args.parts = &sent;
  table_.run(args, rows, part);
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
  const StepInputs& inputs = memory_.inputs();
  if (times) times->start(inputs.outputs == inputs.tokens);
  const bool ahead_helps = inputs.tokens <= kAheadRows;
  int product = -1;
  Ahead ahead;  // of what is left of its first weights
  for (size_t i = first_; i < last_; ++i) {
    const BoundOp& op = bound_[i];
    if (op.combine_of && op.combine_of->combines.empty()) continue;
    if (op.barrier) {  // also before an op that is left out: the next one counts on it
      if (ahead_helps && op.next_product != product) product = op.next_product, ahead = first_weights(product, part);
      barrier(ahead);
      if (part.index == 0) passed_.store(step_ << kOpBits | i, std::memory_order_release);
    }
    if (op.images_only && !inputs.has_images) continue;
    if (op.pass != Pass::any && op.pass != inputs.pass) continue;
    if (times) times->waited(i);
    run_op(i, part);
    if (times) times->ran(i);
  }
}

std::optional<int> CpuExecutor::written_layers(uint64_t number, int group) const {
  const uint64_t passed = passed_.load(std::memory_order_acquire);
  if (passed >> kOpBits != number) return std::nullopt;
  const std::vector<size_t>& appends = appends_[static_cast<size_t>(group)];
  const size_t op = passed & ((uint64_t{1} << kOpBits) - 1);
  return static_cast<int>(std::ranges::lower_bound(appends, op) - appends.begin());
}

void CpuExecutor::run_behind(const std::function<void(Part)>& tail, Part part) {
  OpTimes* const times = part.index == 0 ? times_.get() : nullptr;
  if (times) times->waited(bound_.size());
  tail(part);
  if (times) times->ran(bound_.size());
}

void CpuExecutor::plan_group(CacheRef ref) {
  const LayerGroup& group = plan_.group(ref);
  GroupInputs& in = memory_.inputs().group(ref);
  if (ref.kind == CacheRef::Kind::local) {
    in.block_table.clear();
    for (SequenceView& sequence : in.sequences) {
      sequence.first_position = 0;
      sequence.table_offset = static_cast<int64_t>(in.block_table.size());
      for (int row = 0; row < sequence.rows; row += kLocalBlock)
        in.block_table.push_back(static_cast<int32_t>(in.block_table.size()));
    }
  }
  plan_attention(in.sequences, cache_view(ref), group.heads, group.mask, group.window(), group.chunk(), seat_.threads,
                 in.attend);
}

void CpuExecutor::plan_groups() {
  for (size_t g = 0; g < plan_.groups.size(); ++g) plan_group({CacheRef::Kind::paged, static_cast<int>(g)});
  for (size_t g = 0; g < plan_.local_groups.size(); ++g) plan_group({CacheRef::Kind::local, static_cast<int>(g)});
  if (plan_.cross_group) plan_group({CacheRef::Kind::cross});
}

void CpuExecutor::point_at_inputs() {
  // The inputs' vectors may have moved, and the number of sequences is the step's.
  size_t i = 0;
  for (const Op& op : plan_.ops) {
    BoundOp& bound = bound_[i++];
    if (auto* append = std::get_if<AppendArgs>(&bound.args)) {
      const GroupInputs& in = memory_.inputs().group(std::get<AppendOp>(op.kind).cache);
      append->block_table = in.block_table.data(), append->sequences = in.sequences.data();
      append->sequence_count = static_cast<int>(in.sequences.size());
    } else if (auto* attend = std::get_if<AttendArgs>(&bound.args)) {
      const GroupInputs& in = memory_.inputs().group(std::get<AttendOp>(op.kind).cache);
      attend->block_table = in.block_table.data(), attend->sequences = in.sequences.data();
      std::get<AttendCombineArgs>(bound_[i++].args).attend = *attend;
    }
  }
}

void CpuExecutor::check_size() const {
  const StepInputs& in = memory_.inputs();
  const ExecutorLimits& limits = memory_.limits();
  WEFT_CHECK(in.tokens <= limits.max_tokens && in.outputs <= limits.max_outputs && in.mixed <= limits.max_mixed)
      << "the step is larger than the executor";
}

void CpuExecutor::prepare(bool replay) {
  check_size();
  if (!replay) bind();
  if (plans_attention_) plan_groups();
  point_at_inputs();
  first_ = 0, last_ = bound_.size();
  reset_tasks();
}

void CpuExecutor::run(const std::function<void(Part)>& tail, bool replay) {
  prepare(replay);
  if (trace_) {
    last_ = traced_ops_ = 0;
    while (run_piece(1)) {
    }
    first_ = last_;
  }
  seat_.team.run([&](int thread) {
    const Part part{thread, seat_.threads};
    walk(part);
    if (!tail) return;
    seat_.team.barrier();
    run_behind(tail, part);
  });
}

void CpuExecutor::begin_pieces() {
  check_size();
  bind();
  plan_groups();
  point_at_inputs();
  first_ = last_ = traced_ops_ = 0;
}

bool CpuExecutor::run_piece(int ops) {
  if (trace_) {
    for (int i = 0; i < ops && last_ < bound_.size(); ++i) run_traced_op();
    return last_ < bound_.size();
  }
  first_ = last_, last_ = std::min(bound_.size(), first_ + ops);
  reset_tasks();
  seat_.team.run(walk_);
  return last_ < bound_.size();
}

// The next op alone; then what it wrote, before a later op takes that memory.
void CpuExecutor::run_traced_op() {
  const Op& op = plan_.ops[traced_ops_];
  first_ = last_, last_ += std::holds_alternative<AttendOp>(op.kind) ? 2 : 1;
  reset_tasks();
  seat_.team.run(walk_);
  if (op.out && (!op.images_only || inputs().has_images))
    trace_->ran(traced_ops_, row_count(op.out->rows), memory_.address(*op.out), memory_.ld(*op.out));
  ++traced_ops_;
}

// No thread runs yet.
void CpuExecutor::reset_tasks() {
  if (tasks_.size() != bound_.size()) tasks_ = std::vector<TaskCounter>(bound_.size());
  for (size_t i = first_; i < last_; ++i) tasks_[i].next.store(0, std::memory_order_relaxed);
}

}  // namespace weft
