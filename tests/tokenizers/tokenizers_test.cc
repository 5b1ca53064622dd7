// tokenizer.model and tekken.json: ids and texts are those that SentencePiece and mistral_common give
// (tests/data/tokenizers/make_tokenizers.py).
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/files.h"
#include "base/json.h"
#include "text/gguf_tokenizer_files.h"
#include "text/tokenizer.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

const std::string kFolder = std::string(WEFT_TEST_DATA) + "/tokenizers/";

using Ids = std::vector<int32_t>;

class OfOtherLibraries : public testing::TestWithParam<const char*> {};

TEST_P(OfOtherLibraries, IdsAreTheirs) {
  const auto tokenizer = Tokenizer::from_folder(kFolder + GetParam());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().to_string();
  const Json cases = read_json_file(kFolder + GetParam() + "/expected.json").value();
  ASSERT_GE(cases.items().size(), 50u);
  for (const Json& one : cases.items()) {
    const std::string& text = one.find("text")->as_string();
    Ids wanted;
    for (const Json& id : one.find("ids")->items()) wanted.push_back(static_cast<int32_t>(id.as_integer()));
    const auto ids = (*tokenizer)->encode(text, {.add_special_tokens = false, .parse_special = false});
    ASSERT_TRUE(ids.ok()) << text;
    EXPECT_EQ(*ids, wanted) << text;
    // SentencePiece shows what is unknown as " ⁇ "; here it has its name, as in transformers. Of a text that begins
    // with its mark for a space, it may drop more than one.
    const std::string& decoded = one.find("decoded")->as_string();
    if (decoded.find("⁇") == std::string::npos && !text.starts_with("▁")) {
      EXPECT_EQ((*tokenizer)->decode(wanted, false), decoded) << text;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Files, OfOtherLibraries,
                         testing::Values("llama-bpe", "unigram", "unigram-bytes", "bpe-nfkc-cf", "bpe-unused",
                                         "unigram-unused", "bpe-equal-scores", "tekken"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

// The same vocabularies as GGUF metadata has them.

// A message of Protocol Buffers: calls field(number, value, bytes) for each of its fields.
template <class Field>
void each_field(std::string_view message, Field field) {
  const auto take = [&](size_t count) {
    const std::string_view taken = message.substr(0, count);
    message.remove_prefix(taken.size());
    return taken;
  };
  const auto varint = [&] {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = static_cast<uint8_t>(take(1)[0]);
      value |= uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return value;
    }
  };
  while (!message.empty()) {
    const uint64_t key = varint();
    uint64_t value = 0;
    std::string_view bytes;
    if (key % 8 == 0) value = varint();
    else bytes = take(key % 8 == 2 ? varint() : key % 8 == 1 ? 8 : 4);
    field(static_cast<int>(key / 8), value, bytes);
  }
}

// What llama.cpp's converter makes of tokenizer.model.
GgufVocabulary gguf_of(const std::string& folder, const std::string& model) {
  GgufVocabulary v;
  v.model = model;
  v.add_space_prefix = true, v.remove_extra_spaces = true;
  const std::string file = read_file(folder + "/tokenizer.model").value();
  each_field(file, [&](int number, uint64_t, std::string_view message) {
    if (number == 1) {
      v.tokens.emplace_back(), v.scores.push_back(0), v.token_types.push_back(1);
      each_field(message, [&](int part, uint64_t value, std::string_view bytes) {
        if (part == 1) v.tokens.back() = bytes;
        if (part == 2) std::memcpy(&v.scores.back(), bytes.data(), sizeof(float));
        if (part == 3) v.token_types.back() = static_cast<int32_t>(value);
      });
    }
    if (number != 3) return;
    each_field(message, [&](int part, uint64_t value, std::string_view bytes) {
      if (part == 2) v.charsmap = bytes;
      if (part == 3) v.add_space_prefix = value != 0;
      if (part == 4) v.remove_extra_spaces = value != 0;
    });
  });
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    if (v.token_types[id] == 2) v.unknown_id = static_cast<int32_t>(id);
    if (v.tokens[id] == "</s>") v.eos_id = static_cast<int32_t>(id);
    if (v.tokens[id] == "<s>") v.bos_id = static_cast<int32_t>(id);
  }
  return v;
}

class UnigramOfGguf : public testing::TestWithParam<const char*> {};

TEST_P(UnigramOfGguf, IdsAreThoseOfSentencePiece) {
  const GgufVocabulary vocabulary = gguf_of(kFolder + GetParam(), "t5");
  const auto tokenizer = Tokenizer::from_gguf(vocabulary);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().to_string();
  const Json cases = read_json_file(kFolder + GetParam() + "/expected.json").value();
  for (const Json& one : cases.items()) {
    const std::string& text = one.find("text")->as_string();
    Ids wanted;
    for (const Json& id : one.find("ids")->items()) wanted.push_back(static_cast<int32_t>(id.as_integer()));
    const auto ids = (*tokenizer)->encode(text, {.add_special_tokens = false, .parse_special = false});
    ASSERT_TRUE(ids.ok()) << text;
    EXPECT_EQ(*ids, wanted) << text;
  }
  // EOS at the end unless the file says otherwise.
  const Ids plain = (*tokenizer)->encode("x", {.add_special_tokens = false}).value();
  Ids ended = plain;
  ended.push_back(vocabulary.eos_id.value());
  EXPECT_EQ((*tokenizer)->encode("x", {}).value(), ended);
}

INSTANTIATE_TEST_SUITE_P(Files, UnigramOfGguf, testing::Values("unigram", "unigram-bytes", "unigram-unused"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

TEST(GgufVocabularies, UnknownNamesAreRefused) {
  GgufVocabulary v = gguf_of(kFolder + "unigram", "rwkv");
  EXPECT_NE(Tokenizer::from_gguf(v).error().message().find("tokenizer.ggml.model \"rwkv\""), std::string::npos);
  v.model = "gpt2", v.pre = "no-such";
  EXPECT_NE(Tokenizer::from_gguf(v).error().message().find("tokenizer.ggml.pre \"no-such\""), std::string::npos);
}

class Folder : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }
  void copy(const std::string& from) const { fs::copy(kFolder + from, folder_, fs::copy_options::recursive); }
  void write(const std::string& name, const std::string& text) const { std::ofstream(folder_ / name) << text; }
  std::shared_ptr<const Tokenizer> load() const {
    auto tokenizer = Tokenizer::from_folder(folder_);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.error().to_string();
    return tokenizer.ok() ? std::move(tokenizer).value() : nullptr;
  }

  const fs::path folder_ = fs::temp_directory_path() / ("weft_tokenizers_" + std::to_string(::getpid()));
};

// SentencePiece's merges by score as those of a tokenizer.json, and back: `weft convert`.
TEST_F(Folder, ScoresAndMergesSayTheSame) {
  GgufVocabulary vocabulary = gguf_of(kFolder + "llama-bpe", "llama");
  vocabulary.add_bos = true;
  const auto scores = Tokenizer::from_gguf(vocabulary);
  ASSERT_TRUE(scores.ok()) << scores.error().to_string();
  ASSERT_TRUE(write_tokenizer_files(vocabulary, {{"default", "{{ bos_token }}"}}, folder_).ok());
  const auto merges = load();
  ASSERT_TRUE(merges);
  const auto back = gguf_vocabulary_of(folder_, vocabulary.tokens.size() + 2);
  ASSERT_TRUE(back.ok()) << back.error().to_string();
  EXPECT_EQ(back->model, "llama");
  EXPECT_EQ(back->bos_id, vocabulary.bos_id);
  EXPECT_EQ(back->unknown_id, vocabulary.unknown_id);
  EXPECT_EQ(back->add_bos, true);
  EXPECT_EQ(back->add_space_prefix, vocabulary.add_space_prefix);
  EXPECT_EQ(back->tokens.back(), "[PAD" + std::to_string(vocabulary.tokens.size() + 1) + "]");
  const auto again = Tokenizer::from_gguf(*back);
  ASSERT_TRUE(again.ok()) << again.error().to_string();
  int as_sentencepiece = 0;
  const Json cases = read_json_file(kFolder + "llama-bpe/expected.json").value();
  for (const Json& one : cases.items()) {
    const std::string& text = one.find("text")->as_string();
    for (const bool special : {true, false}) {
      const EncodeOptions options{.add_special_tokens = special, .parse_special = special};
      const Ids ids = (*scores)->encode(text, options).value();
      EXPECT_EQ(merges->encode(text, options).value(), ids) << text;
      EXPECT_EQ((*again)->encode(text, options).value(), ids) << text;
      EXPECT_EQ(merges->decode(ids, false), (*scores)->decode(ids, false)) << text;
      Ids wanted;
      for (const Json& id : one.find("ids")->items()) wanted.push_back(static_cast<int32_t>(id.as_integer()));
      as_sentencepiece += ids == wanted;
    }
  }
  EXPECT_GE(as_sentencepiece, 50);
  // Fewer rows than tokens, and pieces that no order of merges tells apart.
  EXPECT_NE(gguf_vocabulary_of(folder_, 10).error().message().find("the model rows for 10"), std::string::npos);
  vocabulary.scores.assign(vocabulary.scores.size(), -1.0f);
  const Status alike = write_tokenizer_files(vocabulary, {}, folder_);
  ASSERT_FALSE(alike.ok());
  EXPECT_NE(alike.error().message().find("have the same score"), std::string::npos);
}

// As transformers' LlamaTokenizer: BOS in front unless the configuration says otherwise, control tokens by name.
TEST_F(Folder, ControlTokens) {
  copy("llama-bpe");
  const auto tokenizer = load();
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  const int32_t inst = tokenizer->find_token("[INST]").value();
  EXPECT_TRUE(tokenizer->is_special(inst));
  EXPECT_FALSE(tokenizer->is_special(tokenizer->find_token("<tool>").value()));
  const Ids plain = tokenizer->encode("x", {.add_special_tokens = false}).value();
  Ids wanted = {1, inst};
  wanted.insert(wanted.end(), plain.begin(), plain.end());
  EXPECT_EQ(tokenizer->encode("[INST]x").value(), wanted);
  EXPECT_NE(tokenizer->encode("[INST]x", {.parse_special = false}).value(), wanted);
  write("tokenizer_config.json", R"({"add_bos_token": false, "add_eos_token": true})");
  const Ids ended = load()->encode("[INST]").value();
  EXPECT_EQ(ended, (Ids{inst, 2}));
}

// Fine-tunes name unused pieces anew, and add tokens behind the vocabulary.
TEST_F(Folder, TokensOfTheConfiguration) {
  copy("llama-bpe");
  const int32_t end = load()->vocab_size();
  const std::string id = std::to_string(end);
  write("tokenizer_config.json", R"({"added_tokens_decoder": {"5": {"content": "<|im_start|>", "special": true}, ")" +
                                     id +
                                     R"(": {"content": "<|im_end|>", "special": true}}, "eos_token": "<|im_end|>"})");
  const auto tokenizer = load();
  EXPECT_EQ(tokenizer->encode("<|im_start|><|im_end|>", {.add_special_tokens = false}).value(), (Ids{5, end}));
  EXPECT_EQ(tokenizer->eos_id(), end);
  write("tokenizer_config.json", "{}");
  write("added_tokens.json", R"({"<|im_end|>": )" + id + "}");
  EXPECT_EQ(load()->find_token("<|im_end|>"), end);
}

