// What the engine admits: bounds of the queue, deadlines, priorities; choices that share what is the same for all; and
// many sequences that enter beside a running stream.
#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>

#include "base/check.h"
#include "base/clock.h"
#include "sampling/philox.h"
#include "support/answers.h"
#include "support/reference_case.h"

namespace weft::testing {
namespace {

class Admission : public ::testing::Test {
 protected:
  void load(const AdmissionLimits& limits, int slots = 4) {
    auto reference = read_reference_case("llama-3.1");
    ASSERT_TRUE(reference.ok());
    prompt_ = reference->prompts[0].input_ids;
    EngineOptions o;
    o.dtype = ComputeType::float32, o.threads = 1, o.kv_cache_memory = int64_t{64} << 20;
    o.max_batch_size = slots, o.admission = limits;
    auto engine = Engine::load(reference->folder, o);
    ASSERT_TRUE(engine.ok()) << engine.error().to_string();
    engine_ = std::move(engine).value();
  }
  Request request(int tokens, int n = 1) const {
    Request r;
    r.prompt_token_ids = prompt_, r.max_tokens = tokens, r.n = n, r.sampling.temperature = 0;
    r.sampling.ignore_eos = true;
    return r;
  }
  Result<RequestId> submit(Request request) {
    return engine_->submit(std::move(request), [this](const Event& event) {
      const std::lock_guard lock(mutex_);
      tokens_ += event.tokens.size(), ended_ += event.last_of_request;
      if (event.error) errors_.push_back(*event.error);
      changed_.notify_all();
    });
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
    EXPECT_EQ(metrics.core.scheduler.queued_requests, 0);
  }

