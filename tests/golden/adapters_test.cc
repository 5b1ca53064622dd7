// Adapters against values of the reference (tests/data/adapters/make_adapters.py): logits and greedy answers, one
// request at a time and all adapters of a model in one batch; what is kept, let go and read again; and what is refused.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "base/files.h"
#include "support/answers.h"
#include "support/reference_case.h"

namespace weft::testing {
namespace {

namespace fs = std::filesystem;

constexpr float kTieGap = 1e-3f;

std::string adapter_folder(const std::string& base, const std::string& name) {
  return test_data("adapters/" + base + "/" + name);
}

std::unique_ptr<Engine> load(const std::string& base, const EngineOptions& wanted) {
  EngineOptions options = wanted;
  options.kv_cache_memory = int64_t{64} << 20;
  auto engine = Engine::load(test_data("golden/" + base), options);
  EXPECT_TRUE(engine.ok()) << engine.error().to_string();
  return engine.ok() ? std::move(engine).value() : nullptr;
}

struct Case {
  std::string base;
  std::vector<std::string> names;
};
const Case kCases[] = {{"llama-3.1", {"attention", "all"}}, {"qwen3-moe", {"attention", "experts"}}};

class Adapters : public ::testing::TestWithParam<Case> {
 protected:
  // The prompts are called ADAPTER.PROMPT.
  void SetUp() override {
    auto read = read_reference_values(test_data("adapters/" + GetParam().base + "/expected.safetensors"));
    ASSERT_TRUE(read.ok()) << read.error().to_string();
    prompts_ = std::move(read).value();
    ASSERT_EQ(prompts_.size(), 4u);
    options_.dtype = ComputeType::float32;
    for (const std::string& name : GetParam().names)
      options_.lora.modules.push_back({name, adapter_folder(GetParam().base, name)});
  }
  static Request request_of(const ReferencePrompt& prompt) {
    Request request;
    request.prompt_token_ids = prompt.input_ids;
    request.lora = prompt.name.substr(0, prompt.name.find('.'));
    request.max_tokens = static_cast<int>(prompt.greedy.size());
    request.sampling.temperature = 0, request.sampling.ignore_eos = true;
    return request;
  }

  std::vector<ReferencePrompt> prompts_;
  EngineOptions options_;
};

TEST_P(Adapters, LogitsAndAnswersAreTheReferences) {
  const auto engine = load(GetParam().base, options_);
  ASSERT_NE(engine, nullptr);
  std::vector<Request> requests;
  for (const ReferencePrompt& prompt : prompts_) requests.push_back(request_of(prompt));
  const std::vector<Result<ScoreResult>> scores = score(*engine, requests);
  for (size_t i = 0; i < prompts_.size(); ++i) {
    const ReferencePrompt& prompt = prompts_[i];
    ASSERT_TRUE(scores[i].ok()) << prompt.name << ": " << scores[i].error().to_string();
    const ReferenceTensor& want = prompt.outputs.at("logits");
    const auto& got = std::get<std::vector<float>>(scores[i]->tensors.at("logits").data);
    const auto cols = static_cast<size_t>(want.shape[1]);
    const double unit = deviation(want.values);
    for (size_t r = 0; r < prompt.rows.size(); ++r)
      for (size_t c = 0; c < cols; ++c)
        ASSERT_NEAR(got[static_cast<size_t>(prompt.rows[r]) * cols + c], want.values[r * cols + c], 1e-4 * unit)
            << prompt.name << " row " << prompt.rows[r];
  }
  const std::vector<Answer> answers = ask(*engine, requests);
  for (size_t i = 0; i < prompts_.size(); ++i) {
    const ReferencePrompt& prompt = prompts_[i];
    ASSERT_EQ(answers[i].error, "") << prompt.name;
    const std::vector<int32_t> got = answers[i].choices[0].ids();
    ASSERT_EQ(got.size(), prompt.greedy.size()) << prompt.name;
    for (size_t t = 0; t < got.size() && (got[t] == prompt.greedy[t] || prompt.gap[t] > kTieGap); ++t)
      ASSERT_EQ(got[t], prompt.greedy[t]) << prompt.name << ", token " << t << ", gap " << prompt.gap[t];
    EXPECT_EQ(ask(*engine, requests[i]).exact_text(), answers[i].exact_text()) << prompt.name << " alone";
  }
}

INSTANTIATE_TEST_SUITE_P(, Adapters, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return as_test_name(info.param.base); });

// The same factors in a GGUF file give the same answer to the bit.
TEST(AdapterFiles, GgufIsReadAsPeftIs) {
  EngineOptions options;
  options.lora.modules = {{"peft", adapter_folder("llama-3.1", "attention")},
                          {"gguf", adapter_folder("llama-3.1", "attention.gguf")}};
  const auto engine = load("llama-3.1", options);
  ASSERT_NE(engine, nullptr);
  Request request;
  request.prompt_token_ids = {3, 99, 200, 17}, request.max_tokens = 8, request.sampling.logprobs = 2;
  request.sampling.temperature = 0;
  request.lora = "peft";
  const std::string peft = ask(*engine, request).exact_text();
  request.lora = "gguf";
  EXPECT_EQ(ask(*engine, request).exact_text(), peft);
}

// ---- What is kept

Request short_request(const std::string& lora) {
  Request request;
  request.prompt_token_ids = std::vector<int32_t>();
  for (int i = 0; i < 80; ++i) request.prompt_token_ids->push_back((37 * i + 11) % 500);
  request.lora = lora, request.max_tokens = 6, request.sampling.temperature = 0, request.sampling.ignore_eos = true;
  request.sampling.logprobs = 0;
  return request;
}

class TemporaryFolder {
 public:
  TemporaryFolder() { EXPECT_NE(::mkdtemp(name_.data()), nullptr); }
  ~TemporaryFolder() { fs::remove_all(name_); }
  const std::string& name() const { return name_; }

