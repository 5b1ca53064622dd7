#include "sched/fake_worker.h"

#include <algorithm>
#include <sstream>

namespace weft {
namespace {

template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

}  // namespace

void FakeWorker::append(SlotState& slot, int32_t token) {
  const uint64_t previous = slot.prefix.empty() ? prefix_root(*slot.sampling) : slot.prefix.back();
  slot.tokens.push_back(token);
  slot.prefix.push_back(mix(previous, static_cast<uint64_t>(token)));
}

void FakeWorker::open(const SlotOpen& open) {
  SlotState& slot = slots_[open.slot];
  if (slot.open) fault(text("slot ", open.slot, " is opened twice"));
  slot = {};
  slot.tables.resize(options_.groups.size());
  slot.open = true, slot.home = open.home, slot.sampling = open.sampling, slot.seed = open.seed,
  slot.prompt = static_cast<int>(open.prompt.size());
  slot.max_outputs = open.max_outputs;
  for (int32_t token : open.prompt) append(slot, token);
  for (int32_t token : open.output) append(slot, token);
}

FakeWorker::Block& FakeWorker::block(Memory& memory, int group, int32_t number) {
  Block& block = memory[group][number];
  if (!block.resident) block.kv.assign(options_.tokens_per_block, 0);
  block.resident = true;
  return block;
}

void FakeWorker::copy(Memory& memory, const BlockCopy& copy) {
  const Block from = block(memory, copy.group, copy.from);
  Block& to = block(memory, copy.group, copy.to);
  to.kv.assign(options_.tokens_per_block, 0);
  std::copy_n(from.kv.begin(), copy.tokens, to.kv.begin());
}

void FakeWorker::check_budget(const std::vector<Memory>& homes) {
  for (const Memory& memory : homes) {
    int64_t bytes = 0;
    for (size_t g = 0; g < memory.size(); ++g) {
      for (const auto& [number, block] : memory[g]) bytes += block.resident * options_.groups[g].block_bytes;
    }
    if (bytes > options_.budget_bytes && !late_releases)
      fault(text(bytes, " bytes are resident, the budget is ", options_.budget_bytes));
  }
}

int32_t FakeWorker::table_entry(int group, Slot slot, int number) const {
  const std::map<int, int32_t>& table = slots_[slot].tables[group];
  const auto found = table.find(number);
  return found == table.end() ? -1 : found->second;
}

int FakeWorker::first_key(const CacheGroup& group, int position) {
  if (group.kind == CacheSpec::Kind::window) return std::max(0, position - group.span + 1);
  if (group.kind == CacheSpec::Kind::chunk) return position / group.span * group.span;
  return 0;
}

uint64_t& FakeWorker::at(int stage, int group, Slot slot, int position) {
  const int32_t number = table_entry(group, slot, position / options_.tokens_per_block);
  if (number < 0) {
    fault(text("slot ", slot, " group ", group, ": position ", position, " is not in the table"));
    return nowhere_;
  }
  Memory& memory = stages_[stage][slots_[slot].home];
  return block(memory, group, number).kv[position % options_.tokens_per_block];
}

// Every key that the layers of every group read for the row's queries. A row that fails leaves garbage; but what had
// been there already, of a cached prefix, was written with the bits that it had.
void FakeWorker::attend(const Step& step, const RowWork& work) {
  const Extent& extent = work.extent;
  const Slot slot = work.row.slot;
  int rewritten = -1;
  for (int g = 0; g < static_cast<int>(options_.groups.size()); ++g) {
    for (int p = extent.first; p < extent.end; ++p, ++positions_written) {
      uint64_t& key = at(step.stage, g, slot, p);
      if (key == work.prefix[p]) rewritten = p;
      key = work.prefix[p];
    }
    for (int p = extent.first; p < extent.end; ++p) {
      for (int key = first_key(options_.groups[g], p); key <= p; ++key, ++positions_read) {
        if (at(step.stage, g, slot, key) != work.prefix[key] && !slots_[slot].failed) {
          fault(text("step ", step.batch.step, " stage ", step.stage, " slot ", slot, " group ", g, " query ", p,
                     ": wrong key at ", key));
        }
      }
    }
  }
  for (int g = 0; work.fails && g < static_cast<int>(options_.groups.size()); ++g)
    for (int p = std::max(extent.first, rewritten + 1); p < extent.end; ++p) at(step.stage, g, slot, p) = 0xbad;
}

// As the worker has it: a row from the slot begins at the slot's last token, drafts follow it, and nothing is left to
// do for a sequence that has all of its outputs.
FakeWorker::Extent FakeWorker::extent(const StepBatch::Row& row, const SlotState& slot) const {
  const int known = static_cast<int>(slot.tokens.size());
  if (row.source == TokenSource::host && row.drafts == 0) return {row.first, row.first + row.tokens, 0};
  const int left = slot.prompt + slot.max_outputs - known;
  if (left <= 0) return {known, known, 0};
  const int drafts = std::min({row.drafts, static_cast<int>(slot.drafts.size()), left});
  return {known - 1, known + drafts, drafts};
}

void FakeWorker::begin_row(const StepBatch& batch, RowWork& work, size_t& next_token) {
  const StepBatch::Row& row = work.row;
  SlotState& slot = slots_[row.slot];
  work.result.slot = row.slot;
  if (!slot.open) fault(text("slot ", row.slot, " is not open"));
  const bool goes_on = row.source == TokenSource::slot || row.drafts > 0;
  if ((goes_on || row.sample) && slot.unsampled > 0)
    fault(text("step ", batch.step, " slot ", row.slot, ": the token before the row is not sampled yet"));
  ++slot.unfinished, slot.unsampled += row.sample;
  slot.failed |= work.fails;
  work.extent = extent(row, slot);
  if (work.extent.empty()) return;
  check_begin(batch, work, next_token);
  slot.next = work.extent.end - work.extent.drafts;
  work.prefix = slot.prefix;
  for (int i = 0; i < work.extent.drafts; ++i)
    work.prefix.push_back(mix(work.prefix.back(), static_cast<uint64_t>(slot.drafts[i])));
  work.prefix.resize(std::max<size_t>(work.prefix.size(), work.extent.end));  // only where there was a fault
  rows_of_prompt(work);
}

void FakeWorker::check_begin(const StepBatch& batch, const RowWork& work, size_t& next_token) {
  const StepBatch::Row& row = work.row;
  const SlotState& slot = slots_[row.slot];
  const auto [first, end, drafts] = work.extent;
  const int known = static_cast<int>(slot.tokens.size());
  if (slot.next >= 0 && slot.next != first)
    fault(text("slot ", row.slot, ": row at ", first, ", expected ", slot.next));
  if (first < row.first) fault(text("slot ", row.slot, ": the row begins before ", row.first));
  if (end - drafts > known) fault(text("slot ", row.slot, ": positions up to ", end, " of ", known));
  if (row.source == TokenSource::host) {
    for (int p = first; p < std::min(first + row.tokens, known); ++p) {
      if (batch.tokens[next_token++] != slot.tokens[p]) fault(text("slot ", row.slot, ": wrong token at ", p));
    }
  } else if (row.tokens != 1 || end - drafts != known || first < slot.prompt) {
    fault(text("slot ", row.slot, ": a row from the slot's token that is not the next one"));
  }
}

void FakeWorker::rows_of_prompt(RowWork& work) {
  const StepBatch::Row& row = work.row;
  const SlotState& slot = slots_[row.slot];
  const Extent& extent = work.extent;
  if (row.prompt_logprobs) {
    for (int p = extent.first; p < extent.end && p + 1 < slot.prompt; ++p)
      work.result.prompt_logprobs.push_back({{slot.tokens[p + 1], row_value(work.prefix[p])}});
  }
  if (!row.context_logits) return;
  if (row.logits == LogitRows::none) fault("rows are wanted that are not computed");
  for (int p = row.logits == LogitRows::all ? extent.first : extent.end - 1; p < extent.end; ++p)
    work.result.outputs.push_back(row_value(work.prefix[p]));
}

void FakeWorker::sample(RowWork& work, SlotState& slot) {
  const Extent& extent = work.extent;
  RowResult& result = work.result;
  if (work.row.logits == LogitRows::none) fault("a row samples without logits");
  result.drafted = extent.drafts;
  drafts_checked += static_cast<uint64_t>(extent.drafts);
  for (int i = 0; i <= extent.drafts; ++i) {
    const uint64_t at = work.prefix[extent.end - extent.drafts - 1 + i];
    result.tokens.push_back(sampled_token(at, slot.seed));
    if (work.row.generation_logits) result.outputs.push_back(row_value(at));
    if (slot.sampling->logprobs >= 0) result.logprobs.push_back({{result.tokens.back(), row_value(at)}});
    append(slot, result.tokens.back());
    if (i < extent.drafts && slot.drafts[i] != result.tokens.back()) break;
  }
  slot.next = static_cast<int>(slot.tokens.size()) - 1;
  drafts_accepted += result.tokens.size() - 1;
}

// The drafter is in the last stage.
void FakeWorker::propose(RowWork& work, SlotState& slot, std::mt19937& random) {
  const StepBatch::Row& row = work.row;
  const int stage = static_cast<int>(stages_.size()) - 1;
  slot.drafts.clear();
  if (row.propose < 0) return;
  const int known = static_cast<int>(slot.tokens.size()), last = slot.prompt + slot.max_outputs;
  const auto draw = [&] { return std::uniform_real_distribution<>(0, 1)(random); };
  // The drafter's own entries of the token behind the row and on, and then of the drafts but the last.
  const int behind = row.sample ? known - 1 : row.first + row.tokens;
  for (int i = 0; i < ahead && behind + i < last; ++i) (void)at(stage, 0, row.slot, behind + i);
  if (!row.sample || draw() > proposing) return;
  const int most = std::min(row.propose, last - known);
  uint64_t prefix = slot.prefix.back();
  for (int i = 0; i < most; ++i) {
    const int32_t right = sampled_token(prefix, slot.seed);
    slot.drafts.push_back(draw() < right_drafts ? right : (right + 1) % kVocabulary);
    prefix = mix(prefix, static_cast<uint64_t>(slot.drafts.back()));
    if (ahead > 0 && i > 0) (void)at(stage, 0, row.slot, known + i - 1);
  }
  work.result.drafts = slot.drafts;
}

void FakeWorker::change_slots(const StepBatch& batch) {
  const auto is_free = [&](Slot slot) {
    if (slots_[slot].unfinished == 0) return true;
    fault(text("step ", batch.step, ": slot ", slot, " has an unfinished row"));
    return false;
  };
  for (Slot slot : batch.closes) {
    if (!slots_[slot].open) fault(text("slot ", slot, " is closed twice"));
    if (is_free(slot)) slots_[slot] = {};
  }
  for (const SlotOpen& slot : batch.opens)
    if (is_free(slot.slot)) open(slot);
  for (const TableEntry& entry : batch.entries) {
    if (!slots_[entry.slot].open) fault(text("step ", batch.step, ": a table entry for slot ", entry.slot));
    else slots_[entry.slot].tables[entry.group][entry.number] = entry.block;
  }
}

void FakeWorker::begin(double failure, std::mt19937& random) {
  shared_steps += !pipe_.empty();
  Step& step = pipe_.emplace_back();
  step.batch = std::move(queue_.front());
  queue_.pop_front();
  const StepBatch& batch = step.batch;
  change_slots(batch);
  std::vector<bool> seen(slots_.size(), false);
  size_t next_token = 0;
  for (const StepBatch::Row& row : batch.rows) {
    if (seen[row.slot]) fault(text("slot ", row.slot, " twice in step ", batch.step));
    seen[row.slot] = true;
    if (&row != batch.rows.data() && slots_[row.slot].home < slots_[(&row)[-1].slot].home)
      fault("rows are not by home");
    RowWork& work = step.rows.emplace_back();
    work.row = row;
    work.fails = std::uniform_real_distribution<>(0, 1)(random) < failure;
    begin_row(batch, work, next_token);
  }
  if (next_token != batch.tokens.size()) fault("tokens are left over");
  if (on_begin) on_begin(batch);
}

void FakeWorker::run_stage(Step& step) {
  std::vector<Memory>& homes = stages_[step.stage];
  for (const BlockCopy& c : step.batch.copies) copy(homes[c.home], c);
  for (const BlockRelease& release : step.batch.releases) homes[release.home][release.group][release.block] = {};
  for (const RowWork& work : step.rows) attend(step, work);
  check_budget(homes);
  ++step.stage;
}

StepResult FakeWorker::finish(Step& step, std::mt19937& random) {
  StepResult result;
  result.step = step.batch.step;
  for (RowWork& work : step.rows) {
    SlotState& slot = slots_[work.row.slot];
    --slot.unfinished, slot.unsampled -= work.row.sample;
    if (work.extent.empty()) {
      ++rows_left_out;
    } else if (slot.open) {
      if (work.row.sample) sample(work, slot);
      propose(work, slot, random);
    }
    if (work.fails) work.result = {}, work.result.error = "not finite";
    result.rows.push_back(std::move(work.result));
  }
  return result;
}

// The first stage is free, and what the oldest step not begun waits for is finished.
bool FakeWorker::may_begin() const {
  if (queue_.empty() || (!pipe_.empty() && pipe_.back().stage == 0)) return false;
  return pipe_.empty() || pipe_.front().batch.step > queue_.front().after;
}

// The next stage is free, or it is in the last one.
bool FakeWorker::may_go_on(size_t step) const { return step == 0 || pipe_[step].stage + 1 < pipe_[step - 1].stage; }

// A step begins or is through with a stage. True: the oldest is through with all.
bool FakeWorker::advance(double failure, std::mt19937& random) {
  std::vector<size_t> able;  // the last step first, and the one that is to begin before that
  if (may_begin()) able.push_back(pipe_.size());
  for (size_t step = pipe_.size(); step-- > 0;)
    if (may_go_on(step)) able.push_back(step);
  size_t chosen = able[0];
  if (able.size() > 1 && std::uniform_real_distribution<>(0, 1)(random) >= eager)
    chosen = able[std::uniform_int_distribution<size_t>(0, able.size() - 1)(random)];
  if (chosen == pipe_.size()) begin(failure, random);
  else run_stage(pipe_[chosen]);
  return pipe_.front().stage == static_cast<int>(stages_.size());
}

StepResult FakeWorker::execute(double failure, std::mt19937& random) {
  while (!advance(failure, random)) {
  }
  StepResult result = finish(pipe_.front(), random);
  pipe_.pop_front();
  return result;
}

}  // namespace weft
