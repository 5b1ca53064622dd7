// Channels over UCX: RDMA where there is, shared memory, TCP. UCX is reached through libweft_ucx.so (ucx/weft_ucx.h),
// which is loaded from the program's folder when it is asked for; weft itself does not link it.
//
// UCX's own wire protocol has no authentication: who reaches the port of a process can make UCX there take memory, or
// read and write memory that is registered for transfers. Messages are checked as over TCP, what lies below them is
// not. So it belongs into closed networks.
#pragma once

#include <memory>

#include "base/result.h"
#include "transfer/channel.h"

namespace weft {

// Errors: the plugin is absent or belongs to another version of weft, or UCX finds no device.
Result<std::unique_ptr<Transport>> load_ucx_transport(ChannelHandler& handler);

}  // namespace weft