 private:
  std::string name_ = (fs::temp_directory_path() / "weft_adapters_XXXXXX").string();
};

void copy_adapter(const std::string& from, const std::string& to) {
  fs::create_directories(to);
  fs::copy(from, to, fs::copy_options::overwrite_existing | fs::copy_options::recursive);
}

TEST(AdapterMemory, TheLeastRecentlyUsedIsLetGoAndReadAgain) {
  EngineOptions options;
  options.lora.allow_loading = true;
  auto engine = load("llama-3.1", options);
  ASSERT_NE(engine, nullptr);
  ASSERT_TRUE(engine->load_adapter("all", adapter_folder("llama-3.1", "all")).ok());
  const int64_t largest = engine->metrics().core.adapters.bytes;
  ASSERT_GT(largest, 0);
  const std::string all = ask(*engine, short_request("all")).exact_text();
  engine.reset();

  options.lora.memory = largest + largest / 4;  // for one of the two
  engine = load("llama-3.1", options);
  ASSERT_NE(engine, nullptr);
  ASSERT_TRUE(engine->load_adapter("all", adapter_folder("llama-3.1", "all")).ok());
  ASSERT_TRUE(engine->load_adapter("attention", adapter_folder("llama-3.1", "attention")).ok());
  EXPECT_EQ(engine->metrics().core.adapters.loaded, 1);
  EXPECT_EQ(engine->metrics().core.adapters.evictions, 1);
  EXPECT_EQ(engine->metrics().core.adapters.known, 2);
  EXPECT_EQ(ask(*engine, short_request("all")).exact_text(), all);  // read again
  EXPECT_EQ(engine->metrics().core.adapters.loads, 3);
  EXPECT_LE(engine->metrics().core.adapters.bytes, options.lora.memory);

  options.lora.memory = largest / 2;
  engine = load("llama-3.1", options);
  ASSERT_NE(engine, nullptr);
  const Status status = engine->load_adapter("all", adapter_folder("llama-3.1", "all"));
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code(), Code::resource_exhausted);
  EXPECT_NE(status.error().message().find("--lora-memory"), std::string::npos) << status.error().message();
}

