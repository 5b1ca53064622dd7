#include "transfer/ucx_loop.h"
#include "base/keep_going.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <future>
#include <new>

namespace weft {

namespace {

// Why the address cannot be taken, as the system says it; 0: it can. UCX tells less.
int bind_error(const SocketAddress& address) {
  const int socket = ::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (socket < 0) return errno;
  const int reuse = 1;
  ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof reuse);
  const int error = ::bind(socket, address.data(), address.size) == 0 ? 0 : errno;
  ::close(socket);
  return error;
}

}  // namespace

UcxLoop::~UcxLoop() {
  if (wake_ >= 0) ::close(wake_);
}

Status UcxLoop::start() {
  wake_ = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (wake_ < 0) return fail(Code::resource_exhausted, "cannot start a UCX transport: ", std::strerror(errno));
  thread_ = std::thread([this] { keep_going("the UCX transport", [&] { run(); }); });
  return {};
}

void UcxLoop::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  [[maybe_unused]] const int written = ::eventfd_write(wake_, 1);
  thread_.join();
}

bool UcxLoop::post(std::function<void()> task) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return false;
  tasks_.push_back(std::move(task));
  if (tasks_.size() == 1 && std::this_thread::get_id() != thread_.get_id()) ::eventfd_write(wake_, 1);
  return true;
}

void UcxLoop::end_closing_later() noexcept {
  some_close_ = true;
  ::eventfd_write(wake_, 1);
}

void UcxLoop::end_closing() {
  if (!some_close_.exchange(false)) return;
  for (;;) {
    const auto found = std::ranges::find_if(channels_, [](const auto& channel) { return channel->is_closing(); });
    if (found == channels_.end()) return;
    const std::shared_ptr<UcxChannel> channel = *found;
    channel->end(Error(Code::cancelled, "closed here"));
  }
}

void UcxLoop::run() {
  for (;;) {
    run_tasks();
    end_closing();
    bool busy = false;
    for (const Worker& worker : workers_)
      if (worker.worker) busy = progress(worker.worker) || busy;
    pass_deadlines();
    busy = disconnect_dying() || busy;  // UCX has begun something by it
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) break;
      busy = busy || !tasks_.empty();
    }
    if (!busy) sleep();
  }
  close_all();
}

// Whether there may be more to do at once: traffic without a pause must not keep the loop from all else.
bool UcxLoop::progress(weft_ucx_worker* worker) {
  constexpr int kTurns = 64;
  for (int turn = 0; turn < kTurns; ++turn)
    if (ucx->progress(worker) == 0) return false;
  return true;
}

void UcxLoop::run_tasks() {
  std::vector<std::function<void()>> tasks;
  {
    const std::lock_guard lock(mutex_);
    tasks.swap(tasks_);
  }
  for (auto& task : tasks) task();
}

bool UcxLoop::disconnect_dying() {
  const auto dying = std::exchange(dying_, {});
  for (const Dying& one : dying) ucx->disconnect(one.worker, one.end);
  return !dying.empty();
}

void UcxLoop::pass_deadlines() {
  while (!deadlines_.empty() && deadlines_.begin()->first <= Clock::now()) {
    const auto channel = deadlines_.begin()->second.lock();
    deadlines_.erase(deadlines_.begin());
    if (channel) channel->pass_deadline();
  }
}

void UcxLoop::sleep() {
  std::array<pollfd, 3> wakers{};
  size_t count = 0;
  wakers[count++] = {wake_, POLLIN, 0};
  for (const Worker& worker : workers_) {
    if (!worker.worker) continue;
    if (ucx->arm(worker.worker)) return;  // there is something to do
    wakers[count++] = {ucx->descriptor(worker.worker), POLLIN, 0};
  }
  int milliseconds = -1;
  if (!deadlines_.empty()) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadlines_.begin()->first - Clock::now());
    milliseconds = static_cast<int>(std::max<int64_t>(0, left.count()));
  }
  ::poll(wakers.data(), count, milliseconds);
  eventfd_t ignored = 0;
  ::eventfd_read(wake_, &ignored);
}

void UcxLoop::close_all() {
  run_tasks();  // channels that are not among channels_ yet
  ending = true;
  const auto channels = channels_;
  for (const auto& channel : channels) channel->end(fail(Code::cancelled, "the transport has ended here"));
  disconnect_dying();
  for (Worker& worker : workers_)
    if (worker.worker) ucx->close(worker.worker);
  const std::lock_guard lock(mutex_);
  tasks_.clear();
}

