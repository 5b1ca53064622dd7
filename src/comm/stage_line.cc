#include "comm/stage_line.h"

#include <atomic>
#include <cstring>
#include <deque>
#include <mutex>
#include <vector>

#include "base/check.h"
#include "base/thread_team.h"
#include "comm/buffer.h"

namespace weft {
namespace {

struct Message {
  CommBuffer buffer;
  size_t bytes = 0;
  std::atomic<int> missing{0};  // threads that still copy
};

// Messages on their way, and those that were read and can be filled again.
struct Queue {
  explicit Queue(int threads) : threads(threads) {}
  const int threads;
  std::mutex mutex;
  std::deque<std::unique_ptr<Message>> sent;
  std::vector<std::unique_ptr<Message>> free;
  std::atomic<uint32_t> count{0};  // messages that were ever sent
};

class ThreadSender : public StageLine {
 public:
  explicit ThreadSender(std::shared_ptr<Queue> queue) : queue_(std::move(queue)), barrier_(queue_->threads) {}

  void send(const void* data, size_t bytes, Thread thread) override {
    if (thread.index == 0) begin(bytes);
    barrier_.wait();
    const auto part = [&](int index) { return bytes * static_cast<size_t>(index) / static_cast<size_t>(thread.count); };
    const size_t first = part(thread.index), last = part(thread.index + 1);
    if (last > first)
      std::memcpy(message_->buffer.bytes() + first, static_cast<const std::byte*>(data) + first, last - first);
    message_->missing.fetch_sub(1, std::memory_order_release);
    message_->missing.notify_all();
    barrier_.wait();  // message_ is the next call's
  }
  const std::byte* receive(size_t, Thread) override {
    WEFT_CHECK(false) << "this end of a line sends";
    return nullptr;
  }

 private:
  void begin(size_t bytes) {
    const std::lock_guard lock(queue_->mutex);
    if (queue_->free.empty()) queue_->free.push_back(std::make_unique<Message>());
    queue_->sent.push_back(std::move(queue_->free.back()));
    queue_->free.pop_back();
    message_ = queue_->sent.back().get();
    message_->buffer.room(bytes);
    message_->bytes = bytes;
    message_->missing.store(queue_->threads, std::memory_order_relaxed);
    queue_->count.fetch_add(1, std::memory_order_release);
    queue_->count.notify_all();
  }

  std::shared_ptr<Queue> queue_;
  ThreadBarrier barrier_;
  Message* message_ = nullptr;
};

class ThreadReceiver : public StageLine {
 public:
  explicit ThreadReceiver(std::shared_ptr<Queue> queue) : queue_(std::move(queue)), barrier_(queue_->threads) {}

  void send(const void*, size_t, Thread) override { WEFT_CHECK(false) << "this end of a line receives"; }
  const std::byte* receive(size_t bytes, Thread thread) override {
    barrier_.wait();  // all have read the message before
    if (thread.index == 0) take(bytes);
    barrier_.wait();
    return message_->buffer.bytes();
  }

 private:
  void take(size_t bytes) {
    for (uint32_t count = queue_->count.load(std::memory_order_acquire); count == taken_;
         count = queue_->count.load(std::memory_order_acquire))
      queue_->count.wait(count, std::memory_order_acquire);
    ++taken_;
    {
      const std::lock_guard lock(queue_->mutex);
      if (message_) queue_->free.push_back(std::move(message_));
      message_ = std::move(queue_->sent.front());
      queue_->sent.pop_front();
    }
    for (int missing = message_->missing.load(std::memory_order_acquire); missing > 0;
         missing = message_->missing.load(std::memory_order_acquire))
      message_->missing.wait(missing, std::memory_order_acquire);
    WEFT_CHECK(message_->bytes == bytes) << message_->bytes << " bytes came from a stage, expected " << bytes;
  }

  std::shared_ptr<Queue> queue_;
  ThreadBarrier barrier_;
  std::unique_ptr<Message> message_;
  uint32_t taken_ = 0;
};

class ProcessLine : public StageLine {
 public:
  explicit ProcessLine(std::unique_ptr<Communicator> pair) : pair_(std::move(pair)) {}

  void send(const void* data, size_t bytes, Thread thread) override { pair_->broadcast(0, data, bytes, thread); }
  const std::byte* receive(size_t bytes, Thread thread) override { return pair_->broadcast(0, nullptr, bytes, thread); }

 private:
  std::unique_ptr<Communicator> pair_;
};

}  // namespace

std::pair<std::unique_ptr<StageLine>, std::unique_ptr<StageLine>> make_thread_line(int threads) {
  const auto queue = std::make_shared<Queue>(threads);
  return {std::make_unique<ThreadSender>(queue), std::make_unique<ThreadReceiver>(queue)};
}

std::unique_ptr<StageLine> make_process_line(std::unique_ptr<Communicator> pair) {
  return std::make_unique<ProcessLine>(std::move(pair));
}

}  // namespace weft