// Blocks of the cache are those of the content, not of the name.
TEST(AdapterMemory, OtherContentUnderTheSameNameMeetsNoOldBlocks) {
  const TemporaryFolder folder;
  const std::string path = folder.name() + "/a";
  copy_adapter(adapter_folder("llama-3.1", "attention"), path);
  EngineOptions options;
  options.lora.allow_loading = true;
  const auto engine = load("llama-3.1", options);
  ASSERT_NE(engine, nullptr);
  ASSERT_TRUE(engine->load_adapter("a", path).ok());
  const Answer first = ask(*engine, short_request("a")), again = ask(*engine, short_request("a"));
  EXPECT_GT(again.usage.cached_tokens, 0);
  EXPECT_EQ(ask(*engine, short_request("")).usage.cached_tokens, 0);  // nor does the model meet the adapter's
  ASSERT_TRUE(engine->unload_adapter("a").ok());
  EXPECT_FALSE(engine->has_adapter("a"));
  EXPECT_NE(ask(*engine, short_request("a")).error, "");

  copy_adapter(adapter_folder("llama-3.1", "all"), path);
  ASSERT_TRUE(engine->load_adapter("a", path).ok());
  const Answer changed = ask(*engine, short_request("a"));
  EXPECT_EQ(changed.usage.cached_tokens, 0);
  EXPECT_NE(changed.exact_text(), first.exact_text());
  ASSERT_TRUE(engine->unload_adapter("a").ok());

  copy_adapter(adapter_folder("llama-3.1", "attention"), path);
  ASSERT_TRUE(engine->load_adapter("b", path).ok());
  const Answer back = ask(*engine, short_request("b"));
  EXPECT_GT(back.usage.cached_tokens, 0);  // the first content's blocks, whatever it is called
  EXPECT_EQ(back.exact_text(), first.exact_text());
}

// ---- What is refused

struct Refused {
  const char* what;
  void (*change)(const std::string& folder);
  std::initializer_list<const char*> words;
};

void edit(const std::string& file, const std::string& from, const std::string& to) {
  auto text = read_file(file);
  ASSERT_TRUE(text.ok());
  const size_t at = text->find(from);
  ASSERT_NE(at, std::string::npos) << from;
  text->replace(at, from.size(), to);
  ASSERT_TRUE(write_file(file, *text).ok());
}
template <size_t n>
void edit_config(const std::string& folder, const char (&from)[n], const char* to) {
  edit(folder + "/adapter_config.json", from, to);
}
// Names in a header of fixed length.
void rename_tensor(const std::string& folder, const std::string& from, const std::string& to) {
  ASSERT_EQ(from.size(), to.size());
  edit(folder + "/adapter_model.safetensors", from, to);
}

const Refused kRefused[] = {
    {"DoRA", [](const std::string& f) { edit_config(f, "\"r\"", "\"use_dora\": true, \"r\""); }, {"use_dora"}},
    {"modules_to_save",
     [](const std::string& f) { edit_config(f, "\"r\"", "\"modules_to_save\": [\"lm_head\"], \"r\""); },
     {"modules_to_save", "lm_head"}},
    {"bias", [](const std::string& f) { edit_config(f, "\"none\"", "\"all\""); }, {"bias", "all"}},
    {"another kind", [](const std::string& f) { edit_config(f, "LORA", "IA3"); }, {"peft_type", "IA3"}},
    {"no rank", [](const std::string& f) { edit_config(f, "\"r\": 4", "\"r\": \"4\""); }, {"r is \"4\""}},
    {"another rank",
     [](const std::string& f) { edit_config(f, "\"r\": 4", "\"r\": 5"); },
     {"lora_A", "has rank 4", "says 5"}},
    {"an infinite alpha",
     [](const std::string& f) { edit_config(f, "\"lora_alpha\": ", "\"lora_alpha\": 1e308, \"was\": "); },
     {"scaled by inf"}},
    {"a pattern of much work",
     [](const std::string& f) {
       edit_config(f, "\"rank_pattern\": {", "\"rank_pattern\": {\"((a{100}){100}){100}\": 4");
     },
     {"rank_pattern", "a{100}"}},
    {"no pattern",
     [](const std::string& f) { edit_config(f, "\"rank_pattern\": {", "\"rank_pattern\": {\"(\": 4"); },
     {"rank_pattern", "(", "cannot be used"}},
    {"no JSON", [](const std::string& f) { edit_config(f, "{", "["); }, {"adapter_config.json"}},
    {"no configuration", [](const std::string& f) { fs::remove(f + "/adapter_config.json"); }, {"adapter_config.json"}},
    {"no tensors",
     [](const std::string& f) { fs::remove(f + "/adapter_model.safetensors"); },
     {"adapter_model.safetensors"}},
    {"half a pair",
     [](const std::string& f) { rename_tensor(f, "0.self_attn.q_proj.lora_A", "9.self_attn.q_proj.lora_A"); },
     {"q_proj.lora_B.weight", "no lora_A", "adapter_model.safetensors"}},
    {"an unknown module",
     [](const std::string& f) {
       rename_tensor(f, "0.self_attn.q_proj.lora_A", "0.self_attn.x_proj.lora_A");
       rename_tensor(f, "0.self_attn.q_proj.lora_B", "0.self_attn.x_proj.lora_B");
     },
     {"model.layers.0.self_attn.x_proj", "adapter_model.safetensors"}},
    {"another tensor",
     [](const std::string& f) { rename_tensor(f, "0.self_attn.q_proj.lora_A", "0.self_attn.q_proj.magnet"); },
     {"magnet", "is no lora_A"}},
    {"other shapes",
     [](const std::string& f) {
       rename_tensor(f, "0.self_attn.q_proj.lora_B", "0.self_attn.z_proj.lora_B");
       rename_tensor(f, "0.self_attn.k_proj.lora_B", "0.self_attn.q_proj.lora_B");
       rename_tensor(f, "0.self_attn.z_proj.lora_B", "0.self_attn.k_proj.lora_B");
     },
     {"lora_B.weight", "rows", "outputs"}},
    {"not finite",
     [](const std::string& f) {
       const std::string file = f + "/adapter_model.safetensors";
       auto bytes = read_file(file);
       ASSERT_TRUE(bytes.ok());
       bytes->replace(bytes->size() - 4, 4, std::string("\x00\x00\xc0\x7f", 4));
       ASSERT_TRUE(write_file(file, *bytes).ok());
     },
     {"not finite", "tensor base_model.model."}},
    {"cut off",
     [](const std::string& f) { fs::resize_file(f + "/adapter_model.safetensors", 5000); },
     {"adapter_model.safetensors"}},
};

