// Engine and server under mixed load from many threads, in every way in which an engine spreads over threads: clients
// that wait, stream, leave, constrain and read metrics, and users of the engine itself; then the end while answers run.
// Made for ThreadSanitizer (the `tsan` preset), which reports what is not ordered; without it, answers and books are
// checked all the same.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "support/reference_case.h"
#include "threads/served.h"

namespace weft::testing {
namespace {

namespace fs = std::filesystem;

struct Setup {
  const char* name;
  const char* model;
  void (*change)(EngineOptions&);
};

const Setup kSetups[] = {
    // More threads than a step of these models has work for, n-grams, a plugin, grammars.
    {"Threads", "llama-3.1",
     [](EngineOptions& o) {
       o.threads = 3, o.speculation.method = DraftMethod::ngram, o.speculation.ngram_shared = true;
       o.logits_processors = {TOKEN_LISTS};
     }},
    {"NoOverlap", "llama-3.1", [](EngineOptions& o) { o.overlap_scheduler = false; }},
    {"TensorRanks", "llama-3.1", [](EngineOptions& o) { o.tp_size = 2, o.threads = 4; }},
    {"Stages", "llama-3.1", [](EngineOptions& o) { o.pp_size = 2, o.threads = 4; }},
    {"ExpertsOnRanksInStages", "qwen3-moe", [](EngineOptions& o) { o.tp_size = o.pp_size = 2, o.threads = 4; }},
    {"AttentionOfRanks", "deepseek-v3",
     [](EngineOptions& o) { o.tp_size = 2, o.enable_attention_dp = true, o.ttft_target_ms = 20; }},
    {"DraftsOfAModel", "llama-3.1",
     [](EngineOptions& o) {
       o.tp_size = 2, o.speculation.num_tokens = 3;
       o.speculation.method = DraftMethod::eagle3, o.speculation.model = test_data("drafts/eagle3-llama-3.1");
     }},
    {"DraftsBesideTheWalk", "llama-3.1",
     [](EngineOptions& o) {
       o.speculation.method = DraftMethod::eagle3, o.speculation.model = test_data("drafts/eagle3-llama-3.1");
       o.speculation.one_model = false, o.speculation.threads = 2, o.speculation.num_tokens = 2;
     }},
    {"Tier", "gemma3-1b", [](EngineOptions& o) { o.kv_cache_tier_use = TierUse::always; }},
    {"Images", "qwen2.5-vl",
     [](EngineOptions& o) { o.kv_cache_memory = int64_t{8} << 20, o.max_seq_len = 512, o.max_num_tokens = 128; }},
};

class MixedLoad : public ::testing::TestWithParam<Setup> {
 protected:
  void SetUp() override {
    auto reference = read_reference_case(GetParam().model);
    ASSERT_TRUE(reference.ok()) << reference.error().to_string();
    EngineOptions options = small_engine();
    GetParam().change(options);
    if (options.kv_cache_tier_use == TierUse::always) {
      std::string name = (fs::temp_directory_path() / "weft_threads_XXXXXX").string();
      ASSERT_NE(::mkdtemp(name.data()), nullptr);
      options.kv_cache_tier = tier_ = name, options.kv_cache_tier_bytes = int64_t{4} << 20;
    }
    served_ = Served::load(reference->folder, options);
    ASSERT_TRUE(served_);
    for (const ReferencePrompt& prompt : reference->prompts) {
      if (!prompt.has_images() || !prompt.text) continue;
      Request request;
      request.prompt = prompt.text, request.images = prompt.images, request.videos = prompt.videos;
      request.local_files = true, request.max_tokens = 4;
      images_.push_back(std::move(request));
    }
  }
  void TearDown() override {
    served_.reset();
    if (!tier_.empty()) fs::remove_all(tier_);
  }

  std::unique_ptr<Served> served_;
  std::vector<Request> images_;
  std::string tier_;
};

TEST_P(MixedLoad, LeavesNothingBehind) {
  Visitors visitors;
  add_clients(visitors, served_->port());
  add_readers(visitors, served_->port());
  add_users(visitors, served_->engine(), images_);
  if (!served_->engine().options().logits_processors.empty())
    visitors.add([port = served_->port()](unsigned turn) {
      const PlainReply reply =
          ask(port, "/v1/completions",
              R"({"prompt":"p","max_tokens":4,"n":3,"logits_processors":[{"name":"ban_tokens","params":{"tokens":[)" +
                  std::to_string(3 + turn % 100) + "]}}]}");
      EXPECT_EQ(reply.status, 200) << reply.body;
    });
  visitors.run_for(std::chrono::seconds(4));
  served_->expect_idle();
  const CoreMetrics core = served_->engine().metrics().core;
  EXPECT_GT(visitors.done(), 12u);
  EXPECT_EQ(core.tier.store.writes > 0, !tier_.empty());
  EXPECT_EQ(core.images_encoded > 0, !images_.empty());
}

TEST_P(MixedLoad, MayEndAtAnyTime) {
  std::vector<std::thread> clients;
  for (unsigned i = 0; i < 4; ++i)
    clients.emplace_back([&, i] {
      const FuzzClient client(served_->port());
      client.send(
          post_once("/v1/completions", R"({"prompt":"ab ab","max_tokens":100,"ignore_eos":true,"n":2,"stream":)" +
                                           std::string(i % 2 ? "true}" : "false}")));
      (void)client.read_all();  // whatever it is: an answer, or the end of the connection
    });
  // Their sinks get no last event.
  for (const Request& image : images_) EXPECT_TRUE(served_->engine().submit(image, [](const Event&) {}).ok());
  Request request;
  request.prompt_token_ids = std::vector<int32_t>{5, 6, 7}, request.n = 3, request.sampling.ignore_eos = true;
  EXPECT_TRUE(served_->engine().submit(request, [](const Event&) {}).ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  served_->end_server();
  for (std::thread& client : clients) client.join();
  served_.reset();
}

INSTANTIATE_TEST_SUITE_P(Setups, MixedLoad, ::testing::ValuesIn(kSetups),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace weft::testing
