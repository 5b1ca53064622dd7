#include "runtime/peer_exchange.h"

#include "base/clock.h"
#include "base/keep_going.h"
#include "base/log.h"

namespace weft {

namespace {

constexpr double kTickSeconds = 0.1;
constexpr double kLookSeconds = 0.001;  // between two looks at how far a running step is

}  // namespace

PeerExchange::PeerExchange(Options options, BlockMemory& memory, std::mutex& mutex, Scheduler& scheduler, Engine engine)
    : options_(std::move(options)), memory_(memory), mutex_(mutex), scheduler_(scheduler), engine_(std::move(engine)),
      fetcher_(
          {.time_limit = options_.time_limit, .convert = options_.convert, .max_local = options_.max_local}, scheduler,
          memory,
          {[this](const Digest& image) { return engine_.find_features(image) != nullptr; }, engine_.put_features},
          {[this](const std::string& address) { connect(address); },
           [this](const std::string& address, std::vector<std::byte> message) { send(address, std::move(message)); },
           [this](const std::string& address) { give_up(address); }},
          engine_.ready, engine_.freed),
      provider_(options_.time_limit, scheduler, memory, engine_.find_features, engine_.freed) {}

Result<std::unique_ptr<PeerExchange>> PeerExchange::open(Options options, const MakeTransport& make,
                                                         BlockMemory& memory, std::mutex& mutex, Scheduler& scheduler,
                                                         Engine engine) {
  std::unique_ptr<PeerExchange> exchange(
      new PeerExchange(std::move(options), memory, mutex, scheduler, std::move(engine)));
  WEFT_TRY(std::unique_ptr<Transport> transport, make(*exchange));
  const std::unique_lock lock(mutex);  // nobody is answered before all is set up
  exchange->transport_ = std::move(transport);
  if (!exchange->options_.listen.empty()) {
    WEFT_TRY(exchange->address_, exchange->transport_->listen(exchange->options_.listen));
  }
  if (exchange->options_.thread)
    exchange->thread_ = std::thread(
        [raw = exchange.get()] { keep_going("the exchange of blocks with other servers", [&] { raw->run(); }); });
  return exchange;
}

PeerExchange::~PeerExchange() { end(); }

void PeerExchange::end() {
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(stopping_, true)) return;
    fetcher_.stop(), provider_.stop();
    for (; !planned_.empty(); planned_.pop_front()) engine_.ready(planned_.front().id);
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
  transport_.reset();
}

double PeerExchange::now() const { return options_.clock ? options_.clock() : seconds(); }

void PeerExchange::wake() {
  woken_ = true;
  wake_.notify_all();
}

// ---- What the engine says

void PeerExchange::fetch(SequenceId id, RemotePrompt prompt) {
  if (stopping_) return engine_.ready(id);
  planned_.push_back({id, std::move(prompt)});
  try {
    planning_.insert(static_cast<uint64_t>(id));
  } catch (...) {
    planned_.pop_back();
    throw;
  }
  wake();
}

void PeerExchange::forget(SequenceId id) {
  if (planning_.erase(static_cast<uint64_t>(id)) > 0)
    std::erase_if(planned_, [&](const Planned& planned) { return planned.id == id; });
  else fetcher_.forget(id);
}

void PeerExchange::step_finished(uint64_t step) { fetcher_.step_finished(step); }

void PeerExchange::stepped() {
  provider_.stepped();
  if (provider_.metrics().active > 0) wake();
}

TransferMetrics PeerExchange::metrics() const {
  TransferMetrics metrics{fetcher_.metrics(), provider_.metrics(), static_cast<int64_t>(peers_.size()), refused_};
  metrics.fetched.active = fetcher_.active() + static_cast<int64_t>(planning_.size());
  return metrics;
}

// ---- Connections

PeerExchange::Peer* PeerExchange::find(const Channel* channel) {
  const auto found = peers_.find(channel);
  return found == peers_.end() ? nullptr : &found->second;
}