TEST(AdapterErrors, NameWhatIsWrong) {
  EngineOptions options;
  options.lora.allow_loading = true;
  const auto engine = load("llama-3.1", options);
  ASSERT_NE(engine, nullptr);
  for (const Refused& refused : kRefused) {
    SCOPED_TRACE(refused.what);
    const TemporaryFolder folder;
    copy_adapter(adapter_folder("llama-3.1", "attention"), folder.name());
    refused.change(folder.name());
    const Status status = engine->load_adapter("a", folder.name());
    ASSERT_FALSE(status.ok());
    const std::string text = status.error().message();
    for (const char* word : refused.words) EXPECT_NE(text.find(word), std::string::npos) << word << " in: " << text;
    EXPECT_FALSE(engine->has_adapter("a"));
  }
  EXPECT_EQ(engine->load_adapter("a", "/nowhere").error().code(), Code::not_found);
  EXPECT_FALSE(engine->load_adapter("a b", adapter_folder("llama-3.1", "attention")).ok());
  EXPECT_FALSE(engine->load_adapter("", adapter_folder("llama-3.1", "attention")).ok());
}

TEST(AdapterErrors, OptionsThatDoNotFit) {
  EngineOptions options;
  options.lora.modules = {{"a", adapter_folder("llama-3.1", "attention")}};
  options.lora.max_rank = 3;
  auto engine = Engine::load(test_data("golden/llama-3.1"), options);
  ASSERT_FALSE(engine.ok());
  EXPECT_NE(engine.error().message().find("--max-lora-rank is 3"), std::string::npos) << engine.error().message();
  // Of another model.
  engine = Engine::load(test_data("golden/qwen3-moe"), {.lora = {.modules = options.lora.modules}});
  ASSERT_FALSE(engine.ok());
  // Its products read their columns in the order of their groups, and A is for the input as it was.
  options.lora.max_rank = 16;
  engine = Engine::load(test_data("golden/ct-w4a16-actorder"), options);
  ASSERT_FALSE(engine.ok());
  EXPECT_NE(engine.error().message().find("reads its input in another order"), std::string::npos)
      << engine.error().message();
  // Nothing is loaded at run time unless that is allowed.
  engine = Engine::load(test_data("golden/llama-3.1"), options);
  ASSERT_TRUE(engine.ok());
  EXPECT_EQ((*engine)->load_adapter("b", adapter_folder("llama-3.1", "all")).error().code(), Code::unsupported);
  EXPECT_EQ((*engine)->unload_adapter("a").error().code(), Code::unsupported);
  Request request = short_request("nobody");
  const Answer answer = ask(**engine, request);
  EXPECT_NE(answer.error.find("there is no adapter nobody; there are a"), std::string::npos) << answer.error;
}

}  // namespace
}  // namespace weft::testing
