#include "plan/ranked_executor.h"

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "comm/process_ranks.h"

namespace weft {

using kernels::Part;

RankedExecutor::RankedExecutor(const PlanShares& shares, const kernels::CpuTable& table, const RankTeam& ranks,
                               RankSpan these, std::vector<CacheMemory> caches, ExecutorLimits limits, int lanes,
                               const AdapterTable* adapters)
    : team_(ranks.threads()), layout_(ranks.layout()), homes_(layout_.homes()),
      first_rank_(ranks.first_rank() + these.first), first_thread_(these.first * ranks.threads_per_rank()),
      takes_adapters_(shares.first().adapted.has_value()), adapted_lanes_(static_cast<size_t>(lanes)), inputs_(homes_),
      outputs_(shares.first().plan, ranks, first_rank_ + these.count == layout_.size(), limits.max_outputs, lanes),
      all_walked_(ranks.threads_per_rank() * these.count) {
  for (int r = 0; r < these.count; ++r) {
    const PlanShare& share = shares.ranks[these.first + r];
    const int home = homes_ == 1 ? 0 : (first_rank_ + r) % homes_;
    ranks_.push_back(make(share, table, ranks.seat(these.first + r), caches[r], limits, inputs_[home],
                          inputs_[home] == nullptr, adapters, these.first + r));
    inputs_[home] = ranks_.back().plain->shared_inputs();
    walked_.push_back(std::make_unique<ThreadBarrier>(ranks.threads_per_rank()));
  }
  for (int home = 0; shares.alone && home < homes_; ++home)
    alone_.push_back(make(*shares.alone, table, RankSeat{team_, team_.size()}, caches[home], limits, inputs_[home],
                          true, adapters, -1));
  for (std::shared_ptr<StepInputs>& inputs : inputs_)  // of homes in other processes
    if (!inputs) inputs = std::make_shared<StepInputs>(size_inputs(shares.first().plan, limits));
  if (outputs_.any_sent()) delivery_ = ranks.processes()->delivery(lanes);
  for (int r = 0; delivery_ && first_rank_ != 0 && r < these.count; ++r)
    messages_.push_back(part_of(r) < 0 ? Memory() : reserve_or_throw(outputs_.most_message_bytes(limits.max_outputs)));
  walk_ = [this](int thread) {
    const Part part{thread, team_.size()};
    walk_inside(part);
    take_outputs(part);
    if (!*tail_) return;
    team_.barrier();
    run_behind(*tail_, part);
  };
}

RankedExecutor::Executors RankedExecutor::make(const PlanShare& share, const kernels::CpuTable& table,
                                               const RankSeat& seat, CacheMemory cache, ExecutorLimits limits,
                                               const std::shared_ptr<StepInputs>& inputs, bool plans_attention,
                                               const AdapterTable* adapters, int place) const {
  Executors made;
  made.plain =
      std::make_unique<CpuExecutor>(share.plan, share.weights, table, seat, cache, limits, inputs, plans_attention);
  if (!share.adapted) return made;
  made.adapted = std::make_unique<CpuExecutor>(*share.adapted, share.weights, table, seat, std::move(cache), limits,
                                               made.plain->shared_inputs(), plans_attention);
  made.adapted->set_adapters(*adapters, place);
  return made;
}

void RankedExecutor::run(const std::function<void(Part)>& tail, bool replay) {
  begin();
  adapted_lanes_[0] = with_adapters_;
  if (layout_.size() == 1) return of(ranks_.front()).run(tail, replay);
  if (running_alone_) return of(*running_alone_).run(tail, replay);
  prepare(replay);
  tail_ = &tail;
  team_.run(walk_);
}

void RankedExecutor::begin_step(uint64_t number) {
  for (const auto* all : {&ranks_, &alone_})
    for (const Executors& rank : *all) {
      rank.plain->begin_step(number);
      if (rank.adapted) rank.adapted->begin_step(number);
    }
}

int RankedExecutor::written_layers(uint64_t number, int group) const {
  // A step is run by one of the two.
  const auto written = [&](const Executors& rank) {
    const auto layers = rank.plain->written_layers(number, group);
    return layers || !rank.adapted ? layers : rank.adapted->written_layers(number, group);
  };
  for (const Executors& alone : alone_)
    if (const auto layers = written(alone)) return *layers;
  int least = std::numeric_limits<int>::max();
  for (const Executors& rank : ranks_) least = std::min(least, written(rank).value_or(0));
  return least;
}

bool RankedExecutor::has_rows() const {
  for (int home = 0; home < homes_; ++home)
    if (inputs(home).tokens > 0) return true;
  return false;
}

// Where the rows of each home begin among those of all, whether one home has them all, and which have adapters.
void RankedExecutor::begin() {
  for (int reader = 0; reader < homes_; ++reader) {
    std::vector<int32_t>& first = inputs(reader).home_rows;
    first.assign(1, 0);
    for (int home = 0; home < homes_; ++home) first.push_back(first.back() + inputs(home).tokens);
  }
  running_alone_ = nullptr;
  for (size_t home = 0; home < alone_.size(); ++home) {
    const int own = inputs_[home]->tokens;
    if (own > 0 && own == inputs_[home]->home_rows.back()) running_alone_ = &alone_[home];
  }
  if (takes_adapters_) find_adapters();
}

void RankedExecutor::find_adapters() {
  with_adapters_ = false;
  for (const auto& inputs : inputs_) {
    group_adapter_rows(*inputs);
    with_adapters_ |= !inputs->adapter_groups.empty();
  }
  if (!with_adapters_ || homes_ == 1) return;
  for (const auto& reader : inputs_) {
    reader->gathered_adapters.clear();
    for (const auto& inputs : inputs_)
      reader->gathered_adapters.insert(reader->gathered_adapters.end(), inputs->adapter_of.begin(),
                                       inputs->adapter_of.begin() + inputs->tokens);
  }
}

void RankedExecutor::prepare(bool replay, int lane) {
  begin();
  adapted_lanes_[static_cast<size_t>(lane)] = with_adapters_;
  if (running_alone_) return of(*running_alone_).prepare(replay);
  for (const Executors& rank : ranks_) of(rank).prepare(replay);
  lane_ = lane;
  place_outputs(*this, lane);
  if (!delivery_ || first_rank_ != 0) return;
  for (int home = 0; home < homes_; ++home)
    for (int part = 0; part < outputs_.parts(); ++part)
      if (const int from = outputs_.process_of(home, part); from != 0)
        delivery_->expect(lane, from, outputs_.message(lane, home, part), outputs_.message_bytes(part, inputs(home)));
}

void RankedExecutor::place_outputs(const RankedExecutor& entered, int lane) {
  adapted_lanes_[static_cast<size_t>(lane)] = entered.with_adapters_;
  for (int home = 0; home < homes_; ++home) outputs_.lay_out(lane, home, entered.inputs(home));
}

void RankedExecutor::walk_inside(Part part) {
  if (running_alone_) return of(*running_alone_).walk(part);
  const int threads = part.count / ranks();
  const int rank = part.index / threads;
  of(ranks_[rank]).walk({part.index % threads, threads});
  give_outputs(rank, {part.index % threads, threads});
  if (messages_.empty()) return;
  all_walked_.wait();
  if (part.index == 0) deliver_outputs();
}

int RankedExecutor::part_of(int rank) const {
  const int part = first_rank_ + rank - outputs_.first_owner(0);
  return part < std::max(homes_, outputs_.parts()) ? part : -1;
}

// Rows that do not come together stay where they are.
void RankedExecutor::give_outputs(int rank, Part threads) {
  const int part = part_of(rank), home = homes_ > 1 ? part : 0;
  if (part < 0 || !in_parts(home) || inputs(home).outputs == 0) return;
  const StepInputs& in = inputs(home);
  const CpuExecutor& executor = of(ranks_[rank]);
  const OutputParts::Own own{home, homes_ > 1 ? 0 : part, executor.output(), executor.output_ld(),
                             first_thread_ + rank * threads.count};
  walked_[rank]->wait();
  if (messages_.empty()) outputs_.put(own, in, threads, summarise_, lane_);
  else outputs_.pack(own, in, threads, summarise_, messages_[rank].data());
}

// In the order in which rank 0 expects them.
void RankedExecutor::deliver_outputs() {
  for (int rank = 0; rank < ranks(); ++rank) {
    const int part = part_of(rank);
    if (part < 0) continue;
    const size_t bytes = outputs_.message_bytes(homes_ > 1 ? 0 : part, inputs(homes_ > 1 ? part : 0));
    delivery_->deliver(messages_[rank].data(), bytes);
  }
}

const CpuExecutor* RankedExecutor::last(int home, bool with_adapters) const {
  if (running_alone_ && running_alone_ == &alone_[static_cast<size_t>(home)])
    return &of(*running_alone_, with_adapters);
  const int rank = outputs_.first_owner(home) - first_rank_;
  return rank >= 0 && rank < ranks() ? &of(ranks_[rank], with_adapters) : nullptr;
}

void RankedExecutor::take_outputs(Part part, int lane) {
  if (!delivery_ || first_rank_ != 0) return;
  if (part.index == 0) delivery_->wait(lane);
  team_.barrier();
  for (int home = 0; home < homes_; ++home)
    for (int p = 0; p < outputs_.parts(); ++p)
      if (outputs_.process_of(home, p) != 0) outputs_.unpack(lane, home, p, part);
}

void RankedExecutor::trace(TracedPlan& trace) {
  WEFT_CHECK(ranks() == 1) << "ops of one rank can be traced";
  ranks_.front().plain->trace(trace);
}

size_t RankedExecutor::arena_bytes() const {
  size_t bytes = 0;
  for (const Executors& rank : ranks_)
    bytes += rank.plain->arena_bytes() + (rank.adapted ? rank.adapted->arena_bytes() : 0);
  return bytes;
}

}  // namespace weft
