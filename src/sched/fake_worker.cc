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
  slot.open = true, slot.sampling = open.sampling, slot.prompt = static_cast<int>(open.prompt.size());
  for (int32_t token : open.prompt) append(slot, token);
  for (int32_t token : open.output) append(slot, token);
}

FakeWorker::Block& FakeWorker::block(int group, int32_t number) {
  Block& block = memory_[group][number];
  if (!block.resident) block.kv.assign(options_.tokens_per_block, 0);
  block.resident = true;
  return block;
}

void FakeWorker::copy(const BlockCopy& copy) {
  const Block from = block(copy.group, copy.from);
  Block& to = block(copy.group, copy.to);
  to.kv.assign(options_.tokens_per_block, 0);
  std::copy_n(from.kv.begin(), copy.tokens, to.kv.begin());
}

void FakeWorker::check_budget() {
  int64_t bytes = 0;
  for (size_t g = 0; g < memory_.size(); ++g) {
    for (const auto& [number, block] : memory_[g]) bytes += block.resident * options_.groups[g].block_bytes;
  }
  if (bytes > options_.budget_bytes) fault(text(bytes, " bytes are resident, the budget is ", options_.budget_bytes));
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

// Every key that the layers of every group read for the row's queries.
void FakeWorker::attend(const StepBatch& batch, size_t r, const SlotState& slot) {
  const StepBatch::Row& row = batch.rows[r];
  const int size = options_.tokens_per_block;
  for (int g = 0; g < static_cast<int>(options_.groups.size()); ++g) {
    auto at = [&](int position) -> uint64_t& {
      const int32_t number = table_entry(g, row.slot, position / size);
      if (number < 0) {
        fault(text("step ", batch.step, " slot ", row.slot, " group ", g, ": position ", position,
                   " is not in the table"));
        return nowhere_;
      }
      return block(g, number).kv[position % size];
    };
    for (int p = row.first; p < row.first + row.tokens; ++p) at(p) = slot.prefix[p], ++positions_written;
    for (int p = row.first; p < row.first + row.tokens; ++p) {
      for (int key = first_key(options_.groups[g], p); key <= p; ++key, ++positions_read) {
        if (at(key) != slot.prefix[key] && !slot.failed) {
          fault(text("step ", batch.step, " slot ", row.slot, " group ", g, " query ", p, ": wrong key at ", key));
        }
      }
    }
  }
}

void FakeWorker::spoil(const StepBatch& batch, size_t r) {
  const StepBatch::Row& row = batch.rows[r];
  slots_[row.slot].failed = true;
  for (int g = 0; g < static_cast<int>(options_.groups.size()); ++g) {
    for (int p = row.first; p < row.first + row.tokens; ++p)
      block(g, table_entry(g, row.slot, p / options_.tokens_per_block)).kv[p % options_.tokens_per_block] = 0xbad;
  }
}

RowResult FakeWorker::run_row(const StepBatch& batch, size_t r, size_t& next_token) {
  const StepBatch::Row& row = batch.rows[r];
  SlotState& slot = slots_[row.slot];
  RowResult result;
  result.slot = row.slot;
  const int end = row.first + row.tokens;
  if (!slot.open) fault(text("slot ", row.slot, " is not open"));
  if (slot.next >= 0 && slot.next != row.first)
    fault(text("slot ", row.slot, ": row at ", row.first, ", expected ", slot.next));
  slot.next = end;
  if (end > static_cast<int>(slot.tokens.size())) {
    fault(text("slot ", row.slot, ": positions up to ", end, " of ", slot.tokens.size()));
    return result;
  }
  if (row.source == TokenSource::host) {
    for (int p = row.first; p < end; ++p) {
      if (batch.tokens[next_token++] != slot.tokens[p]) fault(text("slot ", row.slot, ": wrong token at ", p));
    }
  } else if (row.tokens != 1 || end != static_cast<int>(slot.tokens.size()) || row.first < slot.prompt) {
    fault(text("slot ", row.slot, ": a row from the slot's token that is not the next one"));
  }
  attend(batch, r, slot);
  if (row.prompt_logprobs) {
    for (int p = row.first; p < end && p + 1 < slot.prompt; ++p) {
      result.prompt_logprobs.push_back({{slot.tokens[p + 1], row_value(slot.prefix[p])}});
    }
  }
  if (row.context_logits && row.logits == LogitRows::none) fault("rows are wanted that are not computed");
  if (row.context_logits) {
    for (int p = row.logits == LogitRows::all ? row.first : end - 1; p < end; ++p)
      result.outputs.push_back(row_value(slot.prefix[p]));
  }
  if (row.generation_logits) result.outputs.push_back(row_value(slot.prefix[end - 1]));
  if (row.sample) {
    if (row.logits == LogitRows::none) fault("a row samples without logits");
    const uint64_t prefix = slot.prefix[end - 1];
    result.tokens.push_back(sampled_token(prefix, *slot.sampling));
    if (slot.sampling->logprobs >= 0) result.logprobs.push_back({{result.tokens[0], row_value(prefix)}});
    append(slot, result.tokens[0]);
  }
  return result;
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
  for (const BlockRelease& release : batch.releases) memory_[release.group][release.block] = {};
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
    result.rows.push_back(run_row(batch, r, next_token));
    if (std::uniform_real_distribution<>(0, 1)(random) < failure) {
      spoil(batch, r);
      result.rows.back() = {};
      result.rows.back().error = "not finite";
    }
  }
  if (next_token != batch.tokens.size()) fault("tokens are left over");
  check_budget();
  return result;
}

}  // namespace weft
