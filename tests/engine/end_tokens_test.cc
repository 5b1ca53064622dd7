// Where answers end: at every token that a model's files name, and at special tokens that a stop string names. A bias
// makes the small model say the token in question.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "api/text_side.h"
#include "base/files.h"
#include "support/answers.h"
#include "support/reference_case.h"

namespace weft::testing {
namespace {

namespace fs = std::filesystem;

constexpr int32_t kEndOfText = 500, kEot = 501, kHeader = 502, kImStart = 504, kImEnd = 505;

class EndTokens : public ::testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  // The small model, with a file of the name replaced by this text (empty: left out).
  std::unique_ptr<Engine> load(const std::vector<std::pair<std::string, std::string>>& files) {
    const auto reference = read_reference_case("llama-3.1");
    EXPECT_TRUE(reference.ok());
    for (const auto& entry : fs::directory_iterator(reference->folder))
      fs::create_symlink(fs::absolute(entry.path()), folder_ / entry.path().filename());
    for (const auto& [name, text] : files) {
      fs::remove(folder_ / name);
      if (!text.empty()) std::ofstream(folder_ / name) << text;
    }
    EngineOptions options;
    options.threads = 1, options.kv_cache_memory = int64_t{4} << 20;
    auto engine = Engine::load(folder_, options);
    EXPECT_TRUE(engine.ok()) << engine.error().to_string();
    return engine.ok() ? std::move(engine).value() : nullptr;
  }
  static std::string config_with(const char* eos) {
    const auto reference = read_reference_case("llama-3.1");
    Json config = read_json_file(reference->folder + "/config.json").value();
    config.set("eos_token_id", parse_json(eos).value());
    return config.dump();
  }
  // What becomes of an answer whose every token is this one.
  static Choice say(Engine& engine, int32_t token, std::vector<std::string> stop = {},
                    const std::function<void(Request&)>& change = {}) {
    Request request;
    request.prompt = "hi", request.max_tokens = 3, request.stop = std::move(stop);
    request.sampling.temperature = 0, request.sampling.logit_bias = {{token, 100.0f}};
    if (change) change(request);
    const Answer answer = ask(engine, request);
    EXPECT_EQ(answer.error, "");
    return answer.choices.at(0);
  }
  static bool ends(Engine& engine, int32_t token) {
    const Choice choice = say(engine, token);
    EXPECT_EQ(choice.tokens.size(), choice.finish == FinishReason::stop ? 1u : 3u);
    return choice.finish == FinishReason::stop;
  }

