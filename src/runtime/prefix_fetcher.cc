#include "runtime/prefix_fetcher.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/keep_going.h"
#include "base/log.h"

namespace weft {

namespace {

// Blocks that wait for their content take room from running sequences: not more than this part of a cache, unless they
// are for a single prompt.
constexpr int64_t kReservedShare = 2;

}  // namespace

PrefixFetcher::PrefixFetcher(const Options& options, Scheduler& scheduler, const BlockMemory& memory, Features features,
                             Line line, std::function<void(SequenceId)> ready, std::function<void()> freed)
    : options_(options), scheduler_(scheduler), memory_(memory), features_(std::move(features)), line_(std::move(line)),
      ready_(std::move(ready)), freed_(std::move(freed)) {}

void PrefixFetcher::begin(SequenceId id, std::unique_ptr<BlockTransfer> transfer, RemotePrompt prompt,
                          double now) noexcept {
  const uint64_t number = next_number_++;
  try {
    auto fetch = std::make_unique<Fetch>();
    fetch->transfer = std::move(transfer), fetch->prompt = std::move(prompt);
    fetch->began = now, fetch->waiters = {id};
    if (!can_be_sent(fetch->prompt.prompt) || !worth_it(*fetch)) return decline(id);
    fetch->prompt.last = fetch->transfer->cache.keys[static_cast<size_t>(fetch->transfer->blocks - 1)];
    if (join(id, fetch->prompt.last)) return;
    fetches_.emplace(number, std::move(fetch));
  } catch (const std::bad_alloc&) {
    return decline(id);
  }
  ++metrics_.fetches;
  ask_server(number, now);
}

// Chooses the home; whether there is something to fetch.
bool PrefixFetcher::worth_it(Fetch& fetch) const {
  const int cached = scheduler_.look_up_import(*fetch.transfer, [](int, int) { return true; });
  const int tokens_per_block = scheduler_.cache(0).options().tokens_per_block;
  const int prompt_tokens = static_cast<int>(fetch.prompt.prompt.tokens.size());
  return fetch.transfer->blocks * tokens_per_block > cached && prompt_tokens - cached > options_.max_local;
}

// The choices of a request, and equal prompts, wait for one fetch.
bool PrefixFetcher::join(SequenceId id, const BlockKey& last) {
  for (auto& [number, fetch] : fetches_)
    if (!fetch->ending && fetch->prompt.last == last) {
      fetch->waiters.push_back(id);
      return true;
    }
  return false;
}

// What cannot be said is taken for a connection that broke: all that waits for the server goes on without it.
template <class Message>
void PrefixFetcher::say(const Fetch& fetch, const Message& message) noexcept {
  try {
    line_.send(fetch.address(), encode(message));
  } catch (const std::exception&) {
    line_.give_up(fetch.address());
  }
}

// The server at hand, or the next one that may be there; if there is none the fetch ends.
void PrefixFetcher::ask_server(uint64_t number, double now) noexcept {
  Fetch& fetch = *fetches_.at(number);
  const size_t servers = fetch.prompt.servers.size();
  while (fetch.server < servers && paused_.contains(fetch.address())) ++fetch.server;
  if (fetch.server == servers) return end(number, false);
  try {
    begin_to_ask(number, fetch, now);
  } catch (const std::exception&) {  // no memory, no descriptor
    ++metrics_.failures;
    return end(number, true);
  }
  advance(number);
}

void PrefixFetcher::begin_to_ask(uint64_t number, Fetch& fetch, double now) {
  fetch.ticket = next_ticket_++, fetch.asked = fetch.sent = false, fetch.heard = now;
  tickets_[fetch.ticket] = number;
  line_.connect(fetch.address());
  fetch.prompt.prompt.ticket = fetch.ticket;
  fetch.prompt.prompt.time_limit_ms =
      static_cast<uint32_t>(std::max(0.0, fetch.began + options_.time_limit - now) * 1000);
  say(fetch, fetch.prompt.prompt);
}

// Takes memory and asks for the blocks, once that can be; ends the fetch where nothing is missing any more, or memory.
void PrefixFetcher::advance(uint64_t number) noexcept {
  Fetch& fetch = *fetches_.at(number);
  if (fetch.ending) return;
  try {
    reserve(fetch);
    if (!is_complete(fetch)) return ask(fetch);
  } catch (const std::bad_alloc&) {
    ++metrics_.failures;
  }
  end(number, true);
}

// What is sure stays; the rest is asked for elsewhere.
void PrefixFetcher::next_server(uint64_t number, std::string_view why, double now) noexcept {
  Fetch& fetch = *fetches_.at(number);
  static WarningLimit lost_blocks;
  keep_quiet([&] { lost_blocks.warn("blocks from ", fetch.address(), " did not come: ", why); });
  ++metrics_.failures;
  tickets_.erase(fetch.ticket);
  ++fetch.server;
  fetch.certain = 0;
  for (Wanted& wanted : fetch.wanted)
    if (!wanted.sure) {
      wanted.missing = static_cast<int>(wanted.got.size());
      wanted.got.assign(wanted.got.size(), false);
    }
  ask_server(number, now);
}

void PrefixFetcher::reserve(Fetch& fetch) {
  if (fetch.reserved) return;
  BlockTransfer& transfer = *fetch.transfer;
  const CacheManager& cache = scheduler_.cache(transfer.home);
  if (reserved_bytes_ > 0 && reserved_bytes_ > cache.options().budget_bytes / kReservedShare) return;
  if (!scheduler_.begin_import(transfer)) return;
  try {
    for (const CacheManager::Blank& blank : transfer.blanks) {
      const int parts = memory_.layers(blank.group) * memory_.tiles();
      fetch.by_number[{blank.group, blank.number}] = fetch.wanted.size();
      fetch.wanted.push_back({blank, std::vector<bool>(static_cast<size_t>(parts)), parts});
      fetch.bytes += cache.options().groups[static_cast<size_t>(blank.group)].block_bytes;
    }
  } catch (...) {  // nothing of it is filled
    scheduler_.end_import(transfer, 0);
    throw;
  }
  fetch.reserved = true;
  fetch.incomplete = fetch.wanted.size();
  reserved_bytes_ += fetch.bytes;
}

// Once nothing in flight has to do with the blocks any more, nor a part of the server before, they may be filled.
void PrefixFetcher::ask(Fetch& fetch) {
  if (!fetch.reserved || fetch.asked || fetch.ending || fetch.writing > 0 || finished_ < fetch.transfer->after) return;
  fetch.asked = true;
  const auto tiles = static_cast<uint32_t>(memory_.tiles());
  SendMessage message{fetch.ticket, {}, {}};
  fetch.images.clear();
  for (uint32_t i = 0; i < fetch.prompt.images.size(); ++i) {
    if (features_.has(fetch.prompt.images[i].hash)) continue;
    fetch.images[i] = {};
    message.features.push_back(i);
  }
  for (const Wanted& wanted : fetch.wanted) {
    if (wanted.sure) continue;
    const TileRange range{static_cast<uint32_t>(wanted.at.group), static_cast<uint32_t>(wanted.at.number) * tiles,
                          tiles};
    TileRange* const last = message.tiles.empty() ? nullptr : &message.tiles.back();
    if (last && last->group == range.group && last->first + last->count == range.first) last->count += tiles;
    else message.tiles.push_back(range);
  }
  say(fetch, message);
}

// Calls work(number, fetch), which may end that fetch and no other.
template <class Work>
void PrefixFetcher::for_each(Work work) noexcept {
  for (auto next = fetches_.begin(); next != fetches_.end();) {
    const auto at = next++;
    work(at->first, *at->second);
  }
}

void PrefixFetcher::step_finished(uint64_t step) noexcept {
  finished_ = std::max(finished_, step);
  for_each([&](uint64_t number, Fetch&) { advance(number); });
}

void PrefixFetcher::tick(double now) noexcept {
  std::erase_if(paused_, [&](const auto& pause) { return pause.second <= now; });
  for_each([&](uint64_t number, Fetch& fetch) {
    if (fetch.ending) return;
    if (now - fetch.began > options_.time_limit) {
      ++metrics_.failures;
      end(number, true);
    } else if (now - fetch.heard > options_.stall_limit) {
      say(fetch, CancelMessage{fetch.ticket});
      next_server(number, "nothing was heard of them", now);
    }
  });
  step_finished(finished_);
}

void PrefixFetcher::stop() noexcept {
  for_each([&](uint64_t number, Fetch&) { end(number, true); });
}

void PrefixFetcher::forget(SequenceId id) noexcept {
  for (auto& [number, fetch] : fetches_) {
    if (std::erase(fetch->waiters, id) == 0) continue;
    if (fetch->waiters.empty() && !fetch->ending) end(number, true);
    return;
  }
}

// The number of the fetch that this server is asked for under the ticket; 0: it is over.
uint64_t PrefixFetcher::of(const std::string& server, uint64_t ticket) const {
  const auto found = tickets_.find(ticket);
  if (found == tickets_.end()) return 0;
  const Fetch& fetch = *fetches_.at(found->second);
  return fetch.ending || fetch.address() != server ? 0 : found->second;
}

void PrefixFetcher::on_progress(const std::string& server, const ProgressMessage& message, double now) noexcept {
  const uint64_t number = of(server, message.ticket);
  if (number == 0) return;
  Fetch& fetch = *fetches_.at(number);
  fetch.heard = now;
  confirm(fetch, static_cast<int>(std::min<uint32_t>(message.computed, std::numeric_limits<int>::max())));
  if (is_complete(fetch) && fetch.writing == 0) end(number, true);
}

// Parts come while the prompt is computed. They count once the server says that nothing went wrong with it.
void PrefixFetcher::confirm(Fetch& fetch, int positions) {
  fetch.certain = std::max(fetch.certain, positions);
  for (Wanted& wanted : fetch.wanted) settle(fetch, wanted);
}

void PrefixFetcher::settle(Fetch& fetch, Wanted& wanted) {
  const int64_t end = (int64_t{wanted.at.number} + 1) * scheduler_.cache(0).options().tokens_per_block;
  if (wanted.sure || wanted.missing > 0 || end > fetch.certain) return;
  wanted.sure = true;
  --fetch.incomplete, ++metrics_.blocks;
}

void PrefixFetcher::on_done(const std::string& server, const DoneMessage& message, double now) noexcept {
  const uint64_t number = of(server, message.ticket);
  if (number == 0) return;
  if (!message.complete) return next_server(number, message.why, now);
  // Where blocks are larger there, the last of those here may be in one that is not whole.
  Fetch& fetch = *fetches_.at(number);
  fetch.sent = true;
  confirm(fetch, std::numeric_limits<int>::max());
  if (fetch.writing == 0) end(number, false);
}

void PrefixFetcher::on_lost(const std::string& server, std::string_view why, double now) noexcept {
  keep_quiet([&] { paused_[server] = now + options_.pause; });  // else it is asked again at once
  for_each([&](uint64_t number, Fetch& fetch) {
    if (!fetch.ending && fetch.address() == server) next_server(number, why, now);
  });
}

// Rows come in order.
Status PrefixFetcher::on_features(const std::string& server, const FeaturesMessage& message, double now) {
  const uint64_t number = of(server, message.ticket);
  if (number == 0) return {};
  Fetch& fetch = *fetches_.at(number);
  const auto found = fetch.images.find(message.image);
  const auto wrong = [&](const char* what) {
    return fail(Code::invalid_argument, server, " sent ", what, ": image ", message.image, ", ", message.rows,
                " rows of ", message.columns, ", from ", message.first_row, " on");
  };
  if (found == fetch.images.end()) return wrong("features that are not wanted");
  Fetch::Image& image = found->second;
  const RemotePrompt::Image& wanted = fetch.prompt.images[message.image];
  if (message.rows != wanted.rows || message.columns != wanted.columns) return wrong("features of another shape");
  if (!image.features) {
    image.features = std::make_shared<MediaFeatures>(
        MediaFeatures{static_cast<int>(message.rows), static_cast<int>(message.columns), {}});
    image.features->values.resize(size_t{message.rows} * message.columns);
  }
  MediaFeatures& features = *image.features;
  if (message.first_row != image.rows || message.values.empty()) return wrong("features out of their order");
  const size_t row = size_t{message.columns} * sizeof(float);
  std::memcpy(features.values.data() + size_t{image.rows} * message.columns, message.values.data(),
              message.values.size());
  image.rows += static_cast<uint32_t>(message.values.size() / row);
  metrics_.bytes += message.values.size();
  fetch.heard = now;
  if (image.rows < message.rows) return {};
  features_.put(fetch.prompt.images[message.image].hash, std::move(image.features));
  fetch.images.erase(found);
  if (is_complete(fetch) && fetch.writing == 0) end(number, true);
  return {};
}

Result<PrefixFetcher::Places> PrefixFetcher::begin_part(const std::string& server, const PartMessage& message,
                                                        double now) {
  Places to{of(server, message.ticket), {}};
  if (to.fetch == 0) return to;
  Fetch& fetch = *fetches_.at(to.fetch);
  const auto wrong = [&](const char* what) {
    return fail(Code::invalid_argument, server, " sent ", what, ": group ", message.group, ", layers ",
                message.first_layer, " + ", message.layers, ", tiles ", message.first_tile, " + ", message.tiles, ", ",
                message.content.size(), " bytes");
  };
  if (!fetch.asked) return wrong("blocks before they were asked for");
  if (message.group >= static_cast<uint32_t>(scheduler_.cache(0).groups())) return wrong("an unknown group");
  const int group = static_cast<int>(message.group), layers = memory_.layers(group), tiles = memory_.tiles();
  if (message.layers == 0 || message.tiles == 0 || message.layers > static_cast<uint32_t>(layers) ||
      message.first_layer > static_cast<uint32_t>(layers) - message.layers || message.tiles > (1u << 20) ||
      message.first_tile > (1u << 30))
    return wrong("layers or tiles that there are none of");
  const BlockPart all{static_cast<int>(message.first_layer), static_cast<int>(message.layers), 0,
                      static_cast<int>(message.tiles)};
  if (message.content.size() != memory_.bytes(group, all)) {
    const size_t tiles_of_all = size_t{message.layers} * message.tiles;
    if (options_.convert && message.content.size() % tiles_of_all == 0)
      to.from = memory_.other_type(group, message.content.size() / tiles_of_all);
    if (!to.from) return wrong("content of another size");
  }
  const int first = static_cast<int>(message.first_tile), end = first + static_cast<int>(message.tiles);
  for (int tile = first; tile < end;) {
    const int number = tile / tiles, until = std::min(end, (number + 1) * tiles);
    const auto wanted = fetch.by_number.find({group, number});
    if (wanted == fetch.by_number.end()) return wrong("blocks that are not wanted");
    const CacheManager::Blank& blank = fetch.wanted[wanted->second].at;
    to.places.push_back({fetch.transfer->home,
                         group,
                         number,
                         blank.block,
                         {all.first_layer, all.layers, tile - number * tiles, until - tile},
                         tile - first});
    tile = until;
  }
  metrics_.bytes += message.content.size();
  fetch.heard = now;
  ++fetch.writing;
  return to;
}

void PrefixFetcher::end_part(const Places& to) noexcept {
  Fetch& fetch = *fetches_.at(to.fetch);
  --fetch.writing;
  const int tiles = memory_.tiles();
  const bool counts = fetch.asked;  // else its server was lost meanwhile, and another one will be asked
  for (const Place& place : to.places) {
    if (!counts) break;
    Wanted& wanted = fetch.wanted[fetch.by_number.at({place.group, place.number})];
    if (wanted.missing == 0) continue;  // it came twice
    for (int l = 0; l < place.part.layers; ++l)
      for (int t = 0; t < place.part.tiles; ++t) {
        const auto bit = static_cast<size_t>((place.part.first_layer + l) * tiles + place.part.first_tile + t);
        wanted.missing -= !wanted.got[bit], wanted.got[bit] = true;
      }
    settle(fetch, wanted);
  }
  if (fetch.ending || is_complete(fetch) || (fetch.sent && fetch.writing == 0)) return end(to.fetch, false);
  advance(to.fetch);
}

void PrefixFetcher::fail_part(const Places& to) noexcept {
  Fetch& fetch = *fetches_.at(to.fetch);
  --fetch.writing;
  if (fetch.ending) return end(to.fetch, false);
  advance(to.fetch);  // its server may be lost already, and the next one waits
}

// Blocks in front of which all is there.
int PrefixFetcher::filled_blocks(const Fetch& fetch) const {
  int filled = fetch.transfer->blocks;
  for (const Wanted& wanted : fetch.wanted)
    if (!wanted.sure) filled = std::min(filled, wanted.at.number);
  return filled;
}

// The sequences go on. `cancel`: the server is told that nothing is wanted any more.
void PrefixFetcher::end(uint64_t number, bool cancel) noexcept {
  Fetch& fetch = *fetches_.at(number);
  if (cancel) say(fetch, CancelMessage{fetch.ticket});
  tickets_.erase(fetch.ticket);
  fetch.ending = true;
  if (fetch.writing > 0) return;
  if (fetch.reserved) {
    scheduler_.end_import(*fetch.transfer, filled_blocks(fetch));
    reserved_bytes_ -= fetch.bytes;
    metrics_.complete += fetch.incomplete == 0;
  }
  const auto found = fetches_.find(number);
  const std::unique_ptr<Fetch> ended = std::move(found->second);
  fetches_.erase(found);
  for (const SequenceId id : ended->waiters) ready_(id);
  freed_();
}

}  // namespace weft
