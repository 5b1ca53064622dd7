// `weft convert`: a model is the same in GGUF's form and in Hugging Face's, to the bit: tensors, answers, token ids.
#include "api/convert.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "api/engine.h"
#include "base/files.h"
#include "base/folder.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf_file.h"
#include "checkpoint/gguf_folder.h"
#include "support/answers.h"
#include "support/reference_case.h"
#include "text/tokenizer.h"

namespace weft::testing {
namespace {

namespace fs = std::filesystem;

class Scratch {
 public:
  Scratch() { fs::create_directories(path_); }
  ~Scratch() { fs::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ / name; }

 private:
  const fs::path path_ = fs::temp_directory_path() / ("weft_convert_" + std::to_string(::getpid()));
};

std::string problem(const std::string& model, const std::string& out, const ConvertOptions& options = {}) {
  const auto report = convert_model(model, out, options);
  return report.ok() ? "ok" : report.error().to_string();
}

// What the model answers to the prompt, with the bits of its log-probabilities.
std::string answer(const std::string& model, const std::vector<int32_t>& prompt) {
  EngineOptions options;
  options.threads = 2, options.kv_cache_memory = int64_t{64} << 20, options.dtype = ComputeType::float32;
  options.dequantize = true;
  auto engine = Engine::load(model, options);
  if (!engine.ok()) return engine.error().to_string();
  Request request;
  request.prompt_token_ids = prompt;
  request.max_tokens = 6;
  request.sampling.temperature = 0;
  request.sampling.ignore_eos = true;
  request.sampling.logprobs = 5;
  const Answer found = ask(**engine, request);
  return found.error.empty() ? found.exact_text() : found.error;
}

// "same", or the first tensor that is not.
std::string compare_tensors(const std::string& before, const std::string& after, const std::string& ignored) {
  const auto a = Checkpoint::open(before), b = Checkpoint::open(after);
  if (!a.ok()) return a.error().to_string();
  if (!b.ok()) return b.error().to_string();
  for (const auto& [name, tensor] : (*a)->tensors()) {
    if (!ignored.empty() && name.starts_with(ignored)) continue;
    const TensorInfo* const other = (*b)->find(name);
    if (!other) return name + " is absent";
    if (tensor.type != other->type || tensor.shape != other->shape) return name + " has another type or shape";
    if (tensor.data.size() != other->data.size() ||
        std::memcmp(tensor.data.data(), other->data.data(), tensor.data.size()) != 0)
      return name + " has other values";
  }
  for (const auto& [name, tensor] : (*b)->tensors())
    if (!(*a)->find(name)) return name + " is new";
  return "same";
}

struct Case {
  std::string name;
  std::string left_out;  // what the tensors that a GGUF file leaves out begin with
};

class Converted : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Models, Converted,
                         ::testing::Values(Case{"llama-3.1", ""}, Case{"llama-sharded-bf16", ""}, Case{"mixtral", ""},
                                           Case{"gemma3-1b", ""}, Case{"qwen3", ""}, Case{"qwen3-moe", ""},
                                           Case{"nemotron", ""}, Case{"deepseek-v3", "model.layers.3."}),
                         [](const auto& info) { return as_test_name(info.param.name); });

TEST_P(Converted, ThereAndBackIsTheSameModel) {
  const Scratch scratch;
  const auto reference = read_reference_case(GetParam().name);
  ASSERT_TRUE(reference.ok());
  const std::string &folder = reference->folder, file = scratch / "model.gguf", back = scratch / "back";
  ASSERT_EQ(problem(folder, file), "ok");
  ASSERT_EQ(problem(file, back), "ok");
  EXPECT_EQ(compare_tensors(folder, back, GetParam().left_out), "same");

  const std::vector<int32_t>& prompt = reference->prompts.front().input_ids;
  const std::string expected = answer(folder, prompt);
  EXPECT_EQ(answer(file, prompt), expected);
  EXPECT_EQ(answer(back, prompt), expected);
  // Nothing is left beside what was asked for.
  EXPECT_EQ(names_in(scratch / "").size(), 2u);
}

TEST_P(Converted, TextsHaveTheSameIds) {
  const Scratch scratch;
  const std::string folder = test_data("golden/" + GetParam().name);
  ASSERT_EQ(problem(folder, scratch / "model.gguf"), "ok");
  ASSERT_EQ(problem(scratch / "model.gguf", scratch / "back"), "ok");
  const auto file = Engine::load(scratch / "model.gguf", {.threads = 1, .kv_cache_memory = int64_t{64} << 20});
  ASSERT_TRUE(file.ok()) << file.error().to_string();
  const auto before = Tokenizer::from_folder(folder), back = Tokenizer::from_folder(scratch / "back");
  ASSERT_TRUE(before.ok() && back.ok());
  for (const char* text : {"Hello world, 12345 don't!", "  na\u00efve \u4f60\u597d  ", "<|eot_id|>a\n\n\tb<|im_end|>",
                           "def f(x):\n\treturn x**2\n", ""})
    for (const bool special : {true, false}) {
      const EncodeOptions options{.add_special_tokens = special, .parse_special = special};
      const std::vector<int32_t> ids = (*before)->encode(text, options).value();
      EXPECT_EQ((*back)->encode(text, options).value(), ids) << text;
      EXPECT_EQ((*file)->tokenizer()->encode(text, options).value(), ids) << text;
      EXPECT_EQ((*back)->decode(ids, false), (*before)->decode(ids, false)) << text;
    }
  EXPECT_EQ((*back)->bos_id(), (*before)->bos_id());
  EXPECT_EQ((*back)->eos_id(), (*before)->eos_id());
}

// Files of llama.cpp's own converter's form (tests/data/checkpoint; their tokenizers are no working ones), whose
// weights lie beside them as they were before.
Status folder_of(const std::string& name, const std::string& folder) {
  WEFT_TRY(const auto gguf, Checkpoint::open(test_data("checkpoint/" + name + ".gguf")));
  fs::create_directories(folder);
  WEFT_TRY(const GgufFolderReport report, write_gguf_folder(*gguf, folder, {.widen = StorageType::f32}));
  EXPECT_GT(report.tensors, 0);
  return {};
}

std::string compare_values(const Checkpoint& before, const Checkpoint& after) {
  for (const auto& [name, tensor] : before.tensors()) {
    const TensorInfo* const found = after.find(name);
    if (!found) return name + " is absent";
    if (found->shape != tensor.shape) return name + " has another shape";
    if (read_all(*found).value() != read_all(tensor).value()) return name + " has other values";
  }
  return before.tensors().size() == after.tensors().size() ? "same" : "there are new tensors";
}

class FromGguf : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Files, FromGguf,
                         ::testing::Values("gemma3", "mixtral", "nemotron", "qwen2", "qwen3", "qwen3moe"), test_name);

