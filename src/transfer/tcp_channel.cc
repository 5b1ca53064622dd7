#include "transfer/tcp_channel.h"

#include <netinet/tcp.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/post.hpp>
#include <cerrno>
#include <cstring>

#include "base/check.h"

namespace weft {

namespace {

constexpr size_t kLengthBytes = 4;

void put_length(size_t bytes, unsigned char* at) {
  for (size_t i = 0; i < kLengthBytes; ++i) at[i] = static_cast<unsigned char>(bytes >> (8 * i));
}

size_t get_length(const std::byte* at) {
  size_t bytes = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) bytes |= static_cast<size_t>(at[i]) << (8 * i);
  return bytes;
}

void set_option(int socket, int level, int option, int value) {
  ::setsockopt(socket, level, option, &value, sizeof value);  // where it does not exist, all works without
}

void set_options(int socket) {
  set_option(socket, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(socket, IPPROTO_TCP, TCP_KEEPIDLE, 10);
  set_option(socket, IPPROTO_TCP, TCP_KEEPINTVL, 3);
  set_option(socket, IPPROTO_TCP, TCP_KEEPCNT, 3);
  set_option(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, 30'000);
}

}  // namespace

void TcpChannel::send(std::vector<std::byte> message) {
  WEFT_CHECK(message.size() <= kMaxMessageBytes) << message.size();
  const std::lock_guard lock(mutex_);
  if (ended_ || closing_) return;
  const size_t bytes = message.size();
  queue_.push_back(std::move(message));
  queued_ += bytes;
  over_ = over_ || queued_ > kDrainedBytes;
  if (!connected_ || writing_) return;
  if (queue_.front().size() <= kInline) {  // the queue was empty: who writes leaves nothing in it
    const ssize_t out = write_gathered(gather());
    if (out > 0) consume(static_cast<size_t>(out));  // the transport's thread finds out what an error was
    if (queue_.empty()) return;
  }
  writing_ = true;
  try {
    net::post(shared_->io, [self = shared_from_this()] { self->guarded([&] { self->write(); }); });
  } catch (const std::exception&) {  // nobody would write it
    hang_up();
  }
}

// The connection ends, where there is no memory to tell the transport's thread: it reads the end. One that is not
// connected yet ends by its deadline, or when it is. Under the mutex.
void TcpChannel::hang_up() {
  hung_up_ = true;
  if (connected_) ::shutdown(socket_.native_handle(), SHUT_RDWR);
}

void TcpChannel::allow(size_t message_bytes) {
  allowed_ = message_bytes;
  if (message_bytes > kFirstMessageBytes && stranger_.exchange(false)) --shared_->strangers;
}

void TcpChannel::close() noexcept {
  const std::lock_guard lock(mutex_);
  if (ended_ || closing_.exchange(true)) return;
  try {
    net::post(shared_->io, [self = shared_from_this()] { self->end(Error(Code::cancelled, "closed here")); });
  } catch (const std::exception&) {
    hang_up();
  }
}

void TcpChannel::set_dial_deadline() {
  deadline_.expires_after(std::chrono::seconds(kDialSeconds));
  deadline_.async_wait([self = shared_from_this()](const error_code& error) {
    if (error || self->connected_) return;
    self->guarded([&] {
      self->end(
          fail(Code::unavailable, "cannot connect to ", self->peer_, ": no answer within ", kDialSeconds, " seconds"));
    });
  });
}

void TcpChannel::start_dial(const std::vector<tcp::endpoint>& endpoints) {
  if (ended_) return;  // written by this thread alone
  net::async_connect(socket_, endpoints, [self = shared_from_this()](error_code error, const tcp::endpoint&) {
    self->guarded([&] { self->dialled(error); });
  });
}

void TcpChannel::dialled(error_code error) {
  if (ended_) return;
  error_code ignored;
  // A port of this machine that nobody listens at can be the one that the system has chosen for this very socket.
  if (!error && socket_.local_endpoint(ignored) == socket_.remote_endpoint(ignored))
    error = net::error::connection_refused;
  if (error) return end(fail(Code::unavailable, "cannot connect to ", peer_, ": ", error.message()));
  deadline_.cancel();
  connected();
}

void TcpChannel::start_accepted(tcp::socket socket) {
  socket_ = std::move(socket);
  stranger_ = true;
  ++shared_->strangers;
  deadline_.expires_after(std::chrono::seconds(kFirstMessageSeconds));
  deadline_.async_wait([self = shared_from_this()](const error_code& error) {
    if (error || self->heard_) return;
    self->guarded([&] {
      self->end(fail(Code::deadline_exceeded, self->peer_, " sent no message within ", kFirstMessageSeconds,
                     " seconds of connecting"));
    });
  });
  shared_->handler.on_accepted(self());
  connected();
}

void TcpChannel::connected() {
  if (ended_) return;
  error_code ignored;
  socket_.non_blocking(true, ignored);
  set_options(socket_.native_handle());
  scratch_ = std::make_unique_for_overwrite<std::byte[]>(kScratch);
  {
    const std::lock_guard lock(mutex_);
    connected_ = writing_ = !hung_up_;
  }
  if (hung_up_) return end(Error(Code::cancelled, "closed here"));
  write();
  if (!ended_) read();
}

void TcpChannel::lost(const char* doing, const error_code& error) {
  if (error == net::error::operation_aborted) return;  // end() has closed the socket
  const std::string why = error == net::error::eof ? "it has closed the connection" : error.message();
  end(fail(Code::unavailable, "lost ", peer_, " while ", doing, ": ", why));
}

void TcpChannel::end_silently() {
  const std::lock_guard lock(mutex_);
  ended_ = true;
  connected_ = false;
  queue_.clear();
  queued_ = 0;
  error_code ignored;
  socket_.close(ignored);
}

void TcpChannel::end(const Error& why) {
  if (ended_) return;
  end_silently();
  deadline_.cancel();
  if (stranger_.exchange(false)) --shared_->strangers;
  const auto kept = shared_from_this();
  shared_->channels.erase(kept);
  shared_->handler.on_closed(kept, why);
}

// The first frames of the queue as buffers; how many of these. Under the mutex; the memory stays, since only who calls
// it removes messages from the front.
size_t TcpChannel::gather() {
  size_t buffers = 0, frames = 0, skipped = written_;
  const auto add = [&](void* data, size_t bytes) {
    const size_t skip = std::min(skipped, bytes);
    skipped -= skip;
    if (bytes > skip) gathered_[buffers++] = {static_cast<std::byte*>(data) + skip, bytes - skip};
  };
  for (auto& message : queue_) {
    if (frames == kGathered) break;
    put_length(message.size(), lengths_[frames].data());
    add(lengths_[frames].data(), kLengthBytes);
    add(message.data(), message.size());
    ++frames;
  }
  return buffers;
}

ssize_t TcpChannel::write_gathered(size_t buffers) {
  msghdr header{};
  header.msg_iov = gathered_.data();
  header.msg_iovlen = buffers;
  for (;;) {
    const ssize_t out = ::sendmsg(socket_.native_handle(), &header, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (out >= 0 || errno != EINTR) return out;
  }
}

// So many bytes are out. Under the mutex.
void TcpChannel::consume(size_t bytes) {
  written_ += bytes;
  while (!queue_.empty() && written_ >= queue_.front().size() + kLengthBytes) {
    written_ -= queue_.front().size() + kLengthBytes;
    queued_ -= queue_.front().size();
    queue_.pop_front();
  }
}

void TcpChannel::write() {
  constexpr int kTurns = 16;  // then others have theirs
  for (int turn = 0;; ++turn) {
    size_t buffers = 0;
    {
      const std::lock_guard lock(mutex_);
      if (ended_) return;
      if (queue_.empty()) {
        writing_ = false;
        return;
      }
      buffers = gather();
    }
    if (turn == kTurns)
      return net::post(shared_->io, [self = shared_from_this()] { self->guarded([&] { self->write(); }); });
    const ssize_t out = write_gathered(buffers);
    if (out < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return wait_for_room();
    if (out < 0) return lost("sending", error_code(errno, boost::system::system_category()));
    bool drained = false;
    {
      const std::lock_guard lock(mutex_);
      consume(static_cast<size_t>(out));
      drained = over_ && queued_ <= kDrainedBytes;
      if (drained) over_ = false;
    }
    if (drained && !closing_) shared_->handler.on_drained(self());
  }
}

void TcpChannel::wait_for_room() {
  socket_.async_wait(tcp::socket::wait_write, [self = shared_from_this()](const error_code& error) {
    self->guarded([&] {
      if (error) self->lost("sending", error);
      else self->write();
    });
  });
}

void TcpChannel::read() {
  std::array<net::mutable_buffer, 2> buffers;
  if (in_large_) buffers[0] = {large_.get() + large_filled_, large_bytes_ - large_filled_};
  buffers[1] = {scratch_.get() + scratch_end_, kScratch - scratch_end_};
  socket_.async_read_some(buffers, [self = shared_from_this()](const error_code& error, size_t bytes) {
    self->guarded([&] {
      if (error) self->lost("receiving", error);
      else self->take(bytes);
    });
  });
}

void TcpChannel::take(size_t bytes) {
  if (ended_) return;
  if (in_large_) {
    const size_t large = std::min(bytes, large_bytes_ - large_filled_);
    large_filled_ += large;
    bytes -= large;
    if (large_filled_ == large_bytes_) {
      in_large_ = false;
      if (!deliver({large_.get(), large_bytes_})) return;
      if (large_room_ > kKept) {
        large_.reset();
        large_room_ = 0;
      }
    }
  }
  scratch_end_ += bytes;
  if (take_frames()) read();
}

// Delivers the whole messages of scratch_ and begins what is longer. False: the connection has ended or will.
bool TcpChannel::take_frames() {
  size_t at = 0;
  while (scratch_end_ - at >= kLengthBytes) {
    const size_t bytes = get_length(scratch_.get() + at);
    if (bytes > allowed_) {
      end(fail(Code::invalid_argument, peer_, " sent a message of ", bytes, " bytes where ", allowed_.load(),
               " are allowed"));
      return false;
    }
    const size_t held = scratch_end_ - at - kLengthBytes;
    const std::byte* const message = scratch_.get() + at + kLengthBytes;
    if (bytes > held && bytes > kScratch / 4) {
      if (!begin_large(bytes)) return false;
      std::memcpy(large_.get(), message, held);
      large_filled_ = held;
      scratch_end_ = 0;
      return true;
    }
    if (bytes > held) break;
    at += kLengthBytes + bytes;
    if (!deliver({message, bytes})) return false;
  }
  std::memmove(scratch_.get(), scratch_.get() + at, scratch_end_ - at);
  scratch_end_ -= at;
  return true;
}

bool TcpChannel::begin_large(size_t bytes) {
  if (large_room_ < bytes) {
    large_.reset();  // before the new one is taken
    large_room_ = 0;
    std::byte* const memory = new (std::nothrow) std::byte[bytes];
    if (!memory) {
      end(fail(Code::resource_exhausted, "no memory for a message of ", bytes, " bytes from ", peer_));
      return false;
    }
    large_.reset(memory);
    large_room_ = bytes;
  }
  in_large_ = true;
  large_bytes_ = bytes;
  large_filled_ = 0;
  return true;
}

bool TcpChannel::deliver(std::span<const std::byte> message) {
  if (!heard_) {
    heard_ = true;
    deadline_.cancel();
  }
  if (!closing_ && !ended_) shared_->handler.on_message(self(), message);
  return !ended_ && (!closing_ || hung_up_);
}

}  // namespace weft
