// The threads that run handlers: parsing, templates, tokenizing, pictures. So many work at once, and so many requests
// wait for one. Clients (addresses) take turns: the next is of whoever has the fewest handlers running, and one has no
// more than so many, so that its slow requests leave a thread to the others.
#pragma once

#include <chrono>
#include <condition_variable>
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
  // `per_client`: handlers of one client that run at once; 0: as many as there are.
  HandlerPool(int threads, int per_client, int queue, Run run)
      : base_(threads), per_client_(per_client > 0 ? per_client : 2 * threads), queue_(queue), run_(std::move(run)) {}
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
  // The same for so long; false: some still run.
  bool join_for(std::chrono::milliseconds limit);

  int waiting() const;
  int busy() const;      // handlers that run
  int replaced() const;  // of these, handlers that have had their time

 private:
  struct Job {
    std::shared_ptr<HttpAnswer> answer;
    size_t client = 0;  // hash of the address
  };
  struct Running {
    const HttpAnswer* answer;
    size_t client;
    bool replaced = false;
  };
  std::list<Job>::iterator next();  // with the lock; end(): none may run now
  void work(std::list<std::thread>::iterator self);
  void start_thread();  // with the lock
  void reap(std::unique_lock<std::mutex>& lock);

  const int base_, per_client_, queue_;
  const Run run_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::list<Job> jobs_;                     // in the order in which they came
  std::vector<Running> running_;            // has room for all there can be
  std::list<std::thread> threads_, ended_;  // the second: have left work(), to be joined
  bool stopping_ = false;
};

}  // namespace weft
