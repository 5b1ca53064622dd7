// Channels over TCP. A message is a frame: its length, 4 bytes, the lowest first, then its bytes. Nothing on the wire
// is encrypted or signed; who may speak is for the messages to say (message.h).
//
// One thread has all connections. A peer that is cut off without a word is noticed after about 20 s of silence, one
// that takes nothing of what is sent to it after 30 s.
#pragma once

#include <memory>

#include "base/result.h"
#include "transfer/channel.h"

namespace weft {

Result<std::unique_ptr<Transport>> make_tcp_transport(ChannelHandler& handler);

}  // namespace weft
