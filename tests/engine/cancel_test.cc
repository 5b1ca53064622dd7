// Cancelling from every side: from the sink itself, from the command line's interrupt, against a result that is just
// coming; and sinks whose captures call the engine when they go.
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <future>
#include <mutex>
#include <thread>

#include "base/check.h"
#include "support/answers.h"
#include "support/reference_case.h"
#include "terminal.h"

namespace weft::testing {
namespace {

class Cancel : public ::testing::Test {
 protected:
  void SetUp() override {
    auto reference = read_reference_case("llama-3.1");
    ASSERT_TRUE(reference.ok());
    prompt_ = reference->prompts[0].input_ids;
    EngineOptions o;
    o.dtype = ComputeType::float32, o.threads = 1, o.kv_cache_memory = int64_t{64} << 20;
    auto engine = Engine::load(reference->folder, o);
    ASSERT_TRUE(engine.ok()) << engine.error().to_string();
    engine_ = std::move(engine).value();
  }
  Request request(int n) const {
    Request r;
    r.prompt_token_ids = prompt_, r.max_tokens = 100, r.n = n, r.sampling.temperature = 0, r.sampling.ignore_eos = true;
    return r;
  }
  // Whatever hangs ends the test program here.
  template <class Condition>
  void wait_for(Condition condition) {
    std::unique_lock lock(mutex_);
    WEFT_CHECK(changed_.wait_for(lock, std::chrono::seconds(60), condition)) << "nothing more comes";
  }
  void expect_nothing_left() {
    EXPECT_EQ(ask(*engine_, request(1)).error, "");  // steps in flight have been committed then
    const EngineMetrics metrics = engine_->metrics();
    EXPECT_EQ(metrics.core.blocks().used, 0);
    EXPECT_EQ(metrics.core.scheduler.running + metrics.core.scheduler.waiting, 0);
  }

  std::vector<int32_t> prompt_;
  std::unique_ptr<Engine> engine_;
  std::mutex mutex_;
  std::condition_variable changed_;
};

TEST_F(Cancel, FromTheSinkItself) {
  for (const int n : {1, 3}) {
    RequestId id = 0;
    std::vector<FinishReason> ends;
    int last = 0;
    engine_->hold();  // until `id` is known to the sink
    auto submitted = engine_->submit(request(n), [&](const Event& event) {
      if (event.choice == 0 && event.finish == FinishReason::none) engine_->cancel(id);
      const std::lock_guard lock(mutex_);
      if (event.finish != FinishReason::none) ends.push_back(event.finish);
      EXPECT_EQ(last, 0) << "an event behind the last";
      last += event.last_of_request;
      changed_.notify_all();
    });
    ASSERT_TRUE(submitted.ok()) << submitted.error().to_string();
    id = *submitted;
    engine_->release();
    wait_for([&] { return last == 1; });
    EXPECT_EQ(ends, std::vector<FinishReason>(static_cast<size_t>(n), FinishReason::cancelled));
  }
  expect_nothing_left();
}

TEST_F(Cancel, AnInterruptEndsAStreamedAnswer) {
  std::atomic<bool> interrupted{false};
  Request long_answer = request(1);  // that is not over before the interrupt is seen
  long_answer.max_tokens = 5000;
  auto done = std::async(std::launch::async, [&] {
    return stream_answer(
        *engine_, long_answer, [&](const std::string&) { interrupted = true; }, [&] { return interrupted.load(); });
  });
  WEFT_CHECK(done.wait_for(std::chrono::seconds(60)) == std::future_status::ready) << "the interrupt hangs";
  const auto answer = done.get();
  ASSERT_TRUE(answer.ok()) << answer.error().to_string();
  EXPECT_EQ(answer->finish, FinishReason::cancelled);
  expect_nothing_left();
}

// Each score brings one result, whether the cancel or the result is first.
TEST_F(Cancel, AScoreEndsOnce) {
  constexpr int kScores = 300;
  std::vector<std::atomic<int>> results(kScores);
  std::atomic<int> cancelled{0}, all{0};
  for (int i = 0; i < kScores; ++i) {
    const auto id = engine_->submit_score(request(1), [&, i](const Result<ScoreResult>& result) {
      cancelled += !result.ok() && result.error().code() == Code::cancelled;
      ++results[static_cast<size_t>(i)];
      const std::lock_guard lock(mutex_);
      ++all;
      changed_.notify_all();
    });
    ASSERT_TRUE(id.ok());
    std::this_thread::sleep_for(std::chrono::microseconds(i * 17 % 3000));
    engine_->cancel(*id);
  }
  wait_for([&] { return all >= kScores; });
  expect_nothing_left();
  for (const std::atomic<int>& count : results) EXPECT_EQ(count, 1);
  EXPECT_EQ(engine_->metrics().requests.cancelled, cancelled);
}

// The engine's own locks are not held when it lets a sink go.
TEST_F(Cancel, WhatASinkHoldsMayCallTheEngine) {
  std::atomic<int> gone{0};
  const auto submit = [&] {
    const auto guard = std::shared_ptr<int>(new int(0), [&](const int* counter) {
      delete counter;
      EXPECT_GE(engine_->metrics().requests.entered, 1);
      const std::lock_guard lock(mutex_);
      ++gone;
      changed_.notify_all();
    });
    auto id = engine_->submit(request(1), [guard](const Event&) {});
    EXPECT_TRUE(id.ok());
    return *id;
  };
  submit();
  wait_for([&] { return gone == 1; });
  auto cancelling = std::async(std::launch::async, [&] { engine_->cancel(submit()); });
  WEFT_CHECK(cancelling.wait_for(std::chrono::seconds(60)) == std::future_status::ready) << "cancel() hangs";
  wait_for([&] { return gone == 2; });
}

TEST_F(Cancel, DestroyingTheEngineLetsEverybodyGo) {
  constexpr int kRequests = 6;
  std::atomic<int> events{0}, sinks{0};
  for (int i = 0; i < kRequests; ++i) {
    ++sinks;
    const auto guard = std::shared_ptr<void>(nullptr, [&](void*) { --sinks; });
    const auto id = engine_->submit(request(2), [&, guard](const Event&) {
      const std::lock_guard lock(mutex_);
      ++events;
      changed_.notify_all();
    });
    ASSERT_TRUE(id.ok());
  }
  wait_for([&] { return events >= 20; });
  engine_.reset();
  const int then = events;
  EXPECT_EQ(sinks, 0);
  EXPECT_LT(then, kRequests * 2 * 100) << "all had ended already";
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(events, then);
}

}  // namespace
}  // namespace weft::testing
