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
        pause_(shared_->io), thread_([io = &shared_->io] { keep_going("the TCP transport", [&] { io->run(); }); }) {}

  ~TcpTransport() override {
    net::post(shared_->io, [this] {
      shared_->ending = true;
      error_code ignored;
      acceptor_.close(ignored);
      pause_.cancel();
      const auto channels = shared_->channels;
      for (const auto& channel : channels) channel->end(fail(Code::cancelled, "the transport has ended here"));
    });
    work_.reset();
    thread_.join();
  }

  Result<std::string> listen(const std::string& address) override;
  std::shared_ptr<Channel> dial(const std::string& address) override;

 private:
  void accept();
  void take(tcp::socket socket, const error_code& error);

  const std::shared_ptr<TcpShared> shared_;
  net::executor_work_guard<net::io_context::executor_type> work_;
  tcp::acceptor acceptor_;
  net::steady_timer pause_;
  bool listens_ = false;
  std::thread thread_;  // last: it uses the others
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
    acceptor_ = std::move(taken);
    accept();
  });
  return in_force;
}

void TcpTransport::accept() {
  acceptor_.async_accept([this](const error_code& error, tcp::socket socket) { take(std::move(socket), error); });
}

void TcpTransport::take(tcp::socket socket, const error_code& error) {
  if (!acceptor_.is_open()) return;
  if (error) {  // out of descriptors, or the peer left already
    pause_.expires_after(std::chrono::milliseconds(20));
    pause_.async_wait([this](const error_code& cancelled) {
      if (!cancelled && acceptor_.is_open()) accept();
    });
    return;
  }
  error_code gone;
  const tcp::endpoint peer = socket.remote_endpoint(gone);
  if (!gone && shared_->strangers < kMaxStrangers) {
    auto channel = std::make_shared<TcpChannel>(shared_, from_endpoint(peer).text());
    shared_->channels.insert(channel);
    channel->start_accepted(std::move(socket));
  }
  accept();
}

std::shared_ptr<Channel> TcpTransport::dial(const std::string& address) {
  auto channel = std::make_shared<TcpChannel>(shared_, address);
  net::post(shared_->io, [shared = shared_, channel] {
    if (shared->ending) return channel->end_silently();
    shared->channels.insert(channel);
    channel->set_dial_deadline();
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
        channel->end(fail(Code::unavailable, "cannot connect to ", channel->peer(), ": ", addresses.error().message()));
        return;
      }
      std::vector<tcp::endpoint> endpoints;
      for (const SocketAddress& address : *addresses) endpoints.push_back(to_endpoint(address));
      channel->start_dial(endpoints);
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