TEST_F(Folder, TekkenHasSpecialTokensFirst) {
  copy("tekken");
  const auto tokenizer = load();
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(tokenizer->find_token("[TOOL_CALLS]"), 5);
  EXPECT_EQ(tokenizer->find_token("<SPECIAL_19>"), 19);
  EXPECT_EQ(tokenizer->vocab_size(), 900);
  EXPECT_EQ(tokenizer->encode("[INST]A").value(), (Ids{1, 3, 20 + 'A'}));
}

TEST_F(Folder, BrokenFilesAreRefused) {
  const std::string model = read_file(kFolder + "llama-bpe/tokenizer.model").value();
  const std::pair<std::string, const char*> cases[] = {
      {"", "no SentencePiece model"},
      {"x", "no SentencePiece model"},
      {model.substr(0, model.size() / 2), "no SentencePiece model"},
      {model.substr(0, model.size() / 2 + 1), "no SentencePiece model"},
      {"IQ== 0\nIg== 1\n", "tiktoken"},
      {"version https://git-lfs.github.com/spec/v1\n", "LFS"},
  };
  for (const auto& [text, words] : cases) {
    write("tokenizer.model", text);
    const auto tokenizer = Tokenizer::from_folder(folder_);
    ASSERT_FALSE(tokenizer.ok()) << text.size() << " bytes";
    EXPECT_NE(tokenizer.error().message().find(words), std::string::npos) << tokenizer.error().message();
  }
  fs::remove(folder_ / "tokenizer.model");
  for (const char* text : {"x", "{}", R"({"config": {"pattern": "x", "default_vocab_size": 99}, "vocab": []})"}) {
    write("tekken.json", text);
    const auto tokenizer = Tokenizer::from_folder(folder_);
    ASSERT_FALSE(tokenizer.ok()) << text;
    EXPECT_NE(tokenizer.error().message().find("tekken.json"), std::string::npos) << tokenizer.error().message();
  }
}

// Whatever the model: an id is a place in a table, and one more than the largest is a number of 31 bits.
TEST_F(Folder, IdsThatNoVocabularyReachesAreRefused) {
  const std::string models[] = {
      R"({"type": "BPE", "vocab": {"a": 0, "b": ID}, "merges": []})",
      R"({"type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
          "vocab": {"a": 0, "b": ID}})",
      R"({"type": "WordLevel", "unk_token": "a", "vocab": {"a": 0, "b": ID}})",
  };
  for (std::string model : models)
    for (const char* id : {"16777216", "2147483647", "4294967295"}) {
      std::string text = model;
      text.replace(text.find("ID"), 2, id);
      write("tokenizer.json", R"({"version": "1.0", "added_tokens": [], "model": )" + text + "}");
      const auto tokenizer = Tokenizer::from_folder(folder_);
      ASSERT_FALSE(tokenizer.ok()) << text;
      EXPECT_NE(tokenizer.error().message().find("which is too large"), std::string::npos)
          << tokenizer.error().message();
      EXPECT_NE(tokenizer.error().message().find(id), std::string::npos) << tokenizer.error().message();
    }
}

}  // namespace
}  // namespace weft
