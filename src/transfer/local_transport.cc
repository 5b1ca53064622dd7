#include "transfer/local_transport.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "base/check.h"

namespace weft {

struct LocalNetwork::Event {
  enum Kind : unsigned char { accepted, message, drained, closed };
  Kind kind;
  std::vector<std::byte> bytes;
  size_t queued = 0;  // what it takes off its sender's queue
  uint64_t due = 0;   // the step before which it does not come
  bool waits = true;  // for those before it, and those behind it for it
  Error why{Code::cancelled, ""};
};

// One end of a connection. Its members are under the network's mutex.
class LocalChannel : public Channel, public std::enable_shared_from_this<LocalChannel> {
 public:
  LocalChannel(LocalNetwork& network, LocalTransport& transport, std::string peer)
      : network_(&network), transport_(&transport), peer_(std::move(peer)) {}

  void send(std::vector<std::byte> message) override {
    if (!over_) network_->send(*this, std::move(message));
  }
  size_t queued_bytes() const override { return queued_; }
  void allow(size_t message_bytes) override { allowed_ = message_bytes; }
  void close() noexcept override {
    if (!over_) network_->close(*this);
  }
  const std::string& peer() const override { return peer_; }

 private:
  friend LocalNetwork;

  LocalNetwork* const network_;
  LocalTransport* const transport_;
  const std::string peer_;
  std::shared_ptr<LocalChannel> other_;  // until one of them has ended
  std::deque<LocalNetwork::Event> events_;
  std::atomic<size_t> queued_{0}, allowed_{kFirstMessageBytes};
  std::atomic<bool> over_{false};  // its last event has come: the network may be gone
  bool announced_ = true;          // dialled, or on_accepted() has come
  bool ending_ = false;            // its last event is among events_, or has come
  bool above_ = false;             // queued_ has been above kDrainedBytes
};

class LocalTransport : public Transport {
 public:
  LocalTransport(LocalNetwork& network, std::string name, ChannelHandler& handler)
      : network_(network), name_(std::move(name)), handler_(handler) {}
  ~LocalTransport() override { network_.leave(*this); }

  Result<std::string> listen(const std::string& address) override {
    const std::lock_guard lock(network_.mutex_);
    if (listens_) return fail(Code::invalid_argument, "cannot listen at ", address, ": this transport listens already");
    if (!network_.listeners_.emplace(address, this).second)
      return fail(Code::resource_exhausted, "cannot listen at ", address, ": Address already in use");
    listens_ = true;
    return address;
  }
  std::shared_ptr<Channel> dial(const std::string& address) override { return network_.dial(*this, address); }

 private:
  friend LocalNetwork;

  LocalNetwork& network_;
  const std::string name_;
  ChannelHandler& handler_;
  bool listens_ = false, leaving_ = false;
};

LocalNetwork::LocalNetwork(Mode mode) {
  if (mode == Mode::threads) thread_ = std::thread([this] { serve(); });
}

LocalNetwork::~LocalNetwork() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
  WEFT_CHECK(channels_.empty()) << "a transport is still there";
}

std::unique_ptr<Transport> LocalNetwork::join(const std::string& name, ChannelHandler& handler) {
  return std::make_unique<LocalTransport>(*this, name, handler);
}

void LocalNetwork::set_hook(Hook hook) {
  const std::lock_guard lock(mutex_);
  hook_ = std::move(hook);
}

LocalNetwork::Held LocalNetwork::connect(LocalTransport& from, const std::string& peer) {
  auto channel = std::make_shared<LocalChannel>(*this, from, peer);
  channels_.push_back(channel);
  return channel;
}

std::shared_ptr<Channel> LocalNetwork::dial(LocalTransport& from, const std::string& address) {
  const std::lock_guard lock(mutex_);
  const Held here = connect(from, address);
  if (from.leaving_) {
    channels_.pop_back();
    here->over_ = here->ending_ = true;
  } else if (const auto found = listeners_.find(address); found == listeners_.end()) {
    end(*here, fail(Code::unavailable, "cannot connect to ", address, ": nobody listens there"), true);
  } else {
    const Held there = connect(*found->second, from.name_);
    here->other_ = there;
    there->other_ = here;
    there->announced_ = false;
    there->events_.push_back({.kind = Event::accepted});
  }
  changed_.notify_all();
  return here;
}

