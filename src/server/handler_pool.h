// The threads that run handlers: parsing, templates, tokenizing, pictures. So many work at once, and so many requests
// wait for one.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "server/http_answer.h"

namespace weft {

// Any thread.
class HandlerPool {
 public:
  using Run = std::function<void(const std::shared_ptr<HttpAnswer>&)>;  // must not throw
  HandlerPool(int threads, int queue, Run run) : base_(threads), queue_(queue), run_(std::move(run)) {}
  ~HandlerPool() { join(); }

  // Starts the threads. Throws std::system_error if the system gives none. Once.
  void start();
  // False: as many requests wait as may. Requests whose stop flag is set when their turn comes are not run.
  bool add(std::shared_ptr<HttpAnswer> answer);
  // A handler has had its time and does not end: another thread takes its place until it does, as long as no more than
  // all threads have been replaced. The thread of `answer`'s handler ends with it.
  void replace(const HttpAnswer& answer);
  // Waits until all that was added has run. Nothing may be added afterwards.
  void join();

  int waiting() const;
  int busy() const;      // handlers that run
  int replaced() const;  // of these, handlers that have had their time

 private:
  void work(std::list<std::thread>::iterator self);
  void start_thread();  // with the lock
  void reap(std::unique_lock<std::mutex>& lock);

  const int base_, queue_;
  const Run run_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<HttpAnswer>> jobs_;
  std::vector<const HttpAnswer*> running_, replaced_;  // have room for all there can be
  std::list<std::thread> threads_, ended_;             // the second: have left work(), to be joined
  bool stopping_ = false;
};

}  // namespace weft