TEST_P(FromGguf, TheFolderHasTheWeights) {
  const Scratch scratch;
  const std::string name = GetParam(), folder = scratch / "folder";
  ASSERT_TRUE(folder_of(name, folder).ok());
  fs::create_directories(scratch / "before");
  fs::copy_file(test_data("checkpoint/" + name + ".safetensors"), scratch / "before/model.safetensors");
  fs::copy_file(folder + "/config.json", scratch / "before/config.json");
  const auto before = Checkpoint::open(scratch / "before"), after = Checkpoint::open(folder);
  ASSERT_TRUE(before.ok()) << before.error().to_string();
  ASSERT_TRUE(after.ok()) << after.error().to_string();
  EXPECT_EQ(compare_values(**before, **after), "same");
}

// Forms that only one side has: latent attention's halves, Llama 4's experts in one tensor, Nemotron-NAS's layers.
TEST(Convert, OtherFormsComeBack) {
  const Scratch scratch;
  for (const std::string name : {"deepseek2", "llama4", "deci"}) {
    const std::string folder = scratch / name, file = scratch / (name + ".gguf");
    ASSERT_TRUE(folder_of(name, folder).ok()) << name;
    const auto middle = Checkpoint::open(folder);
    ASSERT_TRUE(middle.ok()) << name;
    auto written = write_gguf_file(**middle, HfConfig::of(**middle), {}, file, {});
    ASSERT_TRUE(written.ok()) << name << " " << written.error().to_string();
    ASSERT_TRUE(written->writer.publish().ok());
    const auto before = Checkpoint::open(test_data("checkpoint/" + name + ".gguf")), after = Checkpoint::open(file);
    ASSERT_TRUE(before.ok() && after.ok()) << name;
    EXPECT_EQ(compare_values(**before, **after), "same") << name;
    for (const auto& [key, value] : (*before)->config().members()) {
      if (key.find("token_id") != std::string::npos) continue;  // of the tokenizer, which is not written here
      EXPECT_EQ((*after)->config().find(key) ? (*after)->config().find(key)->dump() : "absent", value.dump()) << key;
    }
  }
}

