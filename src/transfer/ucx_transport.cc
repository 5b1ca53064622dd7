#include "transfer/ucx_transport.h"
namespace weft {
Result<std::unique_ptr<Transport>> load_ucx_transport(ChannelHandler&) { return fail(Code::unsupported, "todo"); }
}  // namespace weft
