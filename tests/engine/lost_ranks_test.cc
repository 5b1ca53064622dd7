// Ranks in other processes are lost (EngineCore::fail): everything that was submitted ends with the reason, whatever
// state it is in, and what comes later is refused. There is one process here, so the loss is announced by hand.
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "api/core_engine.h"
#include "api/model_info.h"
#include "base/check.h"
#include "runtime/engine_core.h"
#include "support/answers.h"
#include "support/reference_case.h"

namespace weft::testing {
namespace {

constexpr const char* kWhy = "rank 0 (a) of 2: nothing heard from rank 1 (b)";

// An engine whose core can be told that ranks are lost.
struct Fragile {
  std::unique_ptr<CoreEngine> engine;
  EngineCore* core = nullptr;
};

Fragile make_fragile(const std::string& folder, int max_batch_size = 4) {
  auto ranks = std::make_unique<RankTeam>(1);
  auto model = load_model(folder, *ranks, {.dtype = ComputeType::float32});
  WEFT_CHECK(model.ok()) << model.error().to_string();
  auto text = load_text(folder, "");
  WEFT_CHECK(text.ok()) << text.error().to_string();
  ModelInfo info = describe(*model);
  info.takes_images = text->media != nullptr;
  const CoreOptions options{.max_batch_size = max_batch_size, .cache_bytes = int64_t{64} << 20};
  auto core = EngineCore::create(std::move(*model), std::move(ranks), options);
  WEFT_CHECK(core.ok()) << core.error().to_string();
  Fragile made{nullptr, core->get()};
  info.max_seq_len = made.core->options().max_seq_len;
  made.engine =
      std::make_unique<CoreEngine>(std::move(*core), std::move(*text), EngineOptions(), info, SamplingParams());
  return made;
}

// What came of some requests.
class Ends {
 public:
  void submit(Engine& engine, const Request& request) {
    const size_t index = add();
    const auto id = engine.submit(request, [this, index](const Event& event) {
      const std::lock_guard lock(mutex_);
      if (!event.tokens.empty()) ++tokens_;
      if (event.error) errors_[index] = event.error->to_string();
      if (event.last_of_request) ++ended_[index];
      changed_.notify_all();
    });
    if (!id.ok()) refuse(index, id.error());
  }
  void submit_score(Engine& engine, const Request& request) {
    const size_t index = add();
    const auto id = engine.submit_score(request, [this, index](const Result<ScoreResult>& result) {
      const std::lock_guard lock(mutex_);
      if (!result.ok()) errors_[index] = result.error().to_string();
      ++ended_[index];
      changed_.notify_all();
    });
    if (!id.ok()) refuse(index, id.error());
  }
  void wait_for_tokens(int count) {
    std::unique_lock lock(mutex_);
    WEFT_CHECK(changed_.wait_for(lock, std::chrono::seconds(60), [&] { return tokens_ >= count; })) << "no tokens";
  }
  // Each ended once, with this error.
  void expect_all(const std::string& error) {
    std::unique_lock lock(mutex_);
    const auto all = [&] { return std::ranges::count(ended_, 0) == 0; };
    WEFT_CHECK(changed_.wait_for(lock, std::chrono::seconds(60), all)) << "a request has no end";
    EXPECT_EQ(ended_, std::vector<int>(ended_.size(), 1));
    EXPECT_EQ(errors_, std::vector<std::string>(errors_.size(), error));
  }

 private:
  size_t add() {
    const std::lock_guard lock(mutex_);
    ended_.push_back(0), errors_.emplace_back();
    return ended_.size() - 1;
  }
  void refuse(size_t index, const Error& error) {
    const std::lock_guard lock(mutex_);
    errors_[index] = error.to_string(), ++ended_[index];
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<int> ended_;
  std::vector<std::string> errors_;
  int tokens_ = 0;
};

const std::string kError = std::string("unavailable: ") + kWhy;

Request endless(int n = 1) {
  Request request;
  request.prompt = "The sky is", request.max_tokens = 4000, request.n = n, request.sampling.ignore_eos = true;
  return request;
}

void expect_nothing_left(const Engine& engine) {
  const EngineMetrics metrics = engine.metrics();
  EXPECT_EQ(metrics.core.scheduler.running + metrics.core.scheduler.waiting, 0);
}

TEST(LostRanks, EndRunningAndWaitingRequests) {
  Fragile fragile = make_fragile(test_data("golden/llama-3.1"));
  Engine& engine = *fragile.engine;
  Ends ends;
  Request beams = endless(), guided = endless(), best = endless();
  beams.beams = BeamSpec{.width = 3};
  beams.sampling.ignore_eos = false;
  guided.guide = {GuideSpec::Kind::regex, "[a-z ]{3000}", {}};
  best.best_of = 3;
  for (int round = 0; round < 3; ++round)
    for (const Request& request : {endless(), endless(3), beams, guided, best}) ends.submit(engine, request);
  ends.wait_for_tokens(20);
  EXPECT_TRUE(engine.health().ok());
  fragile.core->fail(kWhy);
  ends.expect_all(kError);
  EXPECT_EQ(engine.health().error().to_string(), kError);
  ends.submit(engine, endless()), ends.submit(engine, beams);
  fragile.core->fail("something else");  // the first reason stays
  ends.expect_all(kError);
  engine.cancel(1);
  expect_nothing_left(engine);
}

TEST(LostRanks, EndWhatIsSubmittedAtThatMoment) {
  for (int round = 0; round < 20; ++round) {
    Fragile fragile = make_fragile(test_data("golden/llama-3.1"));
    Ends ends[2];
    std::atomic<bool> enough{false};
    std::vector<std::thread> threads;
    for (Ends& own : ends)
      threads.emplace_back([&] {
        for (int i = 0; i < 40 || !enough; ++i) own.submit(*fragile.engine, endless(1 + i % 3));
      });
    std::this_thread::sleep_for(std::chrono::milliseconds(round));
    fragile.core->fail(kWhy);
    enough = true;
    for (std::thread& thread : threads) thread.join();
    for (Ends& own : ends) own.expect_all(kError);
    expect_nothing_left(*fragile.engine);
  }
}

TEST(LostRanks, EndScores) {
  Fragile fragile = make_fragile(test_data("golden/bert-wordpiece-gamma"));
  fragile.engine->hold();  // none is over before the loss
  Ends ends;
  Request request;
  request.prompt = "The sky is";
  for (int i = 0; i < 10; ++i) ends.submit_score(*fragile.engine, request);
  fragile.core->fail(kWhy);
  ends.expect_all(kError);
  ends.submit_score(*fragile.engine, request);
  ends.expect_all(kError);
  expect_nothing_left(*fragile.engine);
  fragile.engine->release();
}

// Sequences that wait for the features of their images.
TEST(LostRanks, EndRequestsWithImages) {
  const auto reference = read_reference_case("qwen2.5-vl");
  ASSERT_TRUE(reference.ok());
  Fragile fragile = make_fragile(reference->folder);
  Ends ends;
  for (const ReferencePrompt& prompt : reference->prompts) {
    if (prompt.images.empty() || !prompt.videos.empty()) continue;
    Request request = endless(2);
    request.prompt = prompt.text, request.images = prompt.images, request.local_files = true;
    ends.submit(*fragile.engine, request);
  }
  fragile.core->fail(kWhy);
  ends.expect_all(kError);
  expect_nothing_left(*fragile.engine);
}

}  // namespace
}  // namespace weft::testing