void PeerExchange::connect(const std::string& address) {
  if (dialled_.contains(address)) return;
  const std::shared_ptr<Channel> channel = transport_->dial(address);
  try {
    peers_[channel.get()] = {std::make_shared<PeerLink>(channel, false, options_.link, now()), address};
    dialled_[address] = channel.get();
  } catch (...) {
    peers_.erase(channel.get());
    channel->close();
    throw;
  }
}

void PeerExchange::send(const std::string& address, std::vector<std::byte> message) {
  const auto found = dialled_.find(address);
  if (found != dialled_.end()) peers_.at(found->second).link->send(std::move(message));
}

void PeerExchange::give_up(const std::string& address) {
  const auto found = dialled_.find(address);
  if (found != dialled_.end()) peers_.at(found->second).link->channel().close();
}

void PeerExchange::on_accepted(const std::shared_ptr<Channel>& channel) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return channel->close();
  try {
    peers_[channel.get()] = {std::make_shared<PeerLink>(channel, true, options_.link, now()), ""};
  } catch (const std::exception&) {  // no memory
    peers_.erase(channel.get());
    channel->close();
  }
}

void PeerExchange::on_drained(const std::shared_ptr<Channel>&) {
  const std::lock_guard lock(mutex_);
  wake();
}

void PeerExchange::on_closed(const std::shared_ptr<Channel>& channel, const Error& why) {
  std::string text;
  keep_quiet([&] { text = why.message(); });
  const std::lock_guard lock(mutex_);
  lose(channel.get(), text);
}

// Whatever had to do with the other side ends. Nothing happens the second time.
void PeerExchange::lose(const Channel* channel, std::string_view why) noexcept {
  const auto found = peers_.find(channel);
  if (found == peers_.end()) return;
  const Peer peer = std::move(found->second);
  peers_.erase(found);
  peer.link->channel().close();
  if (peer.address.empty()) {
    provider_.on_lost(*peer.link);
  } else {
    dialled_.erase(peer.address);
    fetcher_.on_lost(peer.address, why, now());
  }
  wake();
}

void PeerExchange::on_message(const std::shared_ptr<Channel>& channel, std::span<const std::byte> bytes) {
  std::unique_lock lock(mutex_, std::defer_lock);
  try {
    take_bytes(channel, bytes, lock);
  } catch (const std::exception& thrown) {  // no memory
    if (!lock.owns_lock()) lock.lock();
    lose(channel.get(), thrown.what());
  }
}

void PeerExchange::take_bytes(const std::shared_ptr<Channel>& channel, std::span<const std::byte> bytes,
                              std::unique_lock<std::mutex>& lock) {
  Result<TransferMessage> message = decode(bytes);
  lock.lock();
  if (stopping_ || !find(channel.get())) return;
  const Status taken = message.ok() ? take(channel, *message, lock) : Status(message.error());
  if (taken.ok()) return;
  const Peer* const peer = find(channel.get());
  if (!peer) return;
  static WarningLimit refused_peers;
  if (peer->address.empty())
    refused_peers.warn("blocks of the cache are not sent to ", peer->link->peer(), ": ", taken.error().message());
  refused_ += !peer->link->ready();
  lose(channel.get(), taken.error().message());
}

// Who connected asks, the other side answers; anything else is an error.
Status PeerExchange::take(const std::shared_ptr<Channel>& channel, TransferMessage& message,
                          std::unique_lock<std::mutex>& lock) {
  const Peer peer = *find(channel.get());
  WEFT_TRY(const bool for_us, peer.link->take(message, now()));
  if (!for_us) return {};
  const bool asks = message.index() < TransferMessage(PartMessage{}).index();
  if (asks != peer.address.empty())
    return fail(Code::invalid_argument, peer.link->peer(), " sent a message of the wrong side");
  if (auto* compute = std::get_if<ComputeMessage>(&message)) return take_compute(channel, *compute, lock);
  if (const auto* part = std::get_if<PartMessage>(&message)) return take_part(peer, *part, lock);
  Status status;
  if (const auto* send = std::get_if<SendMessage>(&message)) status = provider_.on_send(*peer.link, *send);
  if (const auto* cancel = std::get_if<CancelMessage>(&message)) provider_.on_cancel(*peer.link, *cancel);
  if (const auto* features = std::get_if<FeaturesMessage>(&message))
    status = fetcher_.on_features(peer.address, *features, now());
  if (const auto* progress = std::get_if<ProgressMessage>(&message))
    fetcher_.on_progress(peer.address, *progress, now());
  if (const auto* done = std::get_if<DoneMessage>(&message)) fetcher_.on_done(peer.address, *done, now());
  wake();
  return status;
}

