// The UCX transport's thread and its channels (ucx_transport.cc and the two .cc files of these, nobody else).
//
// One thread has all connections. It sleeps while UCX has nothing to do, on descriptors that UCX makes readable, so it
// takes no processor from products. There are up to two UCX workers: one for loopback addresses, which uses and opens
// nothing but loopback and shared memory, and one for all others.
//
// Messages of UCX may overtake each other: long ones are fetched by the receiver when it wants them, short ones come
// with their bytes. So every message has a number. The sender has at most kWindow numbers under way; the receiver
// fetches in order, some at the same time, and delivers in order. The accepting side's first message is a greeting; the
// dialling side sends nothing before it has come.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

#include "base/socket_address.h"
#include "transfer/channel.h"
#include "transfer/ucx/weft_ucx.h"

namespace weft {

class UcxChannel;

class UcxLoop : public std::enable_shared_from_this<UcxLoop> {
 public:
  using Clock = std::chrono::steady_clock;

  UcxLoop(const weft_ucx_table* ucx, ChannelHandler& handler) : ucx(ucx), handler(handler) {}
  ~UcxLoop();

  Status start();
  void stop();  // closes everything and waits for the thread
  Result<std::string> listen(const SocketAddress& at, const std::string& address);
  bool post(std::function<void()> task);  // any thread; false, and nothing happens, once it is stopped
  void end_closing_later() noexcept;      // any thread: ends the channels whose close() could not be posted

  // The loop's thread only, as all below.
  // The worker for such an address, opened if need be.
  Result<weft_ucx_worker*> worker_for(const SocketAddress& address);
  void add(const std::shared_ptr<UcxChannel>& channel, int seconds_to_speak);
  void remove(const std::shared_ptr<UcxChannel>& channel);
  // Behind the events that are running: UCX is not to be told within them.
  void disconnect_later(std::shared_ptr<UcxChannel> channel, weft_ucx_worker* worker, weft_ucx_end* end) {
    dying_.push_back({std::move(channel), worker, end});
  }
  std::unique_ptr<std::byte[]> take_buffer(size_t bytes, size_t* room);
  void give_buffer(std::unique_ptr<std::byte[]> buffer, size_t room);
  std::string describe(int error) const;

  const weft_ucx_table* const ucx;
  ChannelHandler& handler;
  std::atomic<int> strangers{0};
  bool ending = false;

 private:
  void run();
  bool progress(weft_ucx_worker* worker);
  void run_tasks();
  void end_closing();
  bool disconnect_dying();  // whether there were any
  void pass_deadlines();
  void sleep();
  void close_all();
  void* connecting(weft_ucx_worker* worker, weft_ucx_end* end, const sockaddr* peer, socklen_t bytes);

  struct Worker {
    UcxLoop* loop = nullptr;
    weft_ucx_worker* worker = nullptr;
  };
  std::array<Worker, 2> workers_;  // [1]: loopback

  std::mutex mutex_;
  std::vector<std::function<void()>> tasks_;
  bool stopping_ = false;
  std::atomic<bool> some_close_{false};
  int wake_ = -1;  // an eventfd

  std::unordered_set<std::shared_ptr<UcxChannel>> channels_;
  std::multimap<Clock::time_point, std::weak_ptr<UcxChannel>> deadlines_;
  struct Dying {
    std::shared_ptr<UcxChannel> channel;  // the end's `user`
    weft_ucx_worker* worker;
    weft_ucx_end* end;
  };
  std::vector<Dying> dying_;
  struct Buffer {
    std::unique_ptr<std::byte[]> memory;
    size_t room;
  };
  std::vector<Buffer> buffers_;  // of messages that were delivered
  size_t buffered_ = 0;          // their bytes
  std::thread thread_;
};

class UcxChannel : public Channel, public std::enable_shared_from_this<UcxChannel> {
 public:
  UcxChannel(std::shared_ptr<UcxLoop> loop, std::string peer, bool dialled)
      : loop_(std::move(loop)), peer_(std::move(peer)), dialled_(dialled) {}

  void send(std::vector<std::byte> message) override;
  size_t queued_bytes() const override { return queued_; }
  void allow(size_t message_bytes) override;
  void close() noexcept override;
  const std::string& peer() const override { return peer_; }

  // The loop's thread only, as all below.
  bool is_closing() const { return closing_; }
  void start_dial(std::vector<SocketAddress> addresses);
  void start_accepted(weft_ucx_worker* worker, weft_ucx_end* end);
  void pass_deadline();
  void end(const Error& why);
  void end_silently();
  // Events of UCX.
  void arrived(uint64_t number, std::span<const std::byte> message);
  void offered(uint64_t number, size_t bytes, weft_ucx_offer* offer);
  void failed(int error);
  static void sent(void* context, int error);
  static void fetched(void* context, int error);

  static constexpr uint64_t kWindow = 16;

 private:
  struct Sending;
  struct Incoming {
    enum State : unsigned char { here, offered, fetching };
    State state;
    size_t bytes;
    weft_ucx_offer* offer = nullptr;
    std::unique_ptr<std::byte[]> memory;
    size_t room = 0;
  };
  struct Fetching;

  void dial_next();
  void flush();
  void finish_sending(const Sending& sending, int error);
  void advance();
  void fetch_ahead();
  bool fetch(uint64_t number, Incoming& message);
  bool deliver(std::span<const std::byte> message);
  bool hear_greeting(std::span<const std::byte> message);
  bool keep(uint64_t number, Incoming message);
  void too_long(size_t bytes);
  std::shared_ptr<Channel> self() { return shared_from_this(); }

  const std::shared_ptr<UcxLoop> loop_;
  const std::string peer_;
  const bool dialled_;  // here
  std::atomic<size_t> queued_{0}, allowed_{kFirstMessageBytes};
  std::atomic<bool> stranger_{false}, closing_{false};

  std::mutex mutex_;
  std::deque<std::vector<std::byte>> queue_;
  bool flushing_ = false;  // the loop's thread will call flush()
  bool over_ = false;      // queued_ has been above kDrainedBytes
  bool ended_ = false;

  // The loop's thread only.
  std::vector<SocketAddress> addresses_;  // that were not tried yet, the next one last
  weft_ucx_worker* worker_ = nullptr;
  weft_ucx_end* end_ = nullptr;
  bool heard_ = false;  // the greeting or, where that went out, a message
  bool in_flush_ = false;
  std::deque<bool> under_way_;  // for the numbers from first_: sent and not done
  uint64_t first_ = 0;
  std::map<uint64_t, Incoming> incoming_;
  uint64_t next_ = 0;
  size_t fetching_ = 0;  // bytes
  bool advancing_ = false;
};

}  // namespace weft