  std::vector<int32_t> prompt_;
  std::unique_ptr<Engine> engine_;
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t tokens_ = 0;
  int ended_ = 0;
  std::vector<Error> errors_;
};

TEST_F(Admission, TheQueueRefusesOneTooMany) {
  load({.max_queue = 5, .max_queue_per_client = 3});
  engine_->hold();
  int taken = 0;
  for (const char* client : {"a", "a", "a", "a", "b", "b", "b", ""}) {
    Request one = request(2);
    one.client = client;
    const auto id = submit(one);
    taken += id.ok();
    if (id.ok()) continue;
    EXPECT_EQ(id.error().code(), Code::resource_exhausted);
    const bool own = taken == 3;
    EXPECT_NE(id.error().message().find(own ? "3 requests of this client" : "5 requests are waiting"),
              std::string::npos)
        << id.error().message();
    EXPECT_NE(id.error().message().find(own ? "--max-queue-per-client is 3" : "--max-queue is 5"), std::string::npos);
  }
  EXPECT_EQ(taken, 5);
  EXPECT_EQ(engine_->metrics().core.scheduler.queued_requests, 5);
  EXPECT_GE(engine_->retry_seconds(), 1);
  engine_->release();
  wait_for([&] { return ended_ == 5; });
  expect_nothing_left();
}

TEST_F(Admission, DeadlinesEndWhatRunsWaitsAndIsHeld) {
  load({.request_timeout_s = 30}, 2);
  for (int i = 0; i < 4; ++i) {  // two run, two wait
    Request one = request(100000);
    one.timeout_s = 0.3;
    one.n = i == 3 ? 2 : 1;
    ASSERT_TRUE(submit(one).ok());
  }
  wait_for([&] { return ended_ == 4; });
  EXPECT_EQ(errors_.size(), 5u) << "one for each choice";
  for (const Error& error : errors_) EXPECT_EQ(error.code(), Code::deadline_exceeded) << error.message();
  engine_->hold();  // no step runs
  Request held = request(5);
  held.timeout_s = 0.05;
  ASSERT_TRUE(submit(held).ok());
  wait_for([&] { return ended_ == 5; });
  EXPECT_EQ(errors_.size(), 6u);
  engine_->release();
  expect_nothing_left();
}

TEST_F(Admission, TheServersLimitHoldsBesideTheRequests) {
  load({.request_timeout_s = 0.2});
  Request one = request(100000);
  one.timeout_s = 50;
  const double begin = seconds();
  ASSERT_TRUE(submit(one).ok());
  wait_for([&] { return ended_ == 1; });
  EXPECT_LT(seconds() - begin, 30);
  ASSERT_EQ(errors_.size(), 1u);
  expect_nothing_left();
}

// A request that claims more than it may is answered, in its turn.
TEST_F(Admission, PrioritiesAboveTheLimitCountAsTheLimit) {
  for (const int limit : {100, 35}) {
    load({.max_client_priority = limit}, 1);
    engine_->hold();
    std::vector<int> order;
    for (const int priority : {35, 100}) {
      Request one = request(2);
      one.priority = priority;
      const auto id = engine_->submit(one, [&, priority](const Event& event) {
        const std::lock_guard lock(mutex_);
        if (event.last_of_request) order.push_back(priority);
        changed_.notify_all();
      });
      ASSERT_TRUE(id.ok()) << id.error().message();
    }
    engine_->release();
    wait_for([&] { return order.size() == 2; });
    EXPECT_EQ(order.front(), limit == 100 ? 100 : 35) << "with --max-client-priority " << limit;
    expect_nothing_left();
  }
}

// Choice i is the answer to a request of its own with the seed that is derived for it; prompt logprobs come once.
TEST_F(Admission, ChoicesShareParametersAndKeepTheirSeeds) {
  load({});
  Request many = request(12, 5);
  many.sampling.temperature = 1.5f, many.sampling.logprobs = 1, many.sampling.prompt_logprobs = 1, many.seed = 11;
  many.sampling.bad_words = {{prompt_[0]}};
  const Answer all = ask(*engine_, many);
  ASSERT_EQ(all.choices.size(), 5u);
  for (uint32_t i = 0; i < 5; ++i) {
    Request one = many;
    one.n = 1, one.seed = derive_seed(11, i);
    EXPECT_EQ(ask(*engine_, one).choices[0].ids(), all.choices[i].ids()) << i;
  }
}

// Thousands of sequences of one client enter and are cancelled; a stream of another goes on meanwhile, and each of its
// tokens is there as if it was alone.
TEST_F(Admission, ManySequencesEnterBesideAStream) {
  load({}, 8);
  Request stream = request(3000);
  stream.client = "good";
  const Answer alone = ask(*engine_, stream);
  std::vector<double> gaps;
  double last = 0;
  std::vector<int32_t> got;
  bool done = false;
  const auto id = engine_->submit(stream, [&](const Event& event) {
    const std::lock_guard lock(mutex_);
    const double now = seconds();
    if (last > 0) gaps.push_back(now - last);
    last = now;
    for (const TokenInfo& token : event.tokens) got.push_back(token.token);
    done |= event.last_of_request;
    changed_.notify_all();
  });
  ASSERT_TRUE(id.ok());
  wait_for([&] { return got.size() > 20; });
  std::vector<RequestId> heavy;
  size_t before = 0, after = 0;
  {
    const std::lock_guard lock(mutex_);
    before = got.size();
  }
  const double begin = seconds();
  for (int i = 0; i < 24; ++i) {
    Request one = request(400, 128);
    one.client = "heavy", one.prompt_token_ids->push_back(i);
    const auto entered = submit(one);
    ASSERT_TRUE(entered.ok());
    heavy.push_back(*entered);
  }
  const double took = seconds() - begin;
  {
    const std::lock_guard lock(mutex_);
    after = got.size();
  }
  EXPECT_TRUE(after > before || done) << "the stream stood still while sequences entered";
  for (const RequestId request : heavy) engine_->cancel(request);
  wait_for([&] { return done && ended_ == 24; });
  EXPECT_EQ(got, alone.choices[0].ids());
  std::sort(gaps.begin(), gaps.end());
  std::printf(
      "3072 sequences entered in %.1f ms, %zu tokens meanwhile; gaps of the stream: p50 %.3f, p99 %.3f, "
      "largest %.3f ms\n",
      took * 1e3, after - before, gaps[gaps.size() / 2] * 1e3, gaps[gaps.size() * 99 / 100] * 1e3, gaps.back() * 1e3);
  expect_nothing_left();
}

}  // namespace
}  // namespace weft::testing
