// What generation_config.json says about sampling becomes the default of requests, where it makes sense.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "api/engine.h"
#include "support/reference_case.h"

namespace weft::testing {
namespace {

namespace fs = std::filesystem;

class GenerationConfigFile : public ::testing::Test {
 protected:
  // The defaults of a small model with this generation_config.json.
  SamplingParams defaults(const std::string& config, GenerationConfig use = GenerationConfig::automatic) {
    const auto reference = read_reference_case("llama-3.1");
    EXPECT_TRUE(reference.ok());
    for (const auto& entry : fs::directory_iterator(reference->folder))
      if (entry.path().filename() != "generation_config.json")
        fs::create_symlink(fs::absolute(entry.path()), folder_ / entry.path().filename());
    std::ofstream(folder_ / "generation_config.json") << config;
    EngineOptions options;
    options.generation_config = use;
    options.threads = 1, options.kv_cache_memory = int64_t{4} << 20;
    const auto engine = Engine::load(folder_, options);
    EXPECT_TRUE(engine.ok()) << engine.error().to_string();
    return engine.ok() ? (*engine)->default_sampling() : SamplingParams();
  }

  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  const fs::path folder_ = fs::temp_directory_path() / ("weft_generation_config_" + std::to_string(::getpid()));
};

TEST_F(GenerationConfigFile, SetsDefaults) {
  const SamplingParams got = defaults(
      R"({"temperature": 0.5, "top_p": 0.75, "top_k": 20, "min_p": 0.125, "repetition_penalty": 1.25,
          "presence_penalty": 1.5, "no_repeat_ngram_size": 3})");
  EXPECT_EQ(got.temperature, 0.5f);
  EXPECT_EQ(got.top_p, 0.75f);
  EXPECT_EQ(got.top_k, 20);
  EXPECT_EQ(got.min_p, 0.125f);
  EXPECT_EQ(got.repetition_penalty, 1.25f);
  // For requests alone.
  EXPECT_EQ(got.presence_penalty, 0.0f);
  EXPECT_EQ(got.no_repeat_ngram_size, 0);
}

// As transformers' generate(): greedy.
TEST_F(GenerationConfigFile, DoSampleFalse) {
  const SamplingParams got = defaults(R"({"do_sample": false, "temperature": 0.5, "top_p": 0.75})");
  EXPECT_EQ(got.temperature, 0.0f);
  EXPECT_EQ(got.top_p, 0.75f);  // of requests that bring a temperature
}

TEST_F(GenerationConfigFile, DoSampleTrueOrAbsent) {
  EXPECT_EQ(defaults(R"({"do_sample": true, "temperature": 0.5})").temperature, 0.5f);
  TearDown(), SetUp();
  EXPECT_EQ(defaults(R"({"do_sample": null})").temperature, 1.0f);
}

TEST_F(GenerationConfigFile, NotUsed) {
  const SamplingParams got =
      defaults(R"({"do_sample": false, "temperature": 0.5, "top_p": 0.75})", GenerationConfig::none);
  EXPECT_EQ(got.temperature, 1.0f);
  EXPECT_EQ(got.top_p, 1.0f);
}

TEST_F(GenerationConfigFile, ValuesThatMakeNoSenseAreIgnored) {
  const SamplingParams got =
      defaults(R"({"temperature": -1, "top_p": 0, "top_k": 3e9, "min_p": "x", "repetition_penalty": null})");
  EXPECT_EQ(got.temperature, 1.0f);
  EXPECT_EQ(got.top_p, 1.0f);
  EXPECT_EQ(got.top_k, 0);
  EXPECT_EQ(got.min_p, 0.0f);
  EXPECT_EQ(got.repetition_penalty, 1.0f);
}

}  // namespace
}  // namespace weft::testing
