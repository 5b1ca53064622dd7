// What rank 0 tells the ranks that follow it: the input makes a step's changes and drafts' rows; what is written is
// read back, all of it, and written again gives the same bytes.
#include <algorithm>
#include <cstring>

#include "runtime/step_message.h"
#include "target.h"

using namespace weft;

namespace {

// Plain values from the input's bytes; zeros behind its end.
class Source {
 public:
  explicit Source(std::string_view bytes) : bytes_(bytes) {}
  template <class T>
  T take() {
    T value{};
    const size_t count = std::min(sizeof value, bytes_.size());
    std::memcpy(&value, bytes_.data(), count);
    bytes_.remove_prefix(count);
    return value;
  }
  size_t count() { return take<uint8_t>() % 5; }
  std::vector<int32_t> ids() {
    std::vector<int32_t> all(count());
    for (int32_t& id : all) id = take<int32_t>();
    return all;
  }

 private:
  std::string_view bytes_;
};

StepBatch make_batch(Source& from) {
  StepBatch batch;
  batch.step = from.take<uint64_t>();
  for (size_t i = from.count(); i > 0; --i) batch.closes.push_back(from.take<Slot>());
  for (size_t i = from.count(); i > 0; --i) {
    SlotOpen& open = batch.opens.emplace_back();
    open.slot = from.take<Slot>(), open.prompt = from.ids(), open.output = from.ids(), open.token_types = from.ids();
    open.max_outputs = from.take<int>(), open.home = from.take<uint8_t>();
    open.sampling = std::make_shared<SamplingParams>();
  }
  for (size_t i = from.count(); i > 0; --i)
    batch.copies.push_back(
        {from.take<int>(), from.take<int32_t>(), from.take<int32_t>(), from.take<int>(), from.take<uint8_t>()});
  for (size_t i = from.count(); i > 0; --i)
    batch.releases.push_back({from.take<int>(), from.take<int32_t>(), from.take<uint8_t>()});
  for (size_t i = from.count(); i > 0; --i)
    batch.entries.push_back({from.take<int>(), from.take<Slot>(), from.take<int32_t>(), from.take<int32_t>()});
  return batch;
}

bool same(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

void changes(Source& from) {
  const StepBatch batch = make_batch(from);
  ByteWriter first, second;
  write_changes(batch, first);
  ByteReader reader(first.bytes());
  StepBatch read;
  read_changes(reader, read);
  require(reader.done(), "a message is read to its end");
  require(read.closes == batch.closes && read.opens.size() == batch.opens.size() &&
              read.copies.size() == batch.copies.size() && read.entries.size() == batch.entries.size(),
          "all changes are there");
  for (size_t i = 0; i < batch.opens.size(); ++i)
    require(read.opens[i].slot == batch.opens[i].slot && read.opens[i].home == batch.opens[i].home,
            "of the same slots");
  write_changes(read, second);
  require(same(first.bytes(), second.bytes()), "what was read is written alike");
}

void draft_rows(Source& from) {
  const size_t count = from.count();
  std::vector<DraftRow> rows(count);
  std::vector<std::vector<int32_t>> next(count);
  for (size_t i = 0; i < count; ++i) {
    DraftRow& row = rows[i];
    row.slot = from.take<Slot>(), row.first_row = from.take<int>(), row.rows = from.take<int>();
    row.token = from.take<int32_t>(), row.drafts = from.take<uint8_t>() % 3, row.end = from.take<int>();
    next[i] = from.ids(), row.next = next[i];
    row.noise.temperature = from.take<uint8_t>() / 100.0f, row.noise.seed = from.take<uint64_t>();
  }
  ByteWriter first, second;
  write_draft_rows(rows, first);
  ByteReader reader(first.bytes());
  ReadDraftRows read;
  read_draft_rows(reader, read);
  require(reader.done() && read.rows.size() == count, "all rows are read");
  for (size_t i = 0; i < count; ++i)
    require(std::ranges::equal(read.rows[i].next, rows[i].next) && read.rows[i].drafts == rows[i].drafts &&
                (rows[i].drafts == 0 || read.rows[i].noise.seed == rows[i].noise.seed),
            "as they were written");
  write_draft_rows(read.rows, second);
  require(same(first.bytes(), second.bytes()), "what was read is written alike");
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  std::vector<std::string> seeds;
  for (unsigned seed = 1; seed < 6; ++seed) {
    std::string bytes;
    for (unsigned i = 0; i < 200; ++i) bytes += static_cast<char>(i * i * seed + i / 3);
    seeds.push_back(bytes);
  }
  return seeds;
}
std::vector<std::string> fuzz_words() { return {"\1", "\4", std::string("\0\0\0\0", 4), "\xff\xff\xff\xff"}; }
void mend(std::string&) {}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes = copy_of(data, size);
  Source from(bytes);
  changes(from), draft_rows(from);
  return 0;
}
