// Names of files saved by different versions of transformers; the expected ones are those of the published checkpoints.
#include "checkpoint/hf_config.h"
#include "checkpoint/test_folder.h"

namespace weft {
namespace {

struct Tensor {
  std::string name;
  std::vector<int> shape;
};

// Float32 tensors, one behind the other; byte i of the data is i modulo 251.
std::string file_of(const std::vector<Tensor>& tensors) {
  Json header = Json::object();
  int64_t at = 0;
  for (const Tensor& tensor : tensors) {
    Json shape = Json::array();
    int64_t bytes = 4;
    for (const int extent : tensor.shape) shape.push_back(extent), bytes *= extent;
    header.set(
        tensor.name,
        Json::object({{"dtype", "F32"}, {"shape", std::move(shape)}, {"data_offsets", Json::array({at, at + bytes})}}));
    at += bytes;
  }
  return safetensors_bytes(header.dump(), static_cast<size_t>(at));
}

class Names : public testing::Test {
 protected:
  std::shared_ptr<const Checkpoint> open(const std::string& config, const std::vector<Tensor>& tensors) {
    folder_.write("config.json", config);
    folder_.write("model.safetensors", file_of(tensors));
    auto opened = Checkpoint::open(folder_.path());
    EXPECT_TRUE(opened.ok()) << opened.error().to_string();
    return std::move(opened).value();
  }
  // The only tensor's name after opening.
  std::string renamed(const std::string& architecture, const std::string& name) {
    const auto opened = open(R"({"architectures": [")" + architecture + R"("], "text_config": {}})", {{name, {2}}});
    return std::string(opened->names().at(0));
  }
  TestFolder folder_;
};

TEST_F(Names, VisionFamiliesBeforeAndAfterVersion452) {
  const char* gemma = "Gemma3ForConditionalGeneration";
  for (const char* name :
       {"language_model.model.layers.0.mlp.up_proj.weight", "model.language_model.layers.0.mlp.up_proj.weight",
        "language_model.layers.0.mlp.up_proj.weight"})
    EXPECT_EQ(renamed(gemma, name), "language_model.model.layers.0.mlp.up_proj.weight");
  EXPECT_EQ(renamed(gemma, "lm_head.weight"), "language_model.model.embed_tokens.weight");  // tied, the only one
  for (const char* name :
       {"vision_tower.vision_model.post_layernorm.bias", "model.vision_tower.vision_model.post_layernorm.bias",
        "model.vision_tower.post_layernorm.bias"})
    EXPECT_EQ(renamed(gemma, name), "vision_tower.vision_model.post_layernorm.bias");
  const char* llava = "LlavaNextForConditionalGeneration";
  EXPECT_EQ(renamed(llava, "model.image_newline"), "image_newline");
  EXPECT_EQ(renamed(llava, "lm_head.weight"), "language_model.lm_head.weight");
  EXPECT_EQ(renamed(llava, "model.multi_modal_projector.linear_1.bias"), "multi_modal_projector.linear_1.bias");
  EXPECT_EQ(renamed("MllamaForConditionalGeneration", "model.vision_model.class_embedding"),
            "vision_model.class_embedding");
  for (const char* qwen : {"Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"}) {
    EXPECT_EQ(renamed(qwen, "model.visual.blocks.0.attn.qkv.bias"), "visual.blocks.0.attn.qkv.bias");
    EXPECT_EQ(renamed(qwen, "model.language_model.norm.weight"), "model.norm.weight");
    EXPECT_EQ(renamed(qwen, "model.norm.weight"), "model.norm.weight");
  }
}

TEST_F(Names, BareDecoders) {
  EXPECT_EQ(renamed("LlamaForCausalLM", "layers.3.input_layernorm.weight"), "model.layers.3.input_layernorm.weight");
  EXPECT_EQ(renamed("Qwen3ForCausalLM", "embed_tokens.weight"), "model.embed_tokens.weight");
  EXPECT_EQ(renamed("Qwen3ForCausalLM", "norm.weight"), "model.norm.weight");
}

TEST_F(Names, FusedExpertsAreSplit) {
  const auto opened =
      open(R"({"architectures": ["MixtralForCausalLM"]})", {{"model.layers.1.mlp.experts.gate_up_proj", {2, 6, 4}},
                                                            {"model.layers.1.mlp.experts.down_proj", {2, 4, 3}},
                                                            {"model.layers.1.mlp.gate.weight", {2, 4}}});
  const std::string scope = "model.layers.1.block_sparse_moe.";
  EXPECT_EQ(opened->names().size(), 7u);
  EXPECT_NE(opened->find(scope + "gate.weight"), nullptr);
  const auto* first = opened->find(scope + "experts.0.w1.weight")->data.data();
  // expert, matrix, its shape, and where its values begin
  const std::vector<std::tuple<std::string, std::vector<int64_t>, int>> expected = {
      {"0.w1", {3, 4}, 0},  {"0.w3", {3, 4}, 12}, {"1.w1", {3, 4}, 24},
      {"1.w3", {3, 4}, 36}, {"0.w2", {4, 3}, 48}, {"1.w2", {4, 3}, 60}};
  for (const auto& [name, shape, at] : expected) {
    const TensorInfo* tensor = opened->find(scope + "experts." + name + ".weight");
    ASSERT_NE(tensor, nullptr) << name;
    EXPECT_EQ(tensor->shape, shape) << name;
    EXPECT_EQ(tensor->data.data() - first, 4 * at) << name;
    EXPECT_EQ(tensor->data.size(), 48u) << name;
  }
}

TEST_F(Names, OneMatrixOfATiedPair) {
  const std::string tied = R"({"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": true})";
  EXPECT_EQ(open(tied, {{"lm_head.weight", {2, 2}}})->names().at(0), "model.embed_tokens.weight");
  EXPECT_EQ(open(tied, {{"lm_head.weight", {2, 2}}, {"model.embed_tokens.weight", {2, 2}}})->names().size(), 2u);
  // Values count up, so the two differ.
  const auto both = open(tied, {{"lm_head.weight", {2, 2}}, {"model.embed_tokens.weight", {2, 2}}});
  const HfConfig config = HfConfig::of(*both);
  EXPECT_TRUE(config.differ("model.embed_tokens.weight", "lm_head.weight"));
  EXPECT_FALSE(config.differ("lm_head.weight", "lm_head.weight"));
  EXPECT_FALSE(config.differ("lm_head.weight", "absent"));
  const std::string untied = R"({"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": false})";
  EXPECT_EQ(open(untied, {{"lm_head.weight", {2, 2}}})->names().at(0), "lm_head.weight");
}

}  // namespace
}  // namespace weft
