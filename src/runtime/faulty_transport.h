// For the simulation: a transport whose user has no memory now and then. The transport itself always has some.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/count_allocations.h"
#include "transfer/channel.h"

namespace weft {

// A channel that may find no memory to send.
class FaultyChannel final : public Channel {
 public:
  explicit FaultyChannel(std::shared_ptr<Channel> channel) : channel_(std::move(channel)) {}
  void send(std::vector<std::byte> message) override {
    const std::vector<std::byte> copy = message;
    const SteadyAllocations steady;
    channel_->send(std::move(message));
  }
  size_t queued_bytes() const override { return channel_->queued_bytes(); }
  void allow(size_t message_bytes) override { channel_->allow(message_bytes); }
  void close() noexcept override {
    const SteadyAllocations steady;
    channel_->close();
  }
  const std::string& peer() const override { return channel_->peer(); }

 private:
  const std::shared_ptr<Channel> channel_;
};

class FaultyTransport final : public Transport, public ChannelHandler {
 public:
  using Join = std::function<std::unique_ptr<Transport>(ChannelHandler&)>;
  // fails(): of each event, which allocations fail in it.
  FaultyTransport(ChannelHandler& handler, const Join& join, std::function<FailingAllocations::From()> fails)
      : handler_(handler), fails_(std::move(fails)), inner_(join(*this)) {}

  Result<std::string> listen(const std::string& address) override { return inner_->listen(address); }
  std::shared_ptr<Channel> dial(const std::string& address) override {
    const std::string copy = address + " as a text that needs memory";
    const SteadyAllocations steady;
    return wrap(inner_->dial(address));
  }

  void on_accepted(const std::shared_ptr<Channel>& channel) override {
    const auto wrapped = wrap(channel);
    const FailingAllocations failing(fails_());
    handler_.on_accepted(wrapped);
  }
  void on_message(const std::shared_ptr<Channel>& channel, std::span<const std::byte> message) override {
    const auto wrapped = channels_.at(channel.get());
    const FailingAllocations failing(fails_());
    handler_.on_message(wrapped, message);
  }
  void on_drained(const std::shared_ptr<Channel>& channel) override {
    const auto wrapped = channels_.at(channel.get());
    const FailingAllocations failing(fails_());
    handler_.on_drained(wrapped);
  }
  void on_closed(const std::shared_ptr<Channel>& channel, const Error& why) override {
    const auto wrapped = channels_.extract(channel.get());
    const FailingAllocations failing(fails_());
    handler_.on_closed(wrapped.mapped(), why);
  }

 private:
  std::shared_ptr<Channel> wrap(const std::shared_ptr<Channel>& channel) {
    return channels_[channel.get()] = std::make_shared<FaultyChannel>(channel);
  }

  ChannelHandler& handler_;
  const std::function<FailingAllocations::From()> fails_;
  std::map<const Channel*, std::shared_ptr<Channel>> channels_;
  const std::unique_ptr<Transport> inner_;  // the first to go
};

}  // namespace weft