void LocalNetwork::send(LocalChannel& from, std::vector<std::byte> message) {
  WEFT_CHECK(message.size() <= kMaxMessageBytes) << message.size();
  const std::lock_guard lock(mutex_);
  if (from.ending_ || !from.other_) return;
  LocalChannel& to = *from.other_;
  const LocalFault fault = hook_ ? hook_(from.transport_->name_, to.transport_->name_, message) : LocalFault{};
  if (fault.kind == LocalFault::drop) return;
  if (fault.kind == LocalFault::cut) {
    end(to, fail(Code::unavailable, "lost ", to.peer_, ": the connection was cut"), true);
    end(from, fail(Code::unavailable, "lost ", from.peer_, ": the connection was cut"), true);
  } else {
    from.queued_ += message.size();
    from.above_ = from.above_ || from.queued_ > kDrainedBytes;
    Event event{.kind = Event::message, .queued = message.size()};
    event.bytes = std::move(message);
    if (fault.kind == LocalFault::delay || fault.kind == LocalFault::overtake)
      event.due = now_ + static_cast<uint64_t>(std::max(fault.steps, 0));
    event.waits = fault.kind != LocalFault::overtake;
    if (fault.kind == LocalFault::duplicate) to.events_.push_back({.kind = Event::message, .bytes = event.bytes});
    to.events_.push_back(std::move(event));
  }
  changed_.notify_all();
}

void LocalNetwork::close(LocalChannel& channel) {
  const std::lock_guard lock(mutex_);
  if (channel.ending_) return;
  if (const Held other = channel.other_)
    end(*other, fail(Code::unavailable, "lost ", other->peer_, ": it has closed the connection"), false);
  end(channel, fail(Code::cancelled, "closed here"), true);
  changed_.notify_all();
}

void LocalNetwork::cut(const std::string& one, const std::string& other) {
  const std::lock_guard lock(mutex_);
  for (const Held& channel : std::vector(channels_)) {
    if (channel->ending_ || !channel->other_) continue;
    const std::string& here = channel->transport_->name_;
    const std::string& there = channel->other_->transport_->name_;
    if (!(here == one && there == other) && !(here == other && there == one)) continue;
    const Held peer = channel->other_;
    end(*peer, fail(Code::unavailable, "lost ", peer->peer_, ": the connection was cut"), true);
    end(*channel, fail(Code::unavailable, "lost ", channel->peer_, ": the connection was cut"), true);
  }
  changed_.notify_all();
}

// Lets on_closed() come: at once, or behind what is under way.
void LocalNetwork::end(LocalChannel& channel, const Error& why, bool at_once) {
  if (at_once)
    std::erase_if(channel.events_,
                  [](const Event& event) { return event.kind == Event::message || event.kind == Event::drained; });
  if (channel.ending_) return;
  channel.ending_ = true;
  channel.queued_ = 0;
  channel.events_.push_back({.kind = Event::closed, .why = why});
  if (channel.other_) channel.other_->other_.reset();
  channel.other_.reset();
}

// The ends that have an event which could come now.
std::vector<LocalNetwork::Held> LocalNetwork::ready() const {
  std::vector<Held> found;
  for (const Held& channel : channels_) {
    const auto& events = channel->events_;
    const auto first = std::find_if(events.begin(), events.end(),
                                    [&](const Event& event) { return event.waits || event.due <= now_; });
    if (first != events.end() && first->due <= now_) found.push_back(channel);
  }
  return found;
}

size_t LocalNetwork::choices() const {
  const std::lock_guard lock(mutex_);
  return ready().size();
}

