// See the header.
#include "server/handler_pool.h"

#include <algorithm>
#include <functional>

#include "base/keep_going.h"
#include "base/log.h"
#include "base/thread_team.h"

namespace weft {

void HandlerPool::start() {
  const std::lock_guard lock(mutex_);
  running_.reserve(2 * static_cast<size_t>(base_));
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
    std::erase_if(jobs_, [](const Job& job) { return job.answer->stop_flag()->reason() != StopReason::none; });
  if (jobs_.size() >= static_cast<size_t>(queue_)) return false;
  const size_t client = std::hash<std::string>()(answer->request().peer);
  jobs_.push_back({std::move(answer), client});
  changed_.notify_one();
  return true;
}

void HandlerPool::replace(const HttpAnswer& answer) {
  std::unique_lock lock(mutex_);
  reap(lock);
  const auto found = std::ranges::find(running_, &answer, &Running::answer);
  if (stopping_ || found == running_.end() || found->replaced ||
      std::ranges::count(running_, true, &Running::replaced) >= base_)
    return;
  found->replaced = true;
  try {
    start_thread();
  } catch (const std::exception& thrown) {
    found->replaced = false;
    keep_quiet([&] { log_warning("handler_not_replaced", " problem=", thrown.what()); });
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

bool HandlerPool::join_for(std::chrono::milliseconds limit) {
  std::unique_lock lock(mutex_);
  stopping_ = true;
  changed_.notify_all();
  const bool ended = changed_.wait_for(lock, limit, [&] { return threads_.empty(); });
  reap(lock);
  return ended;
}

std::list<HandlerPool::Job>::iterator HandlerPool::next() {
  auto best = jobs_.end();
  int fewest = stopping_ ? 2 * base_ : per_client_;
  for (auto job = jobs_.begin(); job != jobs_.end() && fewest > 0; ++job) {
    const auto of_client = [&](const Running& one) { return one.client == job->client && !one.replaced; };
    const auto running = static_cast<int>(std::ranges::count_if(running_, of_client));
    if (running < fewest) best = job, fewest = running;
  }
  return best;
}

void HandlerPool::work(std::list<std::thread>::iterator self) {
  step_back_from_compute();
  std::unique_lock lock(mutex_);  // also until start_thread() has filled *self
  for (;;) {
    auto job = jobs_.end();
    changed_.wait(lock, [&] { return (job = next()) != jobs_.end() || (stopping_ && jobs_.empty()); });
    if (job == jobs_.end()) break;
    std::shared_ptr<HttpAnswer> answer = std::move(job->answer);
    running_.push_back({answer.get(), job->client});
    jobs_.erase(job);
    lock.unlock();
    if (answer->stop_flag()->reason() == StopReason::none) {
      answer->handler_begins();
      run_(answer);
    }
    answer->handler_ends();
    lock.lock();
    const auto self_running = std::ranges::find(running_, answer.get(), &Running::answer);
    const bool replaced = self_running->replaced;
    running_.erase(self_running);
    if (!jobs_.empty()) changed_.notify_all();  // its client may have another now
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
  return static_cast<int>(std::ranges::count(running_, true, &Running::replaced));
}

}  // namespace weft
