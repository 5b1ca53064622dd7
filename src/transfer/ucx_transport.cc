#include "transfer/ucx_transport.h"

#include <dlfcn.h>

#include <cstdlib>
#include <exception>
#include <filesystem>
#include <utility>

#include "base/files.h"
#include "base/socket_address.h"
#include "transfer/ucx_loop.h"

namespace weft {

namespace {

// What UCX takes from the environment alone, when it is loaded; what is set there already stays.
void set_environment() {
  const auto set = [](const char* name, const char* value) { ::setenv(name, value, 0); };
  set("UCX_HANDLE_ERRORS", "none");  // signals of faults are the program's own business
  set("UCX_LOG_FILE", "stderr");
  set("UCX_TCP_CM_REUSEADDR", "y");  // a server that was started again takes its port again
  // UCX 1.13 ends the process (an assertion in tcp_ep.c) when a connection is closed while it writes into a peer's
  // memory over TCP; without this long messages go as active messages there.
  set("UCX_TCP_PUT_ENABLE", "n");
}

Result<const weft_ucx_table*> load_library() {
  const std::string path = plugin_path("WEFT_UCX_PLUGIN", "libweft_ucx.so");
  std::error_code error;
  if (!std::filesystem::exists(path, error))
    return fail(Code::unsupported, "weft was built without UCX (there is no ", path,
                "). Install UCX (libucx-dev on Debian and Ubuntu) and build again with -DWEFT_UCX=ON");
  set_environment();
  void* const handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (!handle) return fail(Code::unsupported, "UCX cannot be loaded: ", ::dlerror());
  using Entry = const weft_ucx_table* (*)();
  const auto entry = reinterpret_cast<Entry>(::dlsym(handle, "weft_ucx"));
  const weft_ucx_table* const table = entry ? entry() : nullptr;
  if (!table || table->abi != WEFT_UCX_ABI)
    return fail(Code::unsupported, path, " belongs to another version of weft; build it again with this one");
  return table;
}

class UcxTransport : public Transport {
 public:
  explicit UcxTransport(std::shared_ptr<UcxLoop> loop) : loop_(std::move(loop)) {}
  ~UcxTransport() override { loop_->stop(); }

  Result<std::string> listen(const std::string& address) override {
    if (listens_) return fail(Code::invalid_argument, "cannot listen at ", address, ": this transport listens already");
    WEFT_TRY(const HostPort place, parse_host_port(address));
    WEFT_TRY(const auto addresses, resolve(place));
    WEFT_TRY(std::string in_force, loop_->listen(addresses.front(), address));
    listens_ = true;
    return in_force;
  }

  std::shared_ptr<Channel> dial(const std::string& address) override;

 private:
  const std::shared_ptr<UcxLoop> loop_;
  bool listens_ = false;
};

std::shared_ptr<Channel> UcxTransport::dial(const std::string& address) {
  auto channel = std::make_shared<UcxChannel>(loop_, address, true);
  if (!loop_->post([channel, loop = loop_.get()] { loop->add(channel, kDialSeconds); })) {
    channel->end_silently();
    return channel;
  }
  const auto place = parse_host_port(address);
  if (!place.ok()) {
    loop_->post([channel, error = place.error()] { channel->end(error); });
    return channel;
  }
  // A name may be found when channel and transport have gone.
  resolve_later(*place, [held = std::weak_ptr(channel), from = std::weak_ptr(loop_)](auto addresses) {
    const auto loop = from.lock();
    if (!loop) return;
    loop->post([held, addresses = std::move(addresses)] {
      const auto channel = held.lock();
      if (!channel) return;
      if (addresses.ok()) return channel->start_dial(*addresses);
      channel->end(fail(Code::unavailable, "cannot connect to ", channel->peer(), ": ", addresses.error().message()));
    });
  });
  return channel;
}

}  // namespace

Result<std::unique_ptr<Transport>> load_ucx_transport(ChannelHandler& handler) {
  WEFT_TRY(const weft_ucx_table* const ucx, load_library());
  auto loop = std::make_shared<UcxLoop>(ucx, handler);
  try {
    WEFT_RETURN_IF_ERROR(loop->start());
  } catch (const std::exception& error) {  // no thread
    return fail(Code::resource_exhausted, "cannot start a UCX transport: ", error.what());
  }
  return std::unique_ptr<Transport>(std::make_unique<UcxTransport>(std::move(loop)));
}

}  // namespace weft