Status PeerExchange::take_compute(const std::shared_ptr<Channel>& channel, ComputeMessage& message,
                                  std::unique_lock<std::mutex>& lock) {
  if (message.tokens.empty()) return fail(Code::invalid_argument, channel->peer(), " asks for an empty prompt");
  lock.unlock();  // the keys of a long prompt take a while
  auto lease =
      scheduler_.plan_lease(message.tokens, {message.salt, message.adapter_digest, message.content, {}, nullptr});
  Result<PromptMedia> media =
      message.media.empty() ? PromptMedia{} : decode_media(message.media, static_cast<int>(message.tokens.size()));
  message.media.clear();
  lock.lock();
  if (!media.ok()) return media.error();
  const Peer* const peer = find(channel.get());
  if (!peer || stopping_) return {};
  WEFT_RETURN_IF_ERROR(provider_.begin(peer->link, std::move(message), std::move(*media), std::move(lease), now()));
  wake();
  return {};
}

Status PeerExchange::take_part(const Peer& peer, const PartMessage& message, std::unique_lock<std::mutex>& lock) {
  WEFT_TRY(const PrefixFetcher::Places to, fetcher_.begin_part(peer.address, message, now()));
  if (to.places.empty()) return {};
  lock.unlock();
  try {
    write_part(message, to);
  } catch (...) {  // the connection ends, and with it what was asked for
    lock.lock();
    fetcher_.fail_part(to);
    throw;
  }
  lock.lock();
  fetcher_.end_part(to);
  return {};
}

// Without the lock.
void PeerExchange::write_part(const PartMessage& message, const PrefixFetcher::Places& to) {
  std::vector<std::byte> converted;
  std::span<const std::byte> content = message.content;
  if (to.from) {
    const int tiles = static_cast<int>(message.layers * message.tiles);
    content = converted = memory_.convert(to.places.front().group, content, *to.from, tiles);
  }
  for (const PrefixFetcher::Place& place : to.places) {
    const size_t tile = memory_.block_tile_bytes(place.group);
    if (to.places.size() == 1) {
      memory_.write_block(place.home, place.group, place.block, place.part, content);
      continue;
    }
    // Of each layer the tiles that are this block's.
    for (int layer = 0; layer < place.part.layers; ++layer) {
      const BlockPart one{place.part.first_layer + layer, 1, place.part.first_tile, place.part.tiles};
      const size_t at = tile * (static_cast<size_t>(layer) * message.tiles + static_cast<size_t>(place.first_tile));
      memory_.write_block(place.home, place.group, place.block, one,
                          content.subspan(at, memory_.bytes(place.group, one)));
    }
  }
}

// ---- The exchange's thread

void PeerExchange::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (work(lock)) continue;
    const auto due = [&] { return stopping_ || std::exchange(woken_, false); };
    if (peers_.empty() && fetcher_.active() == 0) wake_.wait(lock, due);
    else
      wake_.wait_for(lock, std::chrono::duration<double>(provider_.waits_for_layers() ? kLookSeconds : kTickSeconds),
                     due);
  }
}

bool PeerExchange::work(std::unique_lock<std::mutex>& lock) {
  const bool ticked = tick();
  return plan_fetch(lock) || begin_prompt(lock) || cancel_abandoned(lock) || send_features(lock) || send_piece(lock) ||
         ticked;
}