TEST(Convert, WhatCannotBeDoneIsAnError) {
  const Scratch scratch;
  const std::string llama = test_data("golden/llama-3.1"), file = scratch / "m.gguf";
  const auto expect = [&](const std::string& model, const std::string& out, const char* words,
                          const ConvertOptions& options = {}) {
    const std::string found = problem(model, out, options);
    EXPECT_NE(found.find(words), std::string::npos) << found;
  };
  ASSERT_EQ(problem(llama, file), "ok");
  expect(llama, file, "is there already");
  expect(llama, scratch / "folder", "OUT must end in .gguf");
  expect(llama, scratch / "no/where.gguf", "cannot write");
  expect(llama, scratch / "n.gguf", "--dtype is for GGUF files", {.dtype = DType::f32});
  expect(file, scratch / "n.gguf", "is a GGUF file already");
  expect(file, llama, "is not empty");
  expect(file, test_data("README.md"), "is a file");
  expect(scratch / "none", scratch / "n.gguf", "none");
  const Status narrow = folder_of("llama", scratch / "rope");
  ASSERT_FALSE(narrow.ok());
  EXPECT_NE(narrow.error().message().find("rope_freqs.weight holds divisors that are not those of Llama 3"),
            std::string::npos);
  fs::remove_all(scratch / "rope");
  // Architectures and settings that the form does not have, and quantised sources.
  expect(test_data("golden/olmo2"), scratch / "n.gguf", "Olmo2ForCausalLM is not written as a GGUF file");
  expect(test_data("golden/qwen2-swa"), scratch / "n.gguf", "in a window of 32");
  expect(test_data("golden/mistral-swa"), scratch / "n.gguf", "in a window of 32");
  expect(test_data("golden/decilm-51b"), scratch / "n.gguf", "ffn.replace_with_linear");
  expect(test_data("golden/ct-w4a16-actorder"), scratch / "n.gguf", "mlp.down_proj.weight is stored as quantised");
  EXPECT_EQ(names_in(scratch / ""), std::vector<std::string>{"m.gguf"});
}

// tests/tools/check_gguf_blocks.py and the tests of gguf_blocks.h are about the values.
TEST(Convert, BlocksAreForTheLayersProducts) {
  const Scratch scratch;
  const std::string folder = test_data("golden/llama-sharded-bf16"), plain = scratch / "plain.gguf";
  ASSERT_EQ(problem(folder, plain), "ok");
  // From the folder and from its GGUF file: the same tensors.
  for (const std::string& source : {folder, plain}) {
    const std::string file = scratch / "q8.gguf";
    fs::remove(file);
    const auto report = convert_model(source, file, {.blocks = StorageType::q8_0});
    ASSERT_TRUE(report.ok()) << report.error().to_string();
    EXPECT_EQ(report->encoded, 4 * 7 - 4);  // down_proj has rows of 248 values, which are no whole blocks
    EXPECT_EQ(std::ranges::count(report->notes, "stored otherwise: blk.2.ffn_down.weight: bfloat16"), 1);
    const auto before = Checkpoint::open(folder), after = Checkpoint::open(file);
    ASSERT_TRUE(before.ok() && after.ok());
    for (const auto& [name, tensor] : (*before)->tensors()) {
      const TensorInfo* const found = (*after)->find(name);
      ASSERT_TRUE(found) << name;
      const bool product = name.find("_proj.") != std::string::npos && tensor.cols() % 32 == 0;
      EXPECT_EQ(found->type, product                    ? StorageType::q8_0
                             : tensor.shape.size() == 1 ? StorageType::f32
                                                        : StorageType::bf16)
          << name;
      const std::vector<float> values = read_all(tensor).value(), read = read_all(*found).value();
      for (size_t i = 0; i < values.size(); ++i) {
        float largest = 0;  // of the block
        for (size_t j = i / 32 * 32; product && j < i / 32 * 32 + 32; ++j)
          largest = std::max(largest, std::fabs(values[j]));
        ASSERT_LE(std::fabs(values[i] - read[i]), largest / 127 * 0.57f) << name << " " << i;
      }
    }
    EXPECT_NE(answer(file, {1, 2, 3}).find("tokens"), std::string::npos);
  }
  EXPECT_NE(problem(folder, scratch / "folder", {.blocks = StorageType::q8_0}).find("OUT must end in .gguf"),
            std::string::npos);
  EXPECT_NE(problem(scratch / "q8.gguf", scratch / "n.gguf", {.blocks = StorageType::q4_k}).find("is stored as q8_0"),
            std::string::npos);
}

TEST(Convert, ATokenizerThatGgufCannotExpressIsAnError) {
  const Scratch scratch;
  fs::copy(test_data("golden/qwen3"), scratch / "model", fs::copy_options::recursive);
  const std::string path = scratch / "model/tokenizer.json", good = read_file(path).value();
  const auto expect = [&](const std::string& from, const std::string& to, const char* words) {
    std::string text = good;
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    ASSERT_TRUE(write_file(path, text.replace(at, from.size(), to)).ok());
    const std::string found = problem(scratch / "model", scratch / "m.gguf");
    EXPECT_NE(found.find(words), std::string::npos) << found;
  };
  expect("{1,3}", "{1,7}", "no name of tokenizer.ggml.pre stands for it");
  expect("\"lstrip\": false", "\"lstrip\": true", "has lstrip");
}

}  // namespace
}  // namespace weft::testing
