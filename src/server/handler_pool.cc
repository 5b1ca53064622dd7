// See the header.
#include "server/handler_pool.h"

#include <algorithm>

#include "base/log.h"
#include "base/thread_team.h"

namespace weft {

void HandlerPool::start() {
  const std::lock_guard lock(mutex_);
  running_.reserve(2 * static_cast<size_t>(base_)), replaced_.reserve(static_cast<size_t>(base_));
  for (int i = 0; i < base_; ++i) start_thread();
}

void HandlerPool::start_thread() {
  const auto self = threads_.emplace(threads_.end());
  try {
    *self = std::thread([this, self] { work(self); });
  } catch (...) {
    threads_.erase(self);
    throw;
  }
}

bool HandlerPool::add(std::shared_ptr<HttpAnswer> answer) {
  const std::lock_guard lock(mutex_);
  if (jobs_.size() >= static_cast<size_t>(queue_))
    std::erase_if(jobs_, [](const auto& job) { return job->stop_flag()->reason() != StopReason::none; });
  if (jobs_.size() >= static_cast<size_t>(queue_)) return false;
  jobs_.push_back(std::move(answer));
  changed_.notify_one();
  return true;
}

void HandlerPool::replace(const HttpAnswer& answer) {
  std::unique_lock lock(mutex_);
  reap(lock);
  if (stopping_ || std::ranges::find(running_, &answer) == running_.end() ||
      replaced_.size() >= static_cast<size_t>(base_) || std::ranges::find(replaced_, &answer) != replaced_.end())
    return;
  replaced_.push_back(&answer);
  try {
    start_thread();
  } catch (const std::exception& thrown) {
    replaced_.pop_back();
    log_warning("handler_not_replaced", " problem=", thrown.what());
  }
}

// Threads that have left need no more than moments to end.
void HandlerPool::reap(std::unique_lock<std::mutex>& lock) {
  std::list<std::thread> ended = std::move(ended_);
  ended_.clear();
  lock.unlock();
  for (std::thread& thread : ended) thread.join();
  lock.lock();
}

void HandlerPool::join() {
  std::unique_lock lock(mutex_);
  stopping_ = true;
  changed_.notify_all();
  changed_.wait(lock, [&] { return threads_.empty(); });
  reap(lock);
}

void HandlerPool::work(std::list<std::thread>::iterator self) {
  step_back_from_compute();
  std::unique_lock lock(mutex_);  // also until start_thread() has filled *self
  for (;;) {
    changed_.wait(lock, [&] { return stopping_ || !jobs_.empty(); });
    if (jobs_.empty()) break;
    std::shared_ptr<HttpAnswer> answer = std::move(jobs_.front());
    jobs_.pop_front();
    running_.push_back(answer.get());
    lock.unlock();
    if (answer->stop_flag()->reason() == StopReason::none) {
      answer->handler_begins();
      run_(answer);
    }
    answer->handler_ends();
    lock.lock();
    std::erase(running_, answer.get());
    const bool replaced = std::erase(replaced_, answer.get()) > 0;
    lock.unlock();
    answer.reset();  // what it holds may take its time to go
    lock.lock();
    if (replaced) break;
  }
  ended_.splice(ended_.end(), threads_, self);
  changed_.notify_all();
}

int HandlerPool::waiting() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int>(jobs_.size());
}
int HandlerPool::busy() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int>(running_.size());
}
int HandlerPool::replaced() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int>(replaced_.size());
}

}  // namespace weft
