// The cache's tier: what one engine leaves in a folder, another one finds, whatever its ranks; answers have the bits
// that they have without it, and nothing that is wrong with the folder's files gets into them.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "support/answers.h"
#include "support/reference_case.h"

namespace weft::testing {
namespace {

namespace fs = std::filesystem;

class CacheTierFolder : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "weft_tier_XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    auto reference = read_reference_case(GetParam());
    ASSERT_TRUE(reference.ok());
    model_ = reference->folder;
    for (const auto& prompt : reference->prompts) {
      Request& request = requests_.emplace_back();
      // Long enough for some blocks, and behind a window.
      for (int i = 0; i < 5; ++i)
        request.prompt_token_ids = joined(request.prompt_token_ids.value_or(std::vector<int32_t>()), prompt.input_ids);
      request.prompt_token_ids->resize(std::min<size_t>(request.prompt_token_ids->size(), 90));
      request.max_tokens = 6, request.sampling.temperature = 0.8, request.seed = 5;
      request.sampling.ignore_eos = true, request.sampling.logprobs = 2;
    }
    wanted_ = answers({});
  }
  void TearDown() override { fs::remove_all(folder_); }

  static std::vector<int32_t> joined(std::vector<int32_t> a, const std::vector<int32_t>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }
  EngineOptions options() const {
    EngineOptions o;
    o.threads = 1, o.tokens_per_block = 16, o.kv_cache_memory = int64_t{64} << 20, o.max_seq_len = 128;
    return o;
  }
  EngineOptions with_tier(EngineOptions o) const {
    o.kv_cache_tier = folder_, o.kv_cache_tier_bytes = int64_t{1} << 30, o.kv_cache_tier_use = TierUse::always;
    return o;
  }
  // What the answers are, and how many tokens of the prompts came out of the cache.
  std::vector<std::string> answers(const EngineOptions& changed, int* cached = nullptr,
                                   EngineMetrics* metrics = nullptr) {
    EngineOptions o = changed;
    if (o.tokens_per_block != 16) o = options();
    auto engine = Engine::load(model_, o);
    EXPECT_TRUE(engine.ok()) << (engine.ok() ? "" : engine.error().to_string());
    std::vector<std::string> texts;
    if (cached) *cached = 0;
    for (const Request& request : requests_) {
      const Answer answer = ask(**engine, request);
      texts.push_back(answer.exact_text());
      if (cached) *cached += answer.usage.cached_tokens;
    }
    if (metrics) *metrics = (*engine)->metrics();
    return texts;
  }
  std::vector<fs::path> blocks() const {
    std::vector<fs::path> files;
    for (const auto& entry : fs::recursive_directory_iterator(folder_))
      if (entry.is_regular_file() && entry.path().filename().string().size() > 64) files.push_back(entry.path());
    return files;
  }

  std::string folder_, model_;
  std::vector<Request> requests_;
  std::vector<std::string> wanted_;
};

TEST_P(CacheTierFolder, BlocksOutliveTheEngine) {
  int cached = 0;
  EXPECT_EQ(answers(with_tier(options()), &cached), wanted_);
  const int at_first = cached;
  ASSERT_FALSE(blocks().empty());
  EngineMetrics metrics;
  EXPECT_EQ(answers(with_tier(options()), &cached, &metrics), wanted_);
  EXPECT_GT(cached, at_first + 16);
  EXPECT_GT(metrics.core.tier.imports, 0u);
  EXPECT_EQ(metrics.core.tier.failed_imports, 0u);
  EXPECT_EQ(metrics.core.tier.store.torn, 0);
}

// A folder that ranks of one layout have filled serves those of another one.
TEST_P(CacheTierFolder, RanksMayDiffer) {
  const auto layout = [&](int tensor, int stages, bool attention_dp) {
    EngineOptions o = options();
    o.tp_size = tensor, o.pp_size = stages, o.enable_attention_dp = attention_dp;
    return with_tier(o);
  };
  int cached = 0;
  EXPECT_EQ(answers(layout(2, 1, false)), wanted_);
  for (const EngineOptions& other :
       {layout(1, 1, false), layout(1, 2, false), layout(2, 2, true), layout(4, 1, false)}) {
    EngineMetrics metrics;
    EXPECT_EQ(answers(other, &cached, &metrics), wanted_);
    EXPECT_GT(metrics.core.tier.imports, 0u) << other.tp_size << " x " << other.pp_size;
  }
}