Result<weft_ucx_worker*> UcxLoop::worker_for(const SocketAddress& address) {
  const bool loopback = address.loopback();
  Worker& worker = workers_[loopback];
  if (worker.worker) return worker.worker;
  worker.loop = this;
  weft_ucx_events events{};
  events.self = &worker;
  events.connecting = [](void* self, weft_ucx_end* end, const sockaddr* peer, socklen_t bytes) {
    const Worker& at = *static_cast<Worker*>(self);
    return at.loop->connecting(at.worker, end, peer, bytes);
  };
  events.arrived = [](void*, void* user, uint64_t number, const void* data, size_t bytes) {
    const auto channel = static_cast<UcxChannel*>(user)->shared_from_this();
    channel->arrived(number, {static_cast<const std::byte*>(data), bytes});
  };
  events.offered = [](void*, void* user, uint64_t number, size_t bytes, weft_ucx_offer* offer) {
    const auto channel = static_cast<UcxChannel*>(user)->shared_from_this();
    channel->offered(number, bytes, offer);
  };
  events.failed = [](void*, void* user, int error) {
    const auto channel = static_cast<UcxChannel*>(user)->shared_from_this();
    channel->failed(error);
  };
  events.sent = [](void*, void* context, int error) { UcxChannel::sent(context, error); };
  events.fetched = [](void*, void* context, int error) { UcxChannel::fetched(context, error); };
  if (const int error = ucx->open(&events, loopback, &worker.worker)) {
    worker.worker = nullptr;
    return fail(Code::unsupported, "UCX does not start: ", describe(error));
  }
  return worker.worker;
}

Result<std::string> UcxLoop::listen(const SocketAddress& at, const std::string& address) {
  std::promise<Result<std::string>> promise;
  auto answer = promise.get_future();
  const auto take = [&]() -> Result<std::string> {
    WEFT_TRY(weft_ucx_worker* const worker, worker_for(at));
    SocketAddress in_force;
    if (const int error = ucx->listen(worker, at.data(), at.size, &in_force.storage)) {
      const int reason = bind_error(at);
      return fail(reason == EADDRINUSE ? Code::resource_exhausted : Code::invalid_argument, "cannot listen at ",
                  address, ": ", reason ? std::strerror(reason) : describe(error));
    }
    in_force.size = at.size;
    return in_force.text();
  };
  if (std::this_thread::get_id() == thread_.get_id()) return take();
  post([&] { promise.set_value(take()); });
  return answer.get();
}

// Null: refused.
void* UcxLoop::connecting(weft_ucx_worker* worker, weft_ucx_end* end, const sockaddr* peer, socklen_t bytes) {
  if (ending || strangers >= kMaxStrangers) return nullptr;
  SocketAddress address;
  address.size = bytes;
  std::memcpy(&address.storage, peer, bytes);
  auto channel = std::make_shared<UcxChannel>(shared_from_this(), address.text(), false);
  add(channel, kFirstMessageSeconds);
  channel->start_accepted(worker, end);
  return channel.get();
}

void UcxLoop::add(const std::shared_ptr<UcxChannel>& channel, int seconds_to_speak) {
  channels_.insert(channel);
  deadlines_.emplace(Clock::now() + std::chrono::seconds(seconds_to_speak), channel);
}

void UcxLoop::remove(const std::shared_ptr<UcxChannel>& channel) { channels_.erase(channel); }

std::unique_ptr<std::byte[]> UcxLoop::take_buffer(size_t bytes, size_t* room) {
  const auto found = std::find_if(buffers_.begin(), buffers_.end(), [&](const Buffer& buffer) {
    return buffer.room >= bytes && buffer.room / 4 <= bytes;
  });
  if (found != buffers_.end()) {
    Buffer taken = std::move(*found);
    buffers_.erase(found);
    buffered_ -= taken.room;
    *room = taken.room;
    return std::move(taken.memory);
  }
  *room = bytes;
  return std::unique_ptr<std::byte[]>(new (std::nothrow) std::byte[bytes]);
}

void UcxLoop::give_buffer(std::unique_ptr<std::byte[]> buffer, size_t room) {
  constexpr size_t kKept = size_t{16} << 20;
  if (room > kKept / 2) return;
  buffers_.push_back({std::move(buffer), room});
  buffered_ += room;
  while (buffered_ > kKept) {
    buffered_ -= buffers_.front().room;
    buffers_.erase(buffers_.begin());
  }
}

std::string UcxLoop::describe(int error) const {
  char text[256] = {};
  ucx->describe(error, text, sizeof text);
  return text;
}

}  // namespace weft
