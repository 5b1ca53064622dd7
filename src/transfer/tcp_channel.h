// One connection of the TCP transport (tcp_transport.cc includes it, nobody else).
//
// Sending: queue_ is under the mutex. Frames are written by the transport's thread, many with one call; only a small
// message that finds the queue empty is written by its sender, which saves waking that thread. Receiving: small
// messages are taken where they lie in scratch_, which is read as full as it gets; the bytes of a longer one go
// straight into large_.
#pragma once

#include <sys/uio.h>

#include <array>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_set>
#include <vector>

#include "transfer/channel.h"

namespace weft {

namespace net = boost::asio;
using tcp = net::ip::tcp;
using boost::system::error_code;

class TcpChannel;

// What the channels of a transport share. It lasts as long as the last of them.
struct TcpShared {
  explicit TcpShared(ChannelHandler& handler) : handler(handler) {}

  net::io_context io{1};
  ChannelHandler& handler;
  std::unordered_set<std::shared_ptr<TcpChannel>> channels;  // the transport's thread only
  std::atomic<bool> ending{false};                           // what is dialled from now on comes to nothing
  std::atomic<int> strangers{0};                             // accepted, and not allowed more than kFirstMessageBytes
};

class TcpChannel : public Channel, public std::enable_shared_from_this<TcpChannel> {
 public:
  TcpChannel(std::shared_ptr<TcpShared> shared, std::string peer)
      : shared_(std::move(shared)), peer_(std::move(peer)), socket_(shared_->io), deadline_(shared_->io) {}

  void send(std::vector<std::byte> message) override;
  size_t queued_bytes() const override { return queued_; }
  void allow(size_t message_bytes) override;
  void close() noexcept override;
  const std::string& peer() const override { return peer_; }

  // The transport's thread, as all below.
  void start_dial(const std::vector<tcp::endpoint>& endpoints);
  void start_accepted(tcp::socket socket);
  void set_dial_deadline();
  void end(const Error& why);
  void end_silently();
  // Runs `work`. An exception, which there is where memory is lacking, ends the connection.
  template <class Work>
  void guarded(Work work) noexcept {
    try {
      work();
    } catch (const std::exception&) {
      end(Error(Code::resource_exhausted, "no memory"));  // short enough to need none
    }
  }

 private:
  void hang_up();
  void dialled(error_code error);
  void connected();
  void lost(const char* doing, const error_code& error);
  void write();
  size_t gather();
  void consume(size_t bytes);
  ssize_t write_gathered(size_t buffers);
  void wait_for_room();
  void read();
  void take(size_t bytes);
  bool take_frames();
  bool begin_large(size_t bytes);
  bool deliver(std::span<const std::byte> message);
  std::shared_ptr<Channel> self() { return shared_from_this(); }

  static constexpr size_t kScratch = 64 << 10, kKept = 8 << 20, kInline = 16 << 10, kGathered = 64;

  const std::shared_ptr<TcpShared> shared_;  // first: the socket belongs to it
  const std::string peer_;
  tcp::socket socket_;
  net::steady_timer deadline_;
  std::atomic<size_t> queued_{0}, allowed_{kFirstMessageBytes};
  std::atomic<bool> stranger_{false};  // counted in TcpShared::strangers

  std::mutex mutex_;
  std::deque<std::vector<std::byte>> queue_;
  size_t written_ = 0;      // bytes of the first one's frame that are out
  bool connected_ = false;  // it can be written
  bool writing_ = false;    // the transport's thread writes, will, or waits for room
  bool over_ = false;       // queued_ has been above kDrainedBytes
  bool ended_ = false;
  std::atomic<bool> closing_{false};
  std::atomic<bool> hung_up_{false};  // the transport's thread will read that the connection has ended

  // The transport's thread only.
  std::array<std::array<unsigned char, 4>, kGathered> lengths_;
  std::array<iovec, 2 * kGathered> gathered_;
  std::unique_ptr<std::byte[]> scratch_, large_;
  size_t scratch_end_ = 0, large_room_ = 0, large_bytes_ = 0, large_filled_ = 0;
  bool in_large_ = false, heard_ = false;
};

}  // namespace weft
