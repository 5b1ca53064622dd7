// What of a folder's files counts: tokenizers, and the context that a configuration states.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "api/engine.h"
#include "support/reference_case.h"
#include "text/tokenizer.h"

namespace weft::testing {
namespace {

namespace fs = std::filesystem;

class ModelFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto reference = read_reference_case("qwen3");
    ASSERT_TRUE(reference.ok());
    fs::create_directories(folder_);
    for (const auto& entry : fs::directory_iterator(reference->folder))
      fs::create_symlink(fs::absolute(entry.path()), folder_ / entry.path().filename());
  }
  void TearDown() override { fs::remove_all(folder_); }

  void write(const std::string& name, const std::string& text) const {
    fs::remove(folder_ / name);
    std::ofstream(folder_ / name) << text;
  }
  // Loads the whole model.
  Status load(int max_seq_len = 0) const {
    EngineOptions options;
    options.threads = 1, options.kv_cache_memory = int64_t{64} << 20, options.max_seq_len = max_seq_len;
    const auto engine = Engine::load(folder_, options);
    return engine.ok() ? Status() : engine.error();
  }

  const fs::path folder_ = fs::temp_directory_path() / ("weft_model_folder_" + std::to_string(::getpid()));
};

// Ids from transformers' PreTrainedTokenizerFast on the same folder: the vocabulary has 512 entries.
TEST_F(ModelFolder, TokensThatOnlyTheConfigAdds) {
  write("tokenizer_config.json", R"({"added_tokens_decoder": {
      "700": {"content": "<|second|>", "special": true}, "600": {"content": "<|first|>", "special": true},
      "501": {"content": "<|eot_id|>", "special": true}}})");
  const auto tokenizer = Tokenizer::from_folder(folder_);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().to_string();
  const auto ids = (*tokenizer)->encode("a<|first|><|second|>", {});
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(*ids, (std::vector<int32_t>{499, 64, 512, 513}));
  EXPECT_EQ((*tokenizer)->find_token("<|eot_id|>"), 501);
}

TEST_F(ModelFolder, OtherKindsAloneAreRefusedByName) {
  fs::remove(folder_ / "tokenizer.json");
  EXPECT_TRUE(load().ok());  // no tokenizer at all: token ids are taken
  for (const char* name : {"tokenizer.model", "tekken.json"}) {
    write(name, "x");
    const Status status = load();
    ASSERT_FALSE(status.ok());
    EXPECT_NE(status.error().message().find(name), std::string::npos) << status.error().message();
    fs::remove(folder_ / name);
  }
}

// The model states 4096; BERT's positions are learned.
TEST_F(ModelFolder, ALongerContextThanTheModelsIsAWarning) {
  EXPECT_TRUE(load(1 << 13).ok());
  const auto bert = read_reference_case("bert-wordpiece-gamma");
  ASSERT_TRUE(bert.ok());
  EngineOptions options;
  options.threads = 1, options.max_seq_len = 1 << 13;
  const auto engine = Engine::load(bert->folder, options);
  ASSERT_FALSE(engine.ok());
  EXPECT_NE(engine.error().message().find("max_position_embeddings in config.json"), std::string::npos)
      << engine.error().message();
}

}  // namespace
}  // namespace weft::testing
