#include "plan/output_parts.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace weft {

using kernels::Part;

namespace {

// Some of `count` for one of the threads.
std::pair<int, int> share_of(int count, Part threads) {
  const auto at = [&](int index) { return static_cast<int>(int64_t{count} * index / threads.count); };
  return {at(threads.index), at(threads.index + 1)};
}

void copy_share(std::byte* to, const std::byte* from, int floats, Part threads) {
  const auto [begin, end] = share_of(floats, threads);
  std::memcpy(to + begin * sizeof(float), from + begin * sizeof(float), (end - begin) * sizeof(float));
}

}  // namespace

OutputParts::OutputParts(const Plan& share, const RankTeam& ranks, bool last_stage, int max_outputs, int lanes)
    : layout_(ranks.layout()), ranks_of_process_(ranks.ranks()), all_(share.all_output_cols()),
      each_(share.output_part.all > 0 ? share.output_part.each : all_), parts_((all_ + each_ - 1) / each_),
      lanes_(lanes) {
  const int first = ranks.first_rank();
  for (std::vector<Place>& lane : lanes_) {
    lane.resize(static_cast<size_t>(layout_.homes()));
    for (int home = 0; home < layout_.homes(); ++home) {
      if (!in_parts(home) || (ranks.processes() ? first != 0 : !last_stage)) continue;
      Place& place = lane[home];
      place.rows = reserve_or_throw(static_cast<size_t>(max_outputs) * row_floats(all_) * sizeof(float));
      place.messages.resize(static_cast<size_t>(parts_));
      for (int part = 0; part < parts_; ++part)
        if (process_of(home, part) != 0) place.messages[part] = reserve_or_throw(most_message_bytes(max_outputs));
    }
  }
}

OutputParts::Range OutputParts::columns(int part) const { return {part * each_, std::min(each_, all_ - part * each_)}; }

// Of a row in a message; what follows is as memory of any type.
size_t OutputParts::packed_bytes(int part, int32_t summary) const {
  const size_t bytes = summary > 0 ? static_cast<size_t>(summary) : columns(part).count * sizeof(float);
  return (bytes + 7) / 8 * 8;
}

size_t OutputParts::message_bytes(int part, const StepInputs& in) const {
  size_t sum = 0;
  for (int r = 0; r < in.outputs; ++r) sum += packed_bytes(part, in.summary_bytes[r]);
  return sum;
}

void OutputParts::lay_out(int lane, int home, const StepInputs& in) {
  Place& place = lanes_[lane][home];
  if (place.messages.empty()) return;
  place.bytes.assign(in.summary_bytes.begin(), in.summary_bytes.begin() + in.outputs);
  place.offsets.clear();
  size_t end = 0;
  for (const int32_t bytes : place.bytes) {
    place.offsets.push_back(end);
    end += (static_cast<size_t>(bytes) * parts_ + 7) / 8 * 8;
  }
  if (place.summaries.size() < end) place.summaries.resize(end);
}

// Whole rows in shares of their columns, the others a row for each thread in turn.
template <class Address>
void OutputParts::write(const Own& own, const StepInputs& in, Part threads, const Summarise& summarise,
                        const Address& address) const {
  const Range columns = this->columns(own.part);
  int next = 0;
  for (int r = 0; r < in.outputs; ++r) {
    const float* values = own.values + r * own.ld;
    const int32_t bytes = in.summary_bytes[r];
    std::byte* const to = address(r, bytes);
    if (bytes == 0) {
      copy_share(to, reinterpret_cast<const std::byte*>(values), columns.count, threads);
    } else if (next++ % threads.count == threads.index) {
      summarise(
          {own.home, r, {values, static_cast<size_t>(columns.count)}, columns.first, own.first_thread + threads.index},
          {to, static_cast<size_t>(bytes)});
    }
  }
}

void OutputParts::put(const Own& own, const StepInputs& in, Part threads, const Summarise& summarise, int lane) {
  Place& place = lanes_[lane][own.home];
  write(own, in, threads, summarise, [&](int row, int32_t bytes) {
    return bytes == 0 ? column(place, static_cast<size_t>(row), columns(own.part).first)
                      : place.summaries.data() + place.offsets[row] + own.part * static_cast<size_t>(bytes);
  });
}

void OutputParts::pack(const Own& own, const StepInputs& in, Part threads, const Summarise& summarise,
                       std::byte* message) const {
  write(own, in, threads, summarise,
        [&](int, int32_t bytes) { return std::exchange(message, message + packed_bytes(own.part, bytes)); });
}

void OutputParts::unpack(int lane, int home, int part, Part threads) {
  Place& place = lanes_[lane][home];
  const std::byte* message = place.messages[part].data();
  const Range columns = this->columns(part);
  for (size_t r = 0; r < place.bytes.size(); ++r) {
    const auto bytes = static_cast<size_t>(place.bytes[r]);
    if (bytes == 0) copy_share(column(place, r, columns.first), message, columns.count, threads);
    else if (r % threads.count == static_cast<size_t>(threads.index))
      std::memcpy(place.summaries.data() + place.offsets[r] + part * bytes, message, bytes);
    message += packed_bytes(part, place.bytes[r]);
  }
}

std::span<const std::byte> OutputParts::summaries(int lane, int home, int row) const {
  const Place& place = lanes_[lane][home];
  if (place.messages.empty()) return {};
  return std::span(place.summaries)
      .subspan(place.offsets[row], static_cast<size_t>(place.bytes[row]) * static_cast<size_t>(parts_));
}

}  // namespace weft