bool LocalNetwork::step(uint64_t choice) {
  std::unique_lock lock(mutex_);
  WEFT_CHECK(!thread_.joinable() && !delivering_) << "step() is not for this mode or place";
  const auto found = ready();
  ++now_;
  if (!found.empty()) return deliver(found[choice % found.size()], lock);
  return std::any_of(channels_.begin(), channels_.end(), [](const Held& one) { return !one->events_.empty(); });
}

bool LocalNetwork::deliver(const Held& channel, std::unique_lock<std::mutex>& lock) {
  auto& events = channel->events_;
  const uint64_t now = now_ == 0 ? 0 : now_ - 1;  // step() has counted this one already
  const auto next =
      std::find_if(events.begin(), events.end(), [&](const Event& event) { return event.waits || event.due <= now; });
  const bool late = next->kind == Event::closed && next != events.begin();
  Event event = std::move(*next);
  events.erase(next);
  if (late) events.clear();  // messages that were overtaken by the end
  if (event.kind == Event::message && event.bytes.size() > channel->allowed_) {
    event.why = fail(Code::invalid_argument, channel->peer_, " sent a message of ", event.bytes.size(), " bytes where ",
                     channel->allowed_.load(), " are allowed");
    event.kind = Event::closed;
    if (const Held other = channel->other_)
      end(*other, fail(Code::unavailable, "lost ", other->peer_, ": it has closed the connection"), false);
    end(*channel, event.why, true);
    events.clear();
  }
  if (event.kind == Event::accepted) channel->announced_ = true;
  if (event.kind == Event::message) received(channel, event);
  if (event.kind == Event::closed) {
    channel->over_ = true;
    std::erase(channels_, channel);
  }
  LocalTransport* const transport = channel->transport_;
  ChannelHandler& handler = transport->handler_;
  delivering_ = transport;
  lock.unlock();
  switch (event.kind) {
    case Event::accepted: handler.on_accepted(channel); break;
    case Event::message: handler.on_message(channel, event.bytes); break;
    case Event::drained: handler.on_drained(channel); break;
    case Event::closed: handler.on_closed(channel, event.why); break;
  }
  lock.lock();
  delivering_ = nullptr;
  changed_.notify_all();
  return true;
}

// The message leaves its sender's queue.
void LocalNetwork::received(const Held& channel, const Event& event) {
  const Held sender = channel->other_;
  if (!sender) return;
  sender->queued_ -= event.queued;
  if (!sender->above_ || sender->queued_ > kDrainedBytes) return;
  sender->above_ = false;
  sender->events_.push_back({.kind = Event::drained, .waits = false});
}

void LocalNetwork::leave(LocalTransport& transport) {
  std::unique_lock lock(mutex_);
  transport.leaving_ = true;
  std::erase_if(listeners_, [&](const auto& listener) { return listener.second == &transport; });
  changed_.wait(lock, [&] { return delivering_ != &transport; });
  std::vector<Held> ended;
  for (const Held& channel : channels_)
    if (channel->transport_ == &transport) ended.push_back(channel);
  const Error why = fail(Code::cancelled, "the transport has ended here");
  for (const Held& channel : ended) {
    if (const Held other = channel->other_; other && !channel->ending_)
      end(*other, fail(Code::unavailable, "lost ", other->peer_, ": it has closed the connection"), false);
    end(*channel, why, true);
    channel->events_.clear();
    channel->over_ = true;
    std::erase(channels_, channel);
  }
  std::erase_if(ended, [](const Held& channel) { return !channel->announced_; });
  lock.unlock();
  for (const Held& channel : ended) transport.handler_.on_closed(channel, why);
  changed_.notify_all();
}

void LocalNetwork::serve() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const auto found = ready();
    const bool waits =
        std::any_of(channels_.begin(), channels_.end(), [](const Held& one) { return !one->events_.empty(); });
    if (found.empty() && !waits) {
      changed_.wait(lock);
      continue;
    }
    ++now_;
    if (!found.empty()) deliver(found[turn_++ % found.size()], lock);
  }
}

}  // namespace weft
