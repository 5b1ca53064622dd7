#include <cstring>
#include <new>
#include <utility>

#include "base/check.h"
#include "transfer/ucx_loop.h"

namespace weft {

namespace {

constexpr size_t kShort = kFirstMessageBytes;       // messages up to here come with their bytes
constexpr size_t kFetchedAtOnce = size_t{4} << 20;  // bytes of messages, and one
constexpr std::string_view kGreeting = "weft ucx 1";

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

}  // namespace

struct UcxChannel::Sending {
  std::shared_ptr<UcxChannel> channel;
  uint64_t number;
  std::vector<std::byte> message;
};

struct UcxChannel::Fetching {
  std::shared_ptr<UcxChannel> channel;
  uint64_t number;
  size_t bytes, room;
  std::unique_ptr<std::byte[]> memory;
};

void UcxChannel::send(std::vector<std::byte> message) {
  WEFT_CHECK(message.size() <= kMaxMessageBytes) << message.size();
  const std::lock_guard lock(mutex_);
  if (ended_ || closing_) return;
  queued_ += message.size();
  over_ = over_ || queued_ > kDrainedBytes;
  queue_.push_back(std::move(message));
  if (std::exchange(flushing_, true)) return;
  loop_->post([self = shared_from_this()] { self->flush(); });
}

void UcxChannel::allow(size_t message_bytes) {
  allowed_ = message_bytes;
  if (message_bytes > kFirstMessageBytes && stranger_.exchange(false)) --loop_->strangers;
}

void UcxChannel::close() noexcept {
  const std::lock_guard lock(mutex_);
  if (ended_ || closing_.exchange(true)) return;
  try {
    loop_->post([self = shared_from_this()] { self->end(Error(Code::cancelled, "closed here")); });
  } catch (const std::bad_alloc&) {
    loop_->end_closing_later();
  }
}

void UcxChannel::start_dial(std::vector<SocketAddress> addresses) {
  if (ended_) return;
  addresses_.assign(addresses.rbegin(), addresses.rend());
  dial_next();
}

void UcxChannel::dial_next() {
  const SocketAddress address = addresses_.back();
  addresses_.pop_back();
  const auto worker = loop_->worker_for(address);
  if (!worker.ok()) return end(worker.error());
  worker_ = *worker;
  if (const int error = loop_->ucx->connect(worker_, address.data(), address.size, this, &end_)) failed(error);
}

void UcxChannel::start_accepted(weft_ucx_worker* worker, weft_ucx_end* end) {
  worker_ = worker;
  end_ = end;
  stranger_ = true;
  ++loop_->strangers;
  {
    const std::lock_guard lock(mutex_);
    const auto greeting = bytes_of(kGreeting);
    queue_.emplace_front(greeting.begin(), greeting.end());
    queued_ += greeting.size();
    flushing_ = true;
  }
  loop_->post([self = shared_from_this()] { self->flush(); });
  loop_->handler.on_accepted(self());
}

void UcxChannel::pass_deadline() {
  if (ended_ || heard_) return;
  if (!dialled_)
    return end(weft::fail(Code::deadline_exceeded, peer_, " sent no message within ", kFirstMessageSeconds,
                          " seconds of connecting"));
  end(weft::fail(Code::unavailable, "cannot connect to ", peer_, ": no answer within ", kDialSeconds, " seconds"));
}

void UcxChannel::end_silently() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    queue_.clear();
    queued_ = 0;
  }
  for (auto& [number, message] : incoming_)
    if (message.state == Incoming::offered) loop_->ucx->refuse(worker_, message.offer);
  incoming_.clear();
  if (end_) loop_->disconnect_later(shared_from_this(), worker_, std::exchange(end_, nullptr));
}

void UcxChannel::end(const Error& why) {
  if (ended_) return;
  end_silently();
  if (stranger_.exchange(false)) --loop_->strangers;
  const auto kept = shared_from_this();
  loop_->remove(kept);
  loop_->handler.on_closed(kept, why);
}

void UcxChannel::failed(int error) {
  if (ended_) return;
  const bool connecting = dialled_ && !heard_;
  if (connecting && !addresses_.empty()) {
    if (end_) loop_->disconnect_later(shared_from_this(), worker_, std::exchange(end_, nullptr));
    return dial_next();
  }
  end(weft::fail(Code::unavailable, connecting ? "cannot connect to " : "lost ", peer_, ": ", loop_->describe(error)));
}

// Gives UCX what is queued, as far as the window goes.
void UcxChannel::flush() {
  {
    const std::lock_guard lock(mutex_);
    flushing_ = false;
  }
  if (std::exchange(in_flush_, true)) return;
  while (end_ && (!dialled_ || heard_) && under_way_.size() < kWindow) {
    auto sending = std::make_unique<Sending>();
    {
      const std::lock_guard lock(mutex_);
      if (queue_.empty()) break;
      sending->message = std::move(queue_.front());
      queue_.pop_front();
    }
    sending->channel = shared_from_this();
    sending->number = first_ + under_way_.size();
    under_way_.push_back(true);
    Sending& begun = *sending.release();  // sent() takes it back
    loop_->ucx->send(worker_, end_, begun.number, begun.message.data(), begun.message.size(),
                     begun.message.size() > kShort, &begun);
  }
  in_flush_ = false;
}

void UcxChannel::sent(void* context, int error) {
  const std::unique_ptr<Sending> sending(static_cast<Sending*>(context));
  sending->channel->finish_sending(*sending, error);
}

