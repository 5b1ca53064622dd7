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
  slot.open = true, slot.home = open.home, slot.sampling = open.sampling,
  slot.prompt = static_cast<int>(open.prompt.size());
  slot.max_outputs = open.max_outputs;
  for (int32_t token : open.prompt) append(slot, token);
  for (int32_t token : open.output) append(slot, token);
}

FakeWorker::Block& FakeWorker::block(int home, int group, int32_t number) {
  Block& block = memory_[home][group][number];
  if (!block.resident) block.kv.assign(options_.tokens_per_block, 0);
  block.resident = true;
  return block;
}

void FakeWorker::copy(const BlockCopy& copy) {
  const Block from = block(copy.home, copy.group, copy.from);
  Block& to = block(copy.home, copy.group, copy.to);
  to.kv.assign(options_.tokens_per_block, 0);
  std::copy_n(from.kv.begin(), copy.tokens, to.kv.begin());
}

void FakeWorker::check_budget() {
  for (const Memory& memory : memory_) {
    int64_t bytes = 0;
    for (size_t g = 0; g < memory.size(); ++g) {
      for (const auto& [number, block] : memory[g]) bytes += block.resident * options_.groups[g].block_bytes;
    }
    if (bytes > options_.budget_bytes) fault(text(bytes, " bytes are resident, the budget is ", options_.budget_bytes));
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

uint64_t& FakeWorker::at(const StepBatch& batch, int group, Slot slot, int position) {
  const int32_t number = table_entry(group, slot, position / options_.tokens_per_block);
  if (number < 0) {
    fault(text("step ", batch.step, " slot ", slot, " group ", group, ": position ", position, " is not in the table"));
    return nowhere_;
  }
  return block(slots_[slot].home, group, number).kv[position % options_.tokens_per_block];
}

// Every key that the layers of every group read for the row's queries.
void FakeWorker::attend(const StepBatch& batch, const StepBatch::Row& row, SlotState& slot, Extent extent,
                        const std::vector<uint64_t>& prefix) {
  slot.rewritten = -1;
  for (int g = 0; g < static_cast<int>(options_.groups.size()); ++g) {
    for (int p = extent.first; p < extent.end; ++p, ++positions_written) {
      uint64_t& key = at(batch, g, row.slot, p);
      if (key == prefix[p]) slot.rewritten = p;
      key = prefix[p];
    }
    for (int p = extent.first; p < extent.end; ++p) {
      for (int key = first_key(options_.groups[g], p); key <= p; ++key, ++positions_read) {
        if (at(batch, g, row.slot, key) != prefix[key] && !slot.failed) {
          fault(text("step ", batch.step, " slot ", row.slot, " group ", g, " query ", p, ": wrong key at ", key));
        }
      }
    }
  }
}

// What had been there already, of a cached prefix, was written with the bits that it had.
void FakeWorker::spoil(const StepBatch& batch, const StepBatch::Row& row, Extent extent) {
  slots_[row.slot].failed = true;
  for (int g = 0; g < static_cast<int>(options_.groups.size()); ++g)
    for (int p = std::max(extent.first, slots_[row.slot].rewritten + 1); p < extent.end; ++p)
      at(batch, g, row.slot, p) = 0xbad;
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

RowResult FakeWorker::run_row(const StepBatch& batch, size_t r, size_t& next_token, std::mt19937& random) {
  const StepBatch::Row& row = batch.rows[r];
  SlotState& slot = slots_[row.slot];
  RowResult result;
  result.slot = row.slot;
  if (!slot.open) fault(text("slot ", row.slot, " is not open"));
  const Extent extent = this->extent(row, slot);
  const int known = static_cast<int>(slot.tokens.size());
  if (extent.first == extent.end) return ++rows_left_out, result;
  if (slot.next >= 0 && slot.next != extent.first)
    fault(text("slot ", row.slot, ": row at ", extent.first, ", expected ", slot.next));
  if (extent.first < row.first) fault(text("slot ", row.slot, ": the row begins before ", row.first));
  slot.next = extent.end - extent.drafts;
  if (extent.end - extent.drafts > known) {
    fault(text("slot ", row.slot, ": positions up to ", extent.end, " of ", known));
    return result;
  }
  if (row.source == TokenSource::host) {
    for (int p = extent.first; p < extent.first + row.tokens; ++p) {
      if (batch.tokens[next_token++] != slot.tokens[p]) fault(text("slot ", row.slot, ": wrong token at ", p));
    }
  } else if (row.tokens != 1 || extent.end - extent.drafts != known || extent.first < slot.prompt) {
    fault(text("slot ", row.slot, ": a row from the slot's token that is not the next one"));
  }
  std::vector<uint64_t> prefix = slot.prefix;
  for (int i = 0; i < extent.drafts; ++i) prefix.push_back(mix(prefix.back(), static_cast<uint64_t>(slot.drafts[i])));
  attend(batch, row, slot, extent, prefix);
  if (row.prompt_logprobs) {
    for (int p = extent.first; p < extent.end && p + 1 < slot.prompt; ++p) {
      result.prompt_logprobs.push_back({{slot.tokens[p + 1], row_value(slot.prefix[p])}});
    }
  }
  if (row.context_logits && row.logits == LogitRows::none) fault("rows are wanted that are not computed");
  if (row.context_logits) {
    for (int p = row.logits == LogitRows::all ? extent.first : extent.end - 1; p < extent.end; ++p)
      result.outputs.push_back(row_value(slot.prefix[p]));
  }
  if (row.sample) sample(batch, row, slot, extent, prefix, result);
  propose(batch, row, slot, random, result);
  return result;
}

void FakeWorker::sample(const StepBatch&, const StepBatch::Row& row, SlotState& slot, Extent extent,
                        const std::vector<uint64_t>& prefix, RowResult& result) {
  if (row.logits == LogitRows::none) fault("a row samples without logits");
  result.drafted = extent.drafts;
  drafts_checked += static_cast<uint64_t>(extent.drafts);
  for (int i = 0; i <= extent.drafts; ++i) {
    const uint64_t at = prefix[extent.end - extent.drafts - 1 + i];
    result.tokens.push_back(sampled_token(at, *slot.sampling));
    if (row.generation_logits) result.outputs.push_back(row_value(at));
    if (slot.sampling->logprobs >= 0) result.logprobs.push_back({{result.tokens.back(), row_value(at)}});
    append(slot, result.tokens.back());
    if (i < extent.drafts && slot.drafts[i] != result.tokens.back()) break;
  }
  slot.next = static_cast<int>(slot.tokens.size()) - 1;
  drafts_accepted += result.tokens.size() - 1;
}

void FakeWorker::propose(const StepBatch& batch, const StepBatch::Row& row, SlotState& slot, std::mt19937& random,
                         RowResult& result) {
  slot.drafts.clear();
  if (row.propose < 0) return;
  const int known = static_cast<int>(slot.tokens.size()), last = slot.prompt + slot.max_outputs;
  const auto draw = [&] { return std::uniform_real_distribution<>(0, 1)(random); };
  // The drafter's own entries of the token behind the row and on, and then of the drafts but the last.
  const int behind = row.sample ? known - 1 : row.first + row.tokens;
  for (int i = 0; i < ahead && behind + i < last; ++i) (void)at(batch, 0, row.slot, behind + i);
  if (!row.sample || draw() > proposing) return;
  const int most = std::min(row.propose, last - known);
  uint64_t prefix = slot.prefix.back();
  for (int i = 0; i < most; ++i) {
    const int32_t right = sampled_token(prefix, *slot.sampling);
    slot.drafts.push_back(draw() < right_drafts ? right : (right + 1) % kVocabulary);
    prefix = mix(prefix, static_cast<uint64_t>(slot.drafts.back()));
    if (ahead > 0 && i > 0) (void)at(batch, 0, row.slot, known + i - 1);
  }
  result.drafts = slot.drafts;
}

StepResult FakeWorker::execute(double failure, std::mt19937& random) {
  const StepBatch batch = std::move(queue_.front());
  queue_.pop_front();
  for (Slot slot : batch.closes) {
    if (!slots_[slot].open) fault(text("slot ", slot, " is closed twice"));
    slots_[slot] = {};
  }
  for (const SlotOpen& slot : batch.opens) open(slot);
  for (const BlockCopy& c : batch.copies) copy(c);
  for (const BlockRelease& release : batch.releases) memory_[release.home][release.group][release.block] = {};
  for (const TableEntry& entry : batch.entries) {
    if (!slots_[entry.slot].open) fault(text("step ", batch.step, ": a table entry for slot ", entry.slot));
    else slots_[entry.slot].tables[entry.group][entry.number] = entry.block;
  }
  StepResult result;
  result.step = batch.step;
  std::vector<bool> seen(slots_.size(), false);
  size_t next_token = 0;
  for (size_t r = 0; r < batch.rows.size(); ++r) {
    if (seen[batch.rows[r].slot]) fault(text("slot ", batch.rows[r].slot, " twice in step ", batch.step));
    seen[batch.rows[r].slot] = true;
    if (r > 0 && slots_[batch.rows[r].slot].home < slots_[batch.rows[r - 1].slot].home) fault("rows are not by home");
    const Extent where = extent(batch.rows[r], slots_[batch.rows[r].slot]);
    result.rows.push_back(run_row(batch, r, next_token, random));
    if (std::uniform_real_distribution<>(0, 1)(random) < failure) {
      spoil(batch, batch.rows[r], where);
      result.rows.back() = {};
      result.rows.back().error = "not finite";
    }
  }
  if (next_token != batch.tokens.size()) fault("tokens are left over");
  check_budget();
  return result;
}

}  // namespace weft