TEST_P(CacheTierFolder, DamagedFilesAreNotUsed) {
  EXPECT_EQ(answers(with_tier(options())), wanted_);
  size_t number = 0;
  for (const fs::path& path : blocks()) {
    const auto bytes = fs::file_size(path);
    if (number++ % 4 == 0) {
      fs::resize_file(path, bytes / 2);
    } else if (number % 4 == 1) {
      fs::remove(path);
      ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
    } else if (number % 4 == 2) {
      fs::remove(path);
      fs::create_symlink("/dev/zero", path);
    } else {
      std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(static_cast<std::streamoff>(bytes - bytes / 3));
      file.put('\x55').put('\x33');
    }
  }
  EngineMetrics metrics;
  EXPECT_EQ(answers(with_tier(options()), nullptr, &metrics), wanted_);
  EXPECT_GT(metrics.core.tier.store.torn, 0);
  EXPECT_GT(metrics.core.tier.failed_imports, 0u);
  int cached = 0;  // a file is written again once a read has found the damage
  for (int round = 0; round < 3; ++round) EXPECT_EQ(answers(with_tier(options()), &cached), wanted_);
  EXPECT_GT(cached, 16);
}

// Other weights, or the same in other types, have blocks of their own.
// A limit of the process on the size of files stands for a full disk.
TEST_P(CacheTierFolder, AFullDiskChangesNoAnswer) {
  std::signal(SIGXFSZ, SIG_IGN);  // as the command does
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{1024, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  EngineMetrics metrics;
  const auto texts = answers(with_tier(options()), nullptr, &metrics);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(texts, wanted_);
  EXPECT_TRUE(blocks().empty());
  EXPECT_GT(metrics.core.tier.store.write_errors, 0);
}

TEST_P(CacheTierFolder, OtherOptionsFindNothing) {
  EXPECT_EQ(answers(with_tier(options())), wanted_);
  EngineOptions o = with_tier(options());
  o.kv_cache_dtype = KvCacheType::int8;
  EngineMetrics metrics;
  answers(o, nullptr, &metrics);
  EXPECT_EQ(metrics.core.tier.imports, 0u);
  EXPECT_EQ(metrics.core.tier.store.hits, 0);
}

// A sequence that its grammar ends is written as well, though no step follows.
TEST_P(CacheTierFolder, WhatEndsBehindAStepIsWritten) {
  EngineOptions o = with_tier(options());
  o.overlap_scheduler = false;
  auto engine = Engine::load(model_, o);
  ASSERT_TRUE(engine.ok());
  Request request = requests_.front();
  request.guide.kind = GuideSpec::Kind::regex, request.guide.text = "[ab]";
  request.max_tokens = 20;
  ASSERT_EQ(ask(**engine, request).error, "");
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while ((*engine)->metrics().core.tier.store.writes == 0 && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_GT((*engine)->metrics().core.tier.store.writes, 0);
}

// A cache with room for little more than one sequence: blocks come back for each of them.
TEST_P(CacheTierFolder, SmallCache) {
  auto engine = Engine::load(model_, options());
  ASSERT_TRUE(engine.ok());
  EngineOptions o = with_tier(options());
  o.kv_cache_memory = (*engine)->info().kv_bytes_per_token * 16 * 16 + (int64_t{1} << 19);
  EngineMetrics metrics;
  for (int round = 0; round < 3; ++round) EXPECT_EQ(answers(o, nullptr, &metrics), wanted_);
  EXPECT_GT(metrics.core.tier.imports, 0u);
}

INSTANTIATE_TEST_SUITE_P(Models, CacheTierFolder,
                         ::testing::Values("llama-3.1", "gemma3-1b", "deepseek-v3", "qwen3-moe", "llama4"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name)
                             if (!isalnum(c)) c = '_';
                           return name;
                         });

TEST(CacheTier, WhatItCannotBeIsAnError) {
  auto reference = read_reference_case("llama-3.1");
  ASSERT_TRUE(reference.ok());
  EngineOptions o;
  o.kv_cache_tier = "/proc/weft", o.kv_cache_tier_bytes = 1 << 20;
  auto engine = Engine::load(reference->folder, o);
  ASSERT_FALSE(engine.ok());
  EXPECT_NE(engine.error().to_string().find("/proc/weft"), std::string::npos) << engine.error().to_string();
  const auto error_of = [&](const EngineOptions& changed) {
    const auto refused = Engine::load(reference->folder, changed);
    EXPECT_FALSE(refused.ok());
    return refused.ok() ? "" : refused.error().to_string();
  };
  o.kv_cache_tier = fs::temp_directory_path().string(), o.enable_block_reuse = false;
  EXPECT_NE(error_of(o).find("--enable-block-reuse"), std::string::npos);
  o.enable_block_reuse = true, o.kv_cache_tier_bytes = 0;
  EXPECT_NE(error_of(o).find("no room"), std::string::npos);
  o.kv_cache_tier_bytes = 100;
  EXPECT_NE(error_of(o).find("less than one block"), std::string::npos);
  o.kv_cache_tier.clear(), o.kv_cache_tier_bytes = 0, o.kv_cache_tier_use = TierUse::always;
  EXPECT_NE(error_of(o).find("--kv-cache-tier-use always"), std::string::npos);
}

}  // namespace
}  // namespace weft::testing
