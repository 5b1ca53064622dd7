// A model whose files change: while it is loaded that is an error that names the file, and once it is loaded it
// changes nothing, since no step reads a file.
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>

#include "api/engine.h"
#include "support/answers.h"
#include "support/reference_case.h"

namespace weft::testing {
namespace {

namespace fs = std::filesystem;

// Cases with an embedding of their own, which steps read row by row, in shards and in one file.
class ChangedFiles : public ::testing::TestWithParam<std::tuple<std::string, LoadMode>> {
 protected:
  void SetUp() override {
    const auto reference = read_reference_case(std::get<0>(GetParam()));
    ASSERT_TRUE(reference.ok());
    fs::create_directories(folder_);
    for (const auto& entry : fs::directory_iterator(reference->folder))
      if (entry.is_regular_file()) fs::copy_file(entry.path(), folder_ / entry.path().filename());
    prompt_ = reference->prompts.front().input_ids;
  }
  void TearDown() override { fs::remove_all(folder_); }

  Result<std::unique_ptr<Engine>> load(const Progress& progress = {}) const {
    EngineOptions options;
    options.threads = 2, options.kv_cache_memory = int64_t{64} << 20;
    options.enable_block_reuse = false;  // all rows are read again
    options.load_mode = std::get<1>(GetParam());
    return Engine::load(folder_, options, progress);
  }
  std::vector<int32_t> answer(Engine& engine) const {
    Request request;
    request.prompt_token_ids = prompt_;
    request.max_tokens = 24;
    request.sampling.temperature = 0;
    request.sampling.ignore_eos = true;
    const Answer answer = ask(engine, request);
    EXPECT_EQ(answer.error, "");
    return answer.choices.empty() ? std::vector<int32_t>() : answer.choices[0].ids();
  }
  std::vector<fs::path> weights() const {
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(folder_))
      if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
    return files;
  }
  static std::string maps() {
    std::ifstream file("/proc/self/maps");
    return std::string(std::istreambuf_iterator<char>(file), {});
  }

  const fs::path folder_ = fs::temp_directory_path() / ("weft_changed_files_" + std::to_string(::getpid()));
  std::vector<int32_t> prompt_;
};

INSTANTIATE_TEST_SUITE_P(Models, ChangedFiles,
                         ::testing::Combine(::testing::Values("qwen3-moe", "llama-sharded-bf16", "mistral-swa"),
                                            ::testing::Values(LoadMode::mmap, LoadMode::read)),
                         [](const auto& info) {
                           return as_test_name(std::get<0>(info.param)) + "_" + name_of(std::get<1>(info.param));
                         });

TEST_P(ChangedFiles, WhileServingChangeNoAnswer) {
  auto engine = load();
  ASSERT_TRUE(engine.ok()) << engine.error().to_string();
  const std::vector<int32_t> expected = answer(**engine);
  ASSERT_EQ(expected.size(), 24u);
  EXPECT_EQ(maps().find(folder_.string()), std::string::npos);
  for (const fs::path& file : weights()) {  // rewritten in place
    const auto bytes = fs::file_size(file);
    std::fstream(file, std::ios::in | std::ios::out | std::ios::binary) << std::string(bytes, '\xff');
  }
  EXPECT_EQ(answer(**engine), expected);
  for (const fs::path& file : weights()) fs::resize_file(file, 100);
  EXPECT_EQ(answer(**engine), expected);
  fs::remove_all(folder_);
  EXPECT_EQ(answer(**engine), expected);
  EXPECT_TRUE((*engine)->health().ok());
}

TEST_P(ChangedFiles, WhileLoadingAreAnErrorThatNamesTheFile) {
  std::atomic<bool> done{false};
  const auto shorten = [&](int64_t, int64_t) {
    if (done.exchange(true)) return;
    for (const fs::path& file : weights()) fs::resize_file(file, fs::file_size(file) - 4096);
  };
  const auto engine = load(shorten);
  ASSERT_TRUE(done);
  ASSERT_FALSE(engine.ok());
  EXPECT_EQ(engine.error().code(), Code::data_corrupt);
  EXPECT_NE(engine.error().message().find(".safetensors changed while it was in use"), std::string::npos)
      << engine.error().message();
}

// Weights of one version, and a tokenizer or configuration of another.
TEST_P(ChangedFiles, TextAndWeightsAreOfOneVersion) {
  for (const char* name : {"tokenizer.json", "config.json"}) {
    if (!fs::exists(folder_ / name)) continue;
    std::atomic<bool> done{false};
    const auto engine = load([&](int64_t, int64_t) {
      if (done.exchange(true)) return;
      fs::copy_file(folder_ / name, folder_ / "new");
      fs::rename(folder_ / "new", folder_ / name);
    });
    ASSERT_FALSE(engine.ok()) << name;
    EXPECT_NE(engine.error().message().find(std::string(name) + " changed while it was in use: it was replaced"),
              std::string::npos)
        << engine.error().message();
  }
}

}  // namespace
}  // namespace weft::testing
