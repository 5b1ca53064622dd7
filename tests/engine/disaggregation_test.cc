// Two engines: one computes prompts, the other fetches their blocks and generates. Answers have the bits that one
// engine gives, whatever is between the two, and also when there is nothing.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/files.h"
#include "base/json.h"
#include "checkpoint/hf_config.h"
#include "models/vision.h"
#include "support/answers.h"
#include "support/reference_case.h"

namespace weft::testing {
namespace {

class TwoServers : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto reference = read_reference_case(GetParam());
    ASSERT_TRUE(reference.ok());
    model_ = reference->folder;
    for (const auto& prompt : reference->prompts) {
      Request request;
      if (prompt.has_images()) {
        request.prompt = prompt.text, request.images = prompt.images, request.videos = prompt.videos;
        request.local_files = true;
      } else {
        // Long enough for some blocks, and behind a window.
        std::vector<int32_t> ids;
        for (int i = 0; i < 5; ++i) ids.insert(ids.end(), prompt.input_ids.begin(), prompt.input_ids.end());
        ids.resize(std::min<size_t>(ids.size(), 90));
        request.prompt_token_ids = ids;
      }
      request.max_tokens = 6, request.sampling.temperature = 0.8, request.seed = 5;
      request.sampling.ignore_eos = true, request.sampling.logprobs = 2;
      requests_.push_back(request);
    }
    requests_.push_back(requests_[0]), requests_.back().n = 3;
    requests_.push_back(requests_[0]), requests_.back().beams = BeamSpec{.width = 2};
    requests_.back().sampling.temperature = 0;
    requests_.push_back(requests_[0]), requests_.back().sampling.prompt_logprobs = 1;
    requests_.push_back(requests_[0]), requests_.back().cache_salt = "pepper";
    if (requests_[0].prompt) requests_.erase(requests_.end() - 2);  // an image's tokens have no logprobs
    const auto one = load(options());
    for (const Request& request : requests_) EXPECT_EQ(ask(*one, request).error, "");
    wanted_ = answers(*one);
  }

  EngineOptions options() const {
    EngineOptions o;
    o.threads = 1, o.tokens_per_block = 16, o.kv_cache_memory = int64_t{64} << 20, o.max_seq_len = 512;
    return o;
  }
  EngineOptions context() const {
    EngineOptions o = options();
    o.role = ServerRole::context, o.kv_transfer = "127.0.0.1:0";
    return o;
  }
  EngineOptions generation() const {
    EngineOptions o = options();
    o.role = ServerRole::generation;
    return o;
  }
  std::unique_ptr<Engine> load(const EngineOptions& o) const {
    auto engine = Engine::load(model_, o);
    EXPECT_TRUE(engine.ok()) << (engine.ok() ? "" : engine.error().to_string());
    return engine.ok() ? std::move(*engine) : nullptr;
  }
  std::vector<std::string> answers(Engine& engine, const std::vector<std::string>& servers = {},
                                   bool together = false) {
    std::vector<Request> requests = requests_;
    ++turn_;  // nothing of an earlier turn is in a cache
    for (Request& request : requests) request.context_servers = servers, request.cache_salt += std::to_string(turn_);
    std::vector<std::string> texts;
    if (together) {
      for (const Answer& answer : ask(engine, requests)) texts.push_back(answer.exact_text());
      return texts;
    }
    for (const Request& request : requests) texts.push_back(ask(engine, request).exact_text());
    return texts;
  }

  std::string model_;
  std::vector<Request> requests_;
  std::vector<std::string> wanted_;
  int turn_ = 0;
};

// A step that mentions what has ended may still be in flight.
void expect_idle(const Engine& engine) {
  CoreMetrics core = engine.metrics().core;
  for (int i = 0; i < 500 && (core.blocks().used > 0 || core.transfer.provided.active > 0); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    core = engine.metrics().core;
  }
  EXPECT_EQ(core.blocks().used, 0);
  EXPECT_EQ(core.transfer.fetched.active, 0);
  EXPECT_EQ(core.transfer.provided.active, 0);
  EXPECT_EQ(core.scheduler.running + core.scheduler.waiting, 0);
}

TEST_P(TwoServers, AnswerLikeOne) {
  const auto from = load(context()), to = load(generation());
  EXPECT_EQ(answers(*to, {from->transfer_address()}), wanted_);
  const TransferMetrics fetched = to->metrics().core.transfer, provided = from->metrics().core.transfer;
  EXPECT_GT(fetched.fetched.blocks, 0u);
  EXPECT_EQ(fetched.fetched.failures, 0u);
  EXPECT_EQ(fetched.fetched.complete, fetched.fetched.fetches);
  EXPECT_EQ(provided.provided.prompts, fetched.fetched.fetches);
  EXPECT_EQ(from->metrics().core.images_encoded > 0, !requests_[0].images.empty());
  EXPECT_LE(to->metrics().core.images_encoded, fetched.fetched.local) << "features come with the blocks";
  expect_idle(*to), expect_idle(*from);
}

TEST_P(TwoServers, AllAtOnce) {
  const auto from = load(context()), to = load(generation());
  EXPECT_EQ(answers(*to, {from->transfer_address()}, true), wanted_);
  EXPECT_EQ(to->metrics().core.transfer.fetched.failures, 0u);
  expect_idle(*to), expect_idle(*from);
}

