#include "runtime/prefix_provider.h"

#include <algorithm>

#include "base/make_room.h"

namespace weft {

namespace {

constexpr size_t kMostLeases = 4096;
constexpr size_t kMostQueued = 2 * kDrainedBytes;  // in a channel, before more is read from the cache
constexpr double kReportSeconds = 1;

}  // namespace

PrefixProvider::PrefixProvider(double time_limit, Scheduler& scheduler, const BlockMemory& memory,
                               FindFeatures features, std::function<void()> freed)
    : time_limit_(time_limit), scheduler_(scheduler), memory_(memory), find_features_(std::move(features)),
      freed_(std::move(freed)) {}

Status PrefixProvider::begin(std::shared_ptr<PeerLink> link, ComputeMessage prompt, PromptMedia media,
                             std::unique_ptr<BlockTransfer> blocks, double now) {
  if (find(*link, prompt.ticket) != leases_.end())
    return fail(Code::invalid_argument, link->peer(), " uses ticket ", prompt.ticket, " twice");
  const uint64_t number = next_lease_++;
  Lease lease;
  lease.link = std::move(link), lease.ticket = prompt.ticket;
  lease.deadline = now + std::min(time_limit_, prompt.time_limit_ms / 1000.0), lease.reported = now;
  for (const auto& image : media.media) lease.images.push_back(image->hash);
  lease.prompt = std::move(prompt), lease.media = std::move(media), lease.blocks = std::move(blocks);
  lease.queued = leases_.size() < kMostLeases && !scheduler_.is_cached(*lease.blocks);
  make_room(abandoned_, leases_.size() + 2);  // with this one's, and that of a job under way
  if (lease.queued) jobs_.push_back(number);  // of a lease that there is not, it would be passed over
  leases_.emplace(number, std::move(lease));
  ++metrics_.prompts;
  if (leases_.size() > kMostLeases) done(number, false, "too many prompts wait here");
  return {};
}

// What cannot be said is told by the end of the connection, which ends all leases of the other side.
template <class Message>
void PrefixProvider::say(const Lease& lease, const Message& message) noexcept {
  try {
    lease.link->send(encode(message));
  } catch (const std::exception&) {
    lease.link->channel().close();
  }
}

// Calls work(number, lease), which may end that lease and no other.
template <class Work>
void PrefixProvider::for_each(Work work) noexcept {
  for (auto next = leases_.begin(); next != leases_.end();) {
    const auto at = next++;
    work(at->first, at->second);
  }
}

PrefixProvider::Leases::iterator PrefixProvider::find(const PeerLink& link, uint64_t ticket) {
  return std::ranges::find_if(leases_, [&](const auto& entry) {
    return entry.second.link.get() == &link && entry.second.ticket == ticket && !entry.second.ended;
  });
}

Status PrefixProvider::on_send(const PeerLink& link, const SendMessage& message) {
  const auto found = find(link, message.ticket);
  if (found == leases_.end()) return {};  // it has ended
  Lease& lease = found->second;
  const int groups = scheduler_.cache(0).groups(), tiles = memory_.tiles();
  if (lease.wanted) return fail(Code::invalid_argument, link.peer(), " wants ticket ", message.ticket, " twice");
  lease.tiles.resize(static_cast<size_t>(groups));
  lease.first.assign(static_cast<size_t>(groups), lease.blocks->blocks);
  lease.next_layer.assign(static_cast<size_t>(groups), 0);
  // What lies behind the last whole block here is computed by who asks.
  const auto end = static_cast<uint32_t>(lease.blocks->blocks * tiles);
  for (TileRange range : message.tiles) {
    if (range.group >= static_cast<uint32_t>(groups))
      return fail(Code::invalid_argument, link.peer(), " wants blocks of group ", range.group, ", there are ", groups);
    if (range.first >= end || range.count == 0) continue;
    range.count = std::min(range.count, end - range.first);
    std::deque<TileRange>& of_group = lease.tiles[range.group];
    if (!of_group.empty() && of_group.back().first + of_group.back().count > range.first)
      return fail(Code::invalid_argument, link.peer(), " wants blocks out of their order");
    int& first = lease.first[range.group];
    first = std::min(first, static_cast<int>(range.first) / tiles);
    of_group.push_back(range);
  }
  for (const uint32_t image : message.features) {
    if (image >= lease.images.size())
      return fail(Code::invalid_argument, link.peer(), " wants the features of image ", image, ", there are ",
                  lease.images.size());
    lease.features.push_back(image);
  }
  lease.wanted = unheld_ = true;
  return {};
}

void PrefixProvider::on_cancel(const PeerLink& link, const CancelMessage& message) noexcept {
  const auto found = find(link, message.ticket);
  if (found == leases_.end()) return;
  ++metrics_.cancelled;
  end(found->first);
}

void PrefixProvider::on_lost(const PeerLink& link) noexcept {
  for_each([&](uint64_t number, const Lease& lease) {
    if (lease.link.get() != &link || lease.ended) return;
    ++metrics_.cancelled;
    end(number);
  });
}

void PrefixProvider::tick(double now) noexcept {
  for_each([&](uint64_t number, Lease& lease) {
    if (lease.ended) return;
    if (now - lease.reported >= kReportSeconds) report(lease, now);
    if (now > lease.deadline) done(number, false, "the time for it is over");
  });
}

// Says how far the prompt is computed: what was sent of positions below is certain.
void PrefixProvider::report(Lease& lease, double now) noexcept {
  lease.reported = now, lease.reported_positions = lease.blocks->certain;
  say(lease, ProgressMessage{lease.ticket, static_cast<uint32_t>(lease.blocks->certain)});
}

void PrefixProvider::stop() noexcept {
  for_each([&](uint64_t number, const Lease& lease) {
    if (!lease.ended) done(number, false, "the server is being ended");
  });
}

std::optional<PrefixProvider::Job> PrefixProvider::next_job() noexcept {
  while (!jobs_.empty()) {
    const uint64_t number = jobs_.front();
    jobs_.pop_front();
    const auto found = leases_.find(number);
    if (found == leases_.end() || found->second.ended) continue;
    return Job{number, std::move(found->second.prompt), std::move(found->second.media)};
  }
  return std::nullopt;
}

void PrefixProvider::started(uint64_t number, std::optional<SequenceId> sequence, std::string_view why) noexcept {
  const auto found = leases_.find(number);
  const bool wanted = found != leases_.end() && !found->second.ended;
  if (!wanted) {
    if (sequence) abandoned_.push_back(*sequence);
  } else if (!sequence) {
    done(number, false, why);
  } else if (found->second.queued) {  // else it has ended already
    found->second.queued = false, found->second.computing = true, found->second.sequence = *sequence;
  }
}

void PrefixProvider::computed(uint64_t number, std::string_view why) noexcept {
  const auto found = leases_.find(number);
  if (found == leases_.end() || found->second.ended) return;
  found->second.queued = found->second.computing = false;
  unheld_ = true;
  if (!why.empty()) done(number, false, why);
}

std::optional<SequenceId> PrefixProvider::take_abandoned() noexcept {
  if (abandoned_.empty()) return std::nullopt;
  const SequenceId id = abandoned_.back();
  abandoned_.pop_back();
  return id;
}

// ---- Sending

// Takes hold of what has been computed. Where nothing more will come and something is missing, the lease ends.
void PrefixProvider::hold() {
  unheld_ = false;
  for_each([&](uint64_t number, Lease& lease) {
    if (!lease.wanted || lease.ended) return;
    if (lease.reading > 0) {  // its blocks may not be exchanged now
      unheld_ = true;
      return;
    }
    try {
      if (!lease.held || !is_sure(lease))
        lease.held = scheduler_.hold_lease(*lease.blocks, lease.first, lease.sequence);
    } catch (const std::bad_alloc&) {  // later, or its time is over
      unheld_ = true;
      return;
    }
    if (lease.blocks->certain > lease.reported_positions) report(lease, lease.reported);
    settle(number);
  });
}

// Whether all that was sent is right. Another sequence may have put blocks into the index that this one is still
// computing, so it is not enough that they are there.
bool PrefixProvider::is_sure(const Lease& lease) const {
  return lease.unsure <= lease.blocks->certain || (!lease.queued && !lease.computing);
}

bool PrefixProvider::all_sent(const Lease& lease) const {
  return lease.wanted && is_sure(lease) && lease.features.empty() && lease.reading == 0 &&
         std::ranges::all_of(lease.tiles, [](const auto& tiles) { return tiles.empty(); });
}

// Layers of the block at the front of the group's queue that are written.
int PrefixProvider::ready_layers(const Lease& lease, int group) const {
  const auto g = static_cast<size_t>(group);
  const BlockTransfer& blocks = *lease.blocks;
  const CacheSequence::Table& table = blocks.cache.tables[g];
  const int number = static_cast<int>(lease.tiles[g].front().first) / memory_.tiles();
  if (number < table.first_block || number >= table.first_block + table.held()) return 0;
  const int end = (number + 1) * scheduler_.cache(0).options().tokens_per_block;
  if (number < blocks.indexed[g] || end <= blocks.certain) return memory_.layers(group);
  for (const BlockTransfer::Computing& computing : blocks.computing)
    if (number < computing.end) return memory_.written_layers(computing.step, group);
  return 0;
}

bool PrefixProvider::is_ready(const Lease& lease, int group) const {
  const auto g = static_cast<size_t>(group);
  return !lease.tiles[g].empty() && ready_layers(lease, group) > lease.next_layer[g];
}

bool PrefixProvider::waits_for_layers() const {
  return std::ranges::any_of(leases_, [](const auto& entry) {
    const Lease& lease = entry.second;
    return lease.wanted && !lease.ended && !lease.held && !lease.blocks->computing.empty();
  });
}

std::optional<PrefixProvider::Piece> PrefixProvider::next_piece() {
  if (unheld_) hold();
  // Leases take turns.
  for (int round = 0; round < 2; ++round)
    for (auto& [number, lease] : leases_) {
      if ((number > last_served_) != (round == 0)) continue;
      if (!lease.wanted || lease.ended || lease.link->channel().queued_bytes() > kMostQueued) continue;
      for (int g = 0; g < static_cast<int>(lease.tiles.size()); ++g) {
        if (!is_ready(lease, g)) continue;
        last_served_ = number;
        return cut(number, lease, g);
      }
    }
  return std::nullopt;
}

// Of the first block of the group's queue: as many layers of its wanted tiles as go into a message.
PrefixProvider::Piece PrefixProvider::cut(uint64_t number, Lease& lease, int group) const {
  const auto g = static_cast<size_t>(group);
  TileRange& range = lease.tiles[g].front();
  const int per_block = memory_.tiles(), tile = static_cast<int>(range.first), block = tile / per_block;
  const int tiles = std::min(static_cast<int>(range.count), (block + 1) * per_block - tile);
  const size_t layer_bytes = memory_.block_tile_bytes(group) * static_cast<size_t>(tiles);
  const int first = lease.next_layer[g], left = ready_layers(lease, group) - first;
  const int layers = std::clamp(static_cast<int>(kLongestPiece / layer_bytes), 1, left);
  Piece piece{number, lease.link, {}, lease.blocks->home, group, 0, {first, layers, tile - block * per_block, tiles}};
  piece.head = {lease.ticket,
                range.group,
                static_cast<uint32_t>(first),
                static_cast<uint32_t>(layers),
                range.first,
                static_cast<uint32_t>(tiles),
                {}};
  const CacheSequence::Table& table = lease.blocks->cache.tables[g];
  piece.block = table.blocks[table.head + static_cast<size_t>(block - table.first_block)];
  if (const int end = (block + 1) * scheduler_.cache(0).options().tokens_per_block;
      block >= lease.blocks->indexed[g] && end > lease.blocks->certain)
    lease.unsure = std::max(lease.unsure, end);
  ++lease.reading;
  const bool all = first + layers == memory_.layers(group);
  lease.next_layer[g] = all ? 0 : first + layers;
  if (all) {
    range.first += static_cast<uint32_t>(tiles), range.count -= static_cast<uint32_t>(tiles);
    if (range.count == 0) lease.tiles[g].pop_front();
  }
  return piece;
}

void PrefixProvider::sent(const Piece& piece) noexcept {
  Lease& lease = leases_.at(piece.lease);
  --lease.reading;
  metrics_.bytes += memory_.bytes(piece.group, piece.part);
  if (lease.ended) return end(piece.lease);
  settle(piece.lease);
}

void PrefixProvider::failed(const Piece& piece) noexcept {
  Lease& lease = leases_.at(piece.lease);
  --lease.reading;
  if (lease.ended) return end(piece.lease);
  done(piece.lease, false, "memory ran out where it was computed");
}

void PrefixProvider::failed(const FeatureRows& rows) noexcept {
  const auto found = leases_.find(rows.lease);
  if (found != leases_.end() && !found->second.ended) done(rows.lease, false, "memory ran out where it was computed");
}

// An image is encoded before the prompt is computed. One whose features are not there then has to be encoded by who
// asks.
std::optional<PrefixProvider::FeatureRows> PrefixProvider::next_features() {
  for (auto& [number, lease] : leases_) {
    if (!lease.wanted || lease.ended || lease.features.empty()) continue;
    if (lease.link->channel().queued_bytes() > kMostQueued) continue;
    const uint32_t image = lease.features.front();
    const std::shared_ptr<const MediaFeatures> features = find_features_(lease.images[image]);
    if (!features) continue;
    const auto rows = static_cast<uint32_t>(features->rows), columns = static_cast<uint32_t>(features->cols);
    const size_t row_bytes = columns * sizeof(float);
    const uint32_t count = std::clamp(static_cast<uint32_t>(kLongestPiece / row_bytes), 1u, rows - lease.rows_sent);
    const auto values = std::as_bytes(std::span(features->values));
    FeatureRows some{number,
                     lease.link,
                     {lease.ticket, image, rows, columns, lease.rows_sent,
                      values.subspan(lease.rows_sent * row_bytes, count * row_bytes)},
                     features};
    lease.rows_sent += count;
    metrics_.bytes += count * row_bytes;
    if (lease.rows_sent == rows) lease.features.pop_front(), lease.rows_sent = 0, unheld_ = true;
    return some;
  }
  return std::nullopt;
}

// Ends the lease if all is sent, or nothing more will come.
void PrefixProvider::settle(uint64_t number) {
  Lease& lease = leases_.at(number);
  if (!lease.queued && !lease.computing)
    while (!lease.features.empty() && !find_features_(lease.images[lease.features.front()]))
      lease.features.pop_front(), lease.rows_sent = 0;
  if (!lease.features.empty()) return;
  if (all_sent(lease)) return done(number, true, "");
  // What was computed while a piece was read is not held yet.
  if (unheld_ || lease.queued || lease.computing || lease.reading > 0 || lease.held) return;
  for (int g = 0; g < static_cast<int>(lease.tiles.size()); ++g)
    if (is_ready(lease, g)) return;
  done(number, false, "some of the blocks are not in the cache any more");
}

void PrefixProvider::done(uint64_t number, bool complete, std::string_view why) noexcept {
  Lease& lease = leases_.at(number);
  ++(complete ? metrics_.complete : metrics_.failed);
  try {
    say(lease, DoneMessage{lease.ticket, complete, std::string(why)});
  } catch (const std::bad_alloc&) {  // for the reason
    say(lease, DoneMessage{lease.ticket, complete, ""});
  }
  end(number);
}

void PrefixProvider::end(uint64_t number) noexcept {
  Lease& lease = leases_.at(number);
  if (lease.computing) abandoned_.push_back(lease.sequence), lease.computing = false;
  lease.ended = true;
  if (lease.reading > 0) return;
  scheduler_.end_lease(*lease.blocks);
  leases_.erase(number);
  freed_();
}

ProvideMetrics PrefixProvider::metrics() const {
  ProvideMetrics metrics = metrics_;
  metrics.active = static_cast<int64_t>(leases_.size());
  return metrics;
}

}  // namespace weft
