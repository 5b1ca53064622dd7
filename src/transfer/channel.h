// How two weft processes exchange messages about blocks of the KV cache: whole messages, in order, until the connection
// ends. What the messages say is message.h's; a transport only carries them (tcp_transport.h, ucx_transport.h, and
// local_transport.h within a process for tests).
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace weft {

// One connection. It may be kept after its end and after its transport, and does nothing then.
class Channel {
 public:
  virtual ~Channel() = default;
  // The functions: any thread, also within an event.

  // Queues the message; it goes out behind those before. Never blocks. After the end it does nothing. A message has at
  // most kMaxMessageBytes. std::bad_alloc: it was not queued.
  virtual void send(std::vector<std::byte> message) = 0;
  // Bytes of messages that were queued and have not been handed on yet - to the operating system, the network or, where
  // a transport knows, the receiver: what a sender limits itself by.
  virtual size_t queued_bytes() const = 0;
  // Messages that come in may have so many bytes from now on; a longer one ends the connection before its memory is
  // taken. It begins with kFirstMessageBytes, for peers that have not said who they are; called within the event of a
  // message, it holds for the next one already.
  virtual void allow(size_t message_bytes) = 0;
  // Ends the connection; what is queued may be lost. At most one event is still on its way, then on_closed() comes.
  // Needs no memory.
  virtual void close() noexcept = 0;
  // The other side, for messages: "10.0.0.7:41234". Where this side has dialled, the address it was given.
  virtual const std::string& peer() const = 0;
};

constexpr size_t kFirstMessageBytes = 16 << 10;
constexpr size_t kMaxMessageBytes = size_t{1} << 31;

// The events of all channels of a transport. Called on its threads, for one channel by one at a time; they must return
// quickly: a channel whose events take long receives no further messages meanwhile, nor do the others of its thread.
// None may throw. Where a transport has no memory for a connection it ends with an error.
class ChannelHandler {
 public:
  virtual ~ChannelHandler() = default;
  // A peer has connected to the address that the transport listens at.
  virtual void on_accepted(const std::shared_ptr<Channel>& channel) = 0;
  // The bytes stay until it returns.
  virtual void on_message(const std::shared_ptr<Channel>& channel, std::span<const std::byte> message) = 0;
  // queued_bytes() has fallen to kDrainedBytes or less, after it was more.
  virtual void on_drained(const std::shared_ptr<Channel>& channel) = 0;
  // The last event of a channel, once: the peer cannot be reached, has gone or has closed, a message was too long,
  // close() was called here, or the transport has ended.
  virtual void on_closed(const std::shared_ptr<Channel>& channel, const Error& why) = 0;
};

constexpr size_t kDrainedBytes = 4 << 20;

// Addresses are "HOST:PORT"; an IPv6 host stands in brackets. The handler outlives its transport.
class Transport {
 public:
  // Closes everything: on_closed() comes for every channel that is still open, and no event once it has returned. What
  // is dialled within one of those ends without an event. Not to be called within an event.
  virtual ~Transport() = default;
  // Takes the address; port 0: a free one. Returns the address in force. At most once.
  //
  // Who connects has kFirstMessageSeconds for its first message. Connections that were accepted and have not been
  // allowed more than kFirstMessageBytes are counted, and with kMaxStrangers of them a further one is closed at once.
  virtual Result<std::string> listen(const std::string& address) = 0;
  // Begins to connect. Messages may be sent at once, and go out when there is a connection; on_closed() comes if there
  // will be none, after kDialSeconds at the latest. Never blocks; any thread, also within an event.
  virtual std::shared_ptr<Channel> dial(const std::string& address) = 0;
};

constexpr int kDialSeconds = 5;
constexpr int kFirstMessageSeconds = 5;
constexpr int kMaxStrangers = 256;

}  // namespace weft