bool PeerExchange::plan_fetch(std::unique_lock<std::mutex>& lock) {
  if (planned_.empty()) return false;
  Planned next = std::move(planned_.front());
  planned_.pop_front();
  std::unique_ptr<BlockTransfer> transfer;
  try {
    transfer = scheduler_.plan_import(next.id);
    if (transfer) {
      lock.unlock();
      scheduler_.cache(0).extend_keys(transfer->cache, transfer->tokens);
      lock.lock();
    }
  } catch (const std::bad_alloc&) {  // then nothing is fetched
    if (!lock.owns_lock()) lock.lock();
    transfer.reset();
  }
  if (planning_.erase(static_cast<uint64_t>(next.id)) == 0) return true;  // forgotten meanwhile
  if (transfer && !stopping_) fetcher_.begin(next.id, std::move(transfer), std::move(next.prompt), now());
  else fetcher_.decline(next.id);
  return true;
}

bool PeerExchange::begin_prompt(std::unique_lock<std::mutex>& lock) {
  std::optional<PrefixProvider::Job> job = provider_.next_job();
  if (!job) return false;
  const uint64_t lease = job->lease;
  lock.unlock();
  std::optional<SequenceId> sequence;
  std::string why;
  try {
    const Result<SequenceId> made =
        engine_.compute(std::move(job->prompt), std::move(job->media), [this, lease](const std::string& why) {
          const std::lock_guard guard(mutex_);
          provider_.computed(lease, why);
          wake();
        });
    if (made.ok()) sequence = *made;
    else why = made.error().message();
  } catch (const std::bad_alloc&) {
    why = "out of memory";
  }
  lock.lock();
  provider_.started(lease, sequence, why);
  return true;
}

bool PeerExchange::cancel_abandoned(std::unique_lock<std::mutex>& lock) {
  const std::optional<SequenceId> abandoned = provider_.take_abandoned();
  if (!abandoned) return false;
  lock.unlock();
  engine_.cancel(*abandoned);
  lock.lock();
  return true;
}

bool PeerExchange::send_features(std::unique_lock<std::mutex>& lock) {
  const std::optional<PrefixProvider::FeatureRows> rows = provider_.next_features();
  if (!rows) return false;
  const bool sent = send_unlocked(*rows->link, lock, [&] { return encode(rows->message); });
  if (!sent) provider_.failed(*rows);
  return true;
}

bool PeerExchange::send_piece(std::unique_lock<std::mutex>& lock) {
  const std::optional<PrefixProvider::Piece> piece = provider_.next_piece();
  if (!piece) return false;
  const bool sent = send_unlocked(*piece->link, lock, [&] {
    return encode_part(piece->head, memory_.bytes(piece->group, piece->part), [&](std::span<std::byte> content) {
      memory_.read_block(piece->home, piece->group, piece->block, piece->part, content);
    });
  });
  if (sent) provider_.sent(*piece);
  else provider_.failed(*piece);
  return true;
}

// Encodes and sends without the lock. False: there was no memory for it.
template <class Encode>
bool PeerExchange::send_unlocked(PeerLink& link, std::unique_lock<std::mutex>& lock, Encode encoded) noexcept {
  lock.unlock();
  bool sent = false;
  try {
    link.channel().send(encoded());
    sent = true;
  } catch (const std::bad_alloc&) {
  }
  lock.lock();
  return sent;
}

bool PeerExchange::tick() {
  const double time = now();
  if (time - ticked_ < kTickSeconds) return false;
  ticked_ = time;
  std::vector<std::pair<const Channel*, std::string>> silent;
  for (auto& [channel, peer] : peers_)
    if (const Status status = peer.link->tick(time); !status.ok())
      silent.emplace_back(channel, status.error().message());
  for (const auto& [channel, why] : silent) lose(channel, why);
  fetcher_.tick(time);
  provider_.tick(time);
  return false;
}

}  // namespace weft
