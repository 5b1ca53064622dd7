#include "transfer/tcp_transport.h"

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <cstring>
#include <optional>
#include <thread>

#include "base/keep_going.h"
#include "base/socket_address.h"
#include "transfer/tcp_channel.h"

namespace weft {

namespace {

tcp::endpoint to_endpoint(const SocketAddress& address) {
  tcp::endpoint endpoint;
  endpoint.resize(address.size);
  std::memcpy(endpoint.data(), &address.storage, address.size);
  return endpoint;
}

SocketAddress from_endpoint(const tcp::endpoint& endpoint) {
  SocketAddress address;
  address.size = static_cast<socklen_t>(endpoint.size());
  std::memcpy(&address.storage, endpoint.data(), endpoint.size());
  return address;
}

class TcpTransport : public Transport {
 public:
  explicit TcpTransport(ChannelHandler& handler)
      : shared_(std::make_shared<TcpShared>(handler)), work_(shared_->io.get_executor()), acceptor_(shared_->io),
        pause_(shared_->io), thread_([this] { serve(); }) {}

  // Without its thread, and without memory, which there may be none of.
  ~TcpTransport() override {
    shared_->io.stop();
    thread_.join();
    shared_->ending = true;
    error_code ignored;
    acceptor_.close(ignored);
    pause_.cancel();
    while (!shared_->channels.empty()) {
      const std::shared_ptr<TcpChannel> channel = *shared_->channels.begin();
      channel->end(Error(Code::cancelled, "ended here"));
    }
    work_.reset();
    shared_->io.restart();
    serve();  // what is left of operations
  }

  Result<std::string> listen(const std::string& address) override;
  std::shared_ptr<Channel> dial(const std::string& address) override;

 private:
  void serve() noexcept;
  void accept();
  void pause();
  void take(tcp::socket socket);

  const std::shared_ptr<TcpShared> shared_;
  net::executor_work_guard<net::io_context::executor_type> work_;
  tcp::acceptor acceptor_;
  net::steady_timer pause_;
  bool listens_ = false;
  bool accepting_ = false;  // or pausing; the transport's thread only
  std::thread thread_;      // last: it uses the others
};

Result<std::string> TcpTransport::listen(const std::string& address) {
  if (listens_) return fail(Code::invalid_argument, "cannot listen at ", address, ": this transport listens already");
  WEFT_TRY(const HostPort place, parse_host_port(address));
  WEFT_TRY(const auto addresses, resolve(place));
  const tcp::endpoint endpoint = to_endpoint(addresses.front());
  error_code error;
  tcp::acceptor acceptor(shared_->io);
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(net::socket_base::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(1024, error);
  if (error) {
    const Code code = error == net::error::address_in_use ? Code::resource_exhausted : Code::invalid_argument;
    return fail(code, "cannot listen at ", address, ": ", error.message());
  }
  listens_ = true;
  const std::string in_force = from_endpoint(acceptor.local_endpoint(error)).text();
  net::post(shared_->io, [this, taken = std::move(acceptor)]() mutable {
    if (shared_->ending) return;  // whoever ends the transport waits for what is left, and an acceptor waits forever
    acceptor_ = std::move(taken);
    accept();
  });
  return in_force;
}

// The thread. Where memory ran out for the next accept, it is begun again.
void TcpTransport::serve() noexcept {
  keep_going("the TCP transport", [&] {
    if (acceptor_.is_open() && !accepting_) accept();
    shared_->io.run();
  });
}

void TcpTransport::accept() {
  acceptor_.async_accept([this](const error_code& error, tcp::socket socket) {
    accepting_ = false;
    if (!acceptor_.is_open()) return;
    if (error) return pause();  // out of descriptors, or the peer left already
    take(std::move(socket));
    accept();
  });
  accepting_ = true;
}

void TcpTransport::pause() {
  pause_.expires_after(std::chrono::milliseconds(20));
  pause_.async_wait([this](const error_code& cancelled) {
    accepting_ = false;
    if (!cancelled && acceptor_.is_open()) accept();
  });
  accepting_ = true;
}

void TcpTransport::take(tcp::socket socket) {
  error_code gone;
  const tcp::endpoint peer = socket.remote_endpoint(gone);
  if (gone || shared_->strangers >= kMaxStrangers) return;
  auto channel = std::make_shared<TcpChannel>(shared_, from_endpoint(peer).text());
  shared_->channels.insert(channel);
  channel->guarded([&] { channel->start_accepted(std::move(socket)); });
}

std::shared_ptr<Channel> TcpTransport::dial(const std::string& address) {
  auto channel = std::make_shared<TcpChannel>(shared_, address);
  net::post(shared_->io, [shared = shared_, channel, late = shared_->ending.load()] {
    if (late) return channel->end_silently();
    if (shared->ending) return channel->end(Error(Code::cancelled, "ended here"));
    channel->guarded([&] {
      shared->channels.insert(channel);
      channel->set_dial_deadline();
    });
  });
  const auto place = parse_host_port(address);
  if (!place.ok()) {
    net::post(shared_->io, [channel, error = place.error()] { channel->end(error); });
    return channel;
  }
  // A name may be found when channel and transport have gone.
  resolve_later(*place, [held = std::weak_ptr(channel), from = std::weak_ptr(shared_)](auto addresses) {
    const auto shared = from.lock();
    const auto channel = held.lock();
    if (!shared || !channel) return;
    net::post(shared->io, [held, addresses = std::move(addresses)] {
      const auto channel = held.lock();
      if (!channel) return;
      if (!addresses.ok()) {
        channel->guarded([&] {
          channel->end(
              fail(Code::unavailable, "cannot connect to ", channel->peer(), ": ", addresses.error().message()));
        });
        return;
      }
      channel->guarded([&] {
        std::vector<tcp::endpoint> endpoints;
        for (const SocketAddress& address : *addresses) endpoints.push_back(to_endpoint(address));
        channel->start_dial(endpoints);
      });
    });
  });
  return channel;
}

}  // namespace

Result<std::unique_ptr<Transport>> make_tcp_transport(ChannelHandler& handler) {
  try {
    return std::unique_ptr<Transport>(std::make_unique<TcpTransport>(handler));
  } catch (const std::exception& error) {  // no thread, no descriptor
    return fail(Code::resource_exhausted, "cannot start a TCP transport: ", error.what());
  }
}

}  // namespace weft