  const fs::path folder_ = fs::temp_directory_path() / ("weft_end_tokens_" + std::to_string(::getpid()));
};

TEST_F(EndTokens, OfEveryFile) {
  const auto engine = load({{"config.json", config_with("502")},
                            {"generation_config.json", R"({"eos_token_id": [500]})"},
                            {"tokenizer_config.json", R"({"eos_token": {"content": "<|im_end|>"}})"}});
  EXPECT_TRUE(ends(*engine, kEndOfText) && ends(*engine, kHeader) && ends(*engine, kImEnd));
  EXPECT_FALSE(ends(*engine, kEot)) << "no file names it";
}

TEST_F(EndTokens, BrokenFilesTakeNoOthersAway) {
  const auto engine = load({{"config.json", config_with(R"("x")")},
                            {"generation_config.json", R"({"eos_token_id": [500, 99999]})"},
                            {"tokenizer_config.json", R"({"eos_token": "<|no such token|>"})"},
                            {"special_tokens_map.json", R"({"eos_token": "<|eot_id|>"})"}});
  EXPECT_TRUE(ends(*engine, kEndOfText) && ends(*engine, kEot));
  EXPECT_FALSE(ends(*engine, kImEnd));
}

TEST_F(EndTokens, StopStringsThatNameSpecialTokens) {
  const auto engine = load({});
  Choice choice = say(*engine, kImStart, {"x", "<|im_start|>"});
  EXPECT_EQ(choice.finish, FinishReason::stop);
  EXPECT_EQ(choice.tokens.size(), 1u);
  EXPECT_EQ(choice.text, "");
  EXPECT_EQ(choice.stop_reason.dump(), R"("<|im_start|>")");
  choice = say(*engine, kImStart, {"<|im_start|>"}, [](Request& r) { r.include_stop_str_in_output = true; });
  EXPECT_EQ(choice.text, "<|im_start|>");
  // Special tokens that are shown are text like any other.
  choice = say(*engine, kImStart, {"<|im_start|>"}, [](Request& r) { r.skip_special_tokens = false; });
  EXPECT_EQ(choice.finish, FinishReason::stop);
  EXPECT_EQ(choice.stop_reason.dump(), R"("<|im_start|>")");
  EXPECT_EQ(choice.text, "");
  // The model's own end, which ignore_eos alone would pass over.
  const auto ignore = [](Request& r) { r.sampling.ignore_eos = true; };
  EXPECT_EQ(say(*engine, kEot, {}, ignore).finish, FinishReason::length);
  EXPECT_EQ(say(*engine, kEot, {"<|eot_id|>"}, ignore).finish, FinishReason::stop);
  EXPECT_EQ(say(*engine, kImStart, {"im_start"}).finish, FinishReason::length) << "a part of its name is not it";
}

// A function's name goes into the prompt as it is.
TEST_F(EndTokens, ANameOfAFunctionMayHoldNone) {
  const std::string added = R"({"added_tokens_decoder": {"600": {"content": "lookup", "special": true}}})";
  const auto engine = load({{"tokenizer_config.json", added}});
  ASSERT_TRUE(engine);
  Request request;
  request.messages = parse_json(R"([{"role": "user", "content": "hi"}])").value();
  request.chat_template = "{{ messages[0].content }}";
  const auto named = [](const char* name) {
    return Json::array({Json::object({{"type", "function"}, {"function", Json::object({{"name", name}})}})});
  };
  request.tools = named("look");
  EXPECT_TRUE(engine->render_chat(request).ok());
  for (const char* name : {"lookup", "my_lookup"}) {
    request.tools = named(name);
    const auto text = engine->render_chat(request);
    ASSERT_FALSE(text.ok()) << name;
    EXPECT_NE(text.error().message().find("holds a special token"), std::string::npos) << text.error().message();
  }
}

// llama.cpp's list (llama-vocab.cpp, special_eog_ids), for vocabularies in GGUF files.
TEST(NamedEndTokens, OfGgufFiles) {
  const auto ends_of = [](std::vector<std::string> tokens) {
    GgufVocabulary vocabulary;
    vocabulary.model = "gpt2", vocabulary.pre = "qwen2";
    tokens.insert(tokens.begin(), {"a", "b"});
    vocabulary.token_types.assign(tokens.size(), 3);
    vocabulary.token_types[0] = vocabulary.token_types[1] = 1;
    vocabulary.tokens = tokens;
    const auto tokenizer = Tokenizer::from_gguf(std::move(vocabulary));
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.error().to_string();
    std::vector<std::string> names;
    for (const int32_t id : named_end_ids(**tokenizer)) names.push_back(tokens[static_cast<size_t>(id)]);
    std::ranges::sort(names);
    return names;
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(ends_of({"<|im_start|>", "<|im_end|>", "<|endoftext|>"}), (Names{"<|endoftext|>", "<|im_end|>"}));
  EXPECT_EQ(ends_of({"<|eot_id|>", "<|eom_id|>", "<|python_tag|>"}), (Names{"<|eom_id|>", "<|eot_id|>"}));
  EXPECT_EQ(ends_of({"<end_of_turn>", "<start_of_turn>"}), (Names{"<end_of_turn>"}));
  EXPECT_EQ(ends_of({"<|end|>", "<|user|>"}), (Names{"<|end|>"}));
  EXPECT_EQ(ends_of({"<|end|>", "<|return|>", "<|call|>"}), (Names{"<|call|>", "<|return|>"}));
  EXPECT_EQ(ends_of({"<|system|>"}), Names{});
}

}  // namespace
}  // namespace weft::testing