void UcxChannel::finish_sending(const Sending& sending, int error) {
  if (ended_) return;
  if (error) return failed(error);
  bool drained = false;
  {
    const std::lock_guard lock(mutex_);
    queued_ -= sending.message.size();
    drained = over_ && queued_ <= kDrainedBytes;
    if (drained) over_ = false;
  }
  under_way_[static_cast<size_t>(sending.number - first_)] = false;
  for (; !under_way_.empty() && !under_way_.front(); ++first_) under_way_.pop_front();
  flush();  // does nothing if the message was over within the call that sent it
  if (drained && !closing_ && !ended_) loop_->handler.on_drained(self());
}

void UcxChannel::arrived(uint64_t number, std::span<const std::byte> message) {
  if (ended_ || closing_) return;
  if (number == next_ && !advancing_) {  // where it lies
    if (message.size() > allowed_) return too_long(message.size());
    ++next_;
    if (deliver(message)) advance();
    return;
  }
  Incoming kept{Incoming::here, message.size()};
  if (message.size() > kShort) return too_long(message.size());
  kept.memory = std::make_unique_for_overwrite<std::byte[]>(message.size());
  std::memcpy(kept.memory.get(), message.data(), message.size());
  keep(number, std::move(kept));
}

void UcxChannel::offered(uint64_t number, size_t bytes, weft_ucx_offer* offer) {
  Incoming message{Incoming::offered, bytes, offer};
  if (ended_ || closing_ || !keep(number, std::move(message))) loop_->ucx->refuse(worker_, offer);
  else advance();
}

// Until it is its turn. False: nobody who keeps to the window sends such a number.
bool UcxChannel::keep(uint64_t number, Incoming message) {
  if (number >= next_ && number - next_ < 2 * kWindow && incoming_.emplace(number, std::move(message)).second)
    return true;
  end(weft::fail(Code::invalid_argument, peer_, " sent message ", number, " where ", next_, " was due"));
  return false;
}

void UcxChannel::too_long(size_t bytes) {
  end(weft::fail(Code::invalid_argument, peer_, " sent a message of ", bytes, " bytes where ", allowed_.load(),
                 " are allowed"));
}

// Delivers what has come and is due, and fetches what follows.
void UcxChannel::advance() {
  if (std::exchange(advancing_, true)) return;  // it goes on where it was called from
  while (!ended_ && !closing_) {
    fetch_ahead();
    if (ended_) break;
    const auto due = incoming_.find(next_);
    if (due == incoming_.end() || due->second.state != Incoming::here) break;
    Incoming message = std::move(due->second);
    incoming_.erase(due);
    if (message.bytes > allowed_) {
      too_long(message.bytes);
      break;
    }
    ++next_;
    deliver({message.memory.get(), message.bytes});
    if (message.room > 0) loop_->give_buffer(std::move(message.memory), message.room);
  }
  advancing_ = false;
}

// In order; one whose length is not allowed may become so with those before it.
void UcxChannel::fetch_ahead() {
  uint64_t number = next_;
  for (auto at = incoming_.find(number); at != incoming_.end(); at = incoming_.find(++number)) {
    Incoming& message = at->second;
    if (message.state != Incoming::offered) continue;
    if (message.bytes > allowed_) {
      if (number == next_) too_long(message.bytes);
      return;
    }
    if (fetching_ > 0 && fetching_ + message.bytes > kFetchedAtOnce) return;
    if (!fetch(number, message)) return;
  }
}

// False: the channel has ended.
bool UcxChannel::fetch(uint64_t number, Incoming& message) {
  auto fetching = std::make_unique<Fetching>();
  fetching->memory = loop_->take_buffer(message.bytes, &fetching->room);
  if (!fetching->memory) {
    end(weft::fail(Code::resource_exhausted, "no memory for a message of ", message.bytes, " bytes from ", peer_));
    return false;
  }
  fetching->channel = shared_from_this();
  fetching->number = number;
  fetching->bytes = message.bytes;
  fetching_ += message.bytes;
  message.state = Incoming::fetching;
  Fetching& begun = *fetching.release();  // fetched() takes it back
  loop_->ucx->fetch(worker_, message.offer, begun.memory.get(), begun.bytes, &begun);
  return !ended_;
}

void UcxChannel::fetched(void* context, int error) {
  const std::unique_ptr<Fetching> fetching(static_cast<Fetching*>(context));
  UcxChannel& channel = *fetching->channel;
  channel.fetching_ -= fetching->bytes;
  if (channel.ended_) return;
  if (error) return channel.failed(error);
  Incoming& message = channel.incoming_.at(fetching->number);
  message.state = Incoming::here;
  message.memory = std::move(fetching->memory);
  message.room = fetching->room;
  channel.advance();
}

// False: nothing more is to be delivered.
bool UcxChannel::deliver(std::span<const std::byte> message) {
  if (dialled_ && !heard_) return hear_greeting(message);
  heard_ = true;
  loop_->handler.on_message(self(), message);
  return !closing_ && !ended_;
}

bool UcxChannel::hear_greeting(std::span<const std::byte> message) {
  const auto greeting = bytes_of(kGreeting);
  if (message.size() != greeting.size() || std::memcmp(message.data(), greeting.data(), greeting.size()) != 0) {
    end(weft::fail(Code::unavailable, "cannot connect to ", peer_, ": it is not a weft of this version"));
    return false;
  }
  heard_ = true;
  flush();
  return true;
}

}  // namespace weft
