// What does not fit a target is refused when it is loaded, with the key, file or tensor that says so.
#include <gtest/gtest.h>

#include <stdlib.h>

#include <cstring>
#include <filesystem>

#include "base/files.h"
#include "base/json.h"
#include "drafts/draft_pair.h"
#include "support/reference_case.h"

namespace weft::testing {
namespace {

namespace fs = std::filesystem;

// A copy of a checkpoint of tests/data that can be changed.
class Copy {
 public:
  explicit Copy(const std::string& name) {
    std::string pattern = fs::temp_directory_path() / "weft_draft_XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
    for (const auto& entry : fs::directory_iterator(test_data(name)))
      if (entry.is_regular_file()) fs::copy(entry.path(), fs::path(folder_) / entry.path().filename());
  }
  ~Copy() { fs::remove_all(folder_); }
  const std::string& folder() const { return folder_; }

  Copy& set(const std::string& key, Json value, const std::string& file = "config.json") {
    Json document = read_json_file(folder_ + "/" + file).value();
    document.set(key, std::move(value));
    EXPECT_TRUE(write_file(folder_ + "/" + file, document.dump()).ok());
    return *this;
  }
  // In the weights' file: a name of the same length, or bytes.
  Copy& replace(const std::string& from, const std::string& to) {
    std::string bytes = read_file(folder_ + "/model.safetensors").value();
    const size_t at = bytes.find(from);
    EXPECT_NE(at, std::string::npos);
    EXPECT_EQ(from.size(), to.size());
    bytes.replace(at, from.size(), to);
    EXPECT_TRUE(write_file(folder_ + "/model.safetensors", bytes).ok());
    return *this;
  }

 private:
  std::string folder_;
};

std::string refusal(const std::string& target, const SpeculationOptions& options) {
  auto pair = DraftPair::load(target, options, 1, false);
  EXPECT_FALSE(pair.ok());
  return pair.ok() ? "" : pair.error().message();
}

std::string eagle3_refusal(const Copy& draft, std::vector<int> layers = {}) {
  return refusal(test_data("golden/llama-3.1"),
                 {.method = DraftMethod::eagle3, .model = draft.folder(), .layers = std::move(layers)});
}

void expect_has(const std::string& text, std::initializer_list<const char*> parts) {
  for (const char* part : parts) EXPECT_NE(text.find(part), std::string::npos) << part << " is not in: " << text;
}

const char* const kHead = "drafts/eagle3-llama-3.1";

TEST(RefusedEagle3, Sizes) {
  expect_has(eagle3_refusal(Copy(kHead).set("target_hidden_size", 128)), {"128", "64", "the draft "});
  expect_has(eagle3_refusal(Copy(kHead).set("vocab_size", 1024)), {"vocab_size is 1024", "512"});
  expect_has(eagle3_refusal(Copy(kHead).set("draft_vocab_size", 600)), {"draft_vocab_size is 600"});
  expect_has(eagle3_refusal(Copy(kHead), {1, 2}), {"fc.weight takes 192", "2 x 64"});
}

TEST(RefusedEagle3, Layers) {
  const char* const key = "eagle_aux_hidden_state_layer_ids";
  expect_has(eagle3_refusal(Copy(kHead), {1, 2, 9}), {"after 9 layers"});
  expect_has(eagle3_refusal(Copy(kHead).set(key, Json::array({1, 2, 30}))), {key, "after 30 layers"});
  // In eagle_config the number is that of the layer whose output it is.
  expect_has(
      eagle3_refusal(Copy(kHead).set(key, nullptr).set("eagle_config", Json::object({{key, Json::array({1, 2, 30})}}))),
      {"eagle_config", "after 31 layers"});
  expect_has(eagle3_refusal(Copy(kHead).set(key, nullptr)), {key, "too small"});
}

TEST(RefusedEagle3, OtherModels) {
  expect_has(eagle3_refusal(Copy("golden/qwen3")), {"Qwen3ForCausalLM", "no EAGLE-3 head"});
  expect_has(eagle3_refusal(Copy("golden/llama-3.1")), {"LlamaForCausalLM", "no EAGLE-3 head"});
  expect_has(refusal(test_data("golden/bert-wordpiece-gamma"),
                     {.method = DraftMethod::eagle3, .model = test_data(kHead), .layers = {1, 2, 2}}),
             {""});
}

TEST(RefusedEagle3, AbsentTensors) {
  expect_has(
      eagle3_refusal(
          Copy(kHead).replace("midlayer.hidden_norm", "midlayer.hidden_narm").replace("\"fc.weight", "\"fd.weight")),
      {"2 absent tensors", "midlayer.hidden_norm.weight", "fc.weight"});
  expect_has(eagle3_refusal(Copy(kHead).replace("\"d2t\"", "\"d3t\"")), {"d2t is absent"});
}

TEST(RefusedEagle3, TokenIds) {
  // Offset 0 of token 0 becomes one that leads outside, or to a token that another has.
  const std::string bytes = read_file(test_data(std::string(kHead) + "/model.safetensors")).value();
  auto draft = Checkpoint::open(test_data(kHead));
  ASSERT_TRUE(draft.ok());
  const TensorInfo* d2t = (*draft)->find("d2t");
  ASSERT_NE(d2t, nullptr);
  const std::string stored(reinterpret_cast<const char*>(d2t->data.data()), 16);
  std::string outside = stored, twice = stored;
  outside[3] = 1;
  int64_t second;
  std::memcpy(&second, stored.data() + 8, sizeof second);
  const int64_t first = second + 1;
  std::memcpy(twice.data(), &first, sizeof first);
  expect_has(eagle3_refusal(Copy(kHead).replace(stored, outside)), {"d2t[0]", "outside"});
  expect_has(eagle3_refusal(Copy(kHead).replace(stored, twice)), {"d2t[1]", "another"});
}

TEST(RefusedMtp, ModelsWithoutTheLayer) {
  const SpeculationOptions mtp{.method = DraftMethod::mtp};
  expect_has(refusal(test_data("golden/llama-3.1"), mtp), {"LlamaForCausalLM", "multi-token prediction"});
  expect_has(refusal(Copy("golden/deepseek-v3").set("num_nextn_predict_layers", 0).folder(), mtp),
             {"num_nextn_predict_layers is 0"});
  expect_has(refusal(Copy("golden/deepseek-v3").set("num_nextn_predict_layers", 2).folder(), mtp),
             {"lacks layer 4", "model.layers.4.eh_proj.weight"});
}

TEST(RefusedDraftModel, OtherVocabularies) {
  const auto with = [](const std::string& folder) {
    return refusal(test_data("golden/llama-3.1"), {.method = DraftMethod::draft_model, .model = folder});
  };
  expect_has(with(test_data("golden/bert-wordpiece-gamma")), {"BertForSequenceClassification"});
  Copy renamed("golden/mistral-swa");
  Json tokenizer = read_json_file(renamed.folder() + "/tokenizer.json").value();
  for (Json& token : const_cast<Json*>(tokenizer.find("added_tokens"))->items())
    if (token.find("id")->as_integer() == 500) token.set("content", "<another>");
  ASSERT_TRUE(write_file(renamed.folder() + "/tokenizer.json", tokenizer.dump()).ok());
  expect_has(with(renamed.folder()), {"token 500", "<another>"});
  expect_has(with(test_data("golden/nowhere")), {"nowhere"});
}

}  // namespace
}  // namespace weft::testing