// Ranks, block sizes and steps of the two sides have nothing to do with each other.
TEST_P(TwoServers, MayDiffer) {
  const auto with = [](EngineOptions o, int tensor, int stages, bool attention_dp, int tokens_per_block) {
    o.tp_size = tensor, o.pp_size = stages, o.enable_attention_dp = attention_dp;
    o.tokens_per_block = tokens_per_block, o.max_num_tokens = tensor == 1 ? 2048 : 48;
    return o;
  };
  const auto small = load(with(generation(), 1, 1, false, 16)), wide = load(with(generation(), 2, 1, false, 32));
  for (const EngineOptions& o :
       {with(context(), 2, 1, false, 16), with(context(), 1, 2, false, 32), with(context(), 2, 1, true, 64)}) {
    const auto from = load(o);
    for (Engine* to : {small.get(), wide.get()}) {
      EXPECT_EQ(answers(*to, {from->transfer_address()}, o.tp_size == 1), wanted_);
      EXPECT_EQ(to->metrics().core.transfer.fetched.failures, 0u);
      expect_idle(*to);
    }
    EXPECT_GT(from->metrics().core.transfer.provided.bytes, 0u);
    expect_idle(*from);
  }
}

// Blocks of another type are refused, or converted where that is asked for.
TEST_P(TwoServers, TypesOfTheCacheDiffer) {
  EngineOptions eight = generation();
  eight.kv_cache_dtype = KvCacheType::int8;
  EngineOptions alone = options();
  alone.kv_cache_dtype = KvCacheType::int8;
  const std::vector<std::string> own = answers(*load(alone));
  const auto from = load(context());
  {
    const auto to = load(eight);
    EXPECT_EQ(answers(*to, {from->transfer_address()}), own);
    EXPECT_EQ(to->metrics().core.transfer.fetched.blocks, 0u);
    EXPECT_NE(to->identity(), from->identity());
  }
  eight.kv_transfer_convert = true;
  const auto to = load(eight);
  for (const Request& request : requests_) {
    Request remote = request;
    remote.context_servers = {from->transfer_address()}, remote.cache_salt += "convert";
    EXPECT_EQ(ask(*to, remote).error, "");
  }
  EXPECT_GT(to->metrics().core.transfer.fetched.complete, 0u);
  EXPECT_EQ(to->metrics().core.transfer.fetched.failures, 0u);
  expect_idle(*to), expect_idle(*from);
}

TEST_P(TwoServers, NobodyThere) {
  const auto to = load(generation());
  EXPECT_EQ(answers(*to, {"127.0.0.1:1", "127.0.0.1:2"}), wanted_);
  EXPECT_GT(to->metrics().core.transfer.fetched.failures, 0u);
  expect_idle(*to);
}

// A client of the generation server takes its turns at the context server as well: it does not wait there behind all
// prompts of another one.
TEST_P(TwoServers, ClientsTakeTurnsAtTheOther) {
  EngineOptions one_at_a_time = context();
  one_at_a_time.max_batch_size = 1, one_at_a_time.max_num_tokens = 32;
  const auto from = load(one_at_a_time), to = load(generation());
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::string> ended;
  std::vector<int32_t> prompt(200);  // some blocks, and some steps
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<int32_t>(20 + i % 40);
  from->hold();
  constexpr size_t kOfA = 16;
  for (size_t i = 0; i <= kOfA; ++i) {
    Request request;
    request.prompt_token_ids = prompt;
    request.client = i < kOfA ? "a" : "b", request.max_tokens = 1;
    request.context_servers = {from->transfer_address()}, request.cache_salt = "turns" + std::to_string(i);
    const auto id = to->submit(request, [&, client = request.client](const Event& event) {
      if (!event.last_of_request) return;
      EXPECT_FALSE(event.error) << event.error->message();
      const std::lock_guard lock(mutex);
      ended.push_back(client);
      changed.notify_all();
    });
    ASSERT_TRUE(id.ok()) << id.error().message();
    const auto queued = [&] { return from->metrics().core.scheduler.queued_requests; };
    const int all = static_cast<int>(i) + 1;
    for (int wait = 0; queued() < all && wait < 2000; ++wait) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    ASSERT_EQ(queued(), all) << "b's prompt is the last to come";
  }
  from->release();
  std::unique_lock lock(mutex);
  ASSERT_TRUE(changed.wait_for(lock, std::chrono::seconds(60), [&] { return ended.size() == kOfA + 1; }));
  // The context server takes the first of each client, then those that are left. On their way answers may pass some
  // others, but not most of them.
  EXPECT_LT(std::ranges::find(ended, "b") - ended.begin(), 10);
  lock.unlock();
  EXPECT_EQ(to->metrics().core.transfer.fetched.failures, 0u);
  expect_idle(*to), expect_idle(*from);
}

// Pixels and grids of another server are what a tower reads, or they are refused.
TEST(ImagesOfAnotherServer, FitTheTower) {
  for (const char* name : {"qwen2.5-vl", "qwen2-vl", "llava-next-mistral", "nvila"}) {
    const auto text = read_file(test_data("golden/" + std::string(name) + "/config.json"));
    ASSERT_TRUE(text.ok());
    const auto tower = models::build_vision(HfConfig(*parse_json(*text)));
    ASSERT_TRUE(tower.ok() && *tower) << name;
    PreparedMedia media;
    EXPECT_FALSE((*tower)->fits(media)) << name << ": nothing";
    media.shape = {1, 3, 7, 7}, media.pixel_values.resize(147), media.height = media.width = 7;
    media.grid_frames = 1, media.grid_rows = media.grid_columns = 1000;
    EXPECT_FALSE((*tower)->fits(media)) << name << ": a large grid of few pixels";
    media.tile_rows = media.tile_columns = 1 << 20;
    EXPECT_FALSE((*tower)->fits(media)) << name << ": many tiles";
  }
}

INSTANTIATE_TEST_SUITE_P(Models, TwoServers,
                         ::testing::Values("llama-3.1", "gemma3-1b", "deepseek-v3", "qwen3-moe", "llama4",
                                           "mllama-text", "qwen2.5-vl"),
                         test_name);

}  // namespace
}  // namespace weft::testing
