// Encoders of images beside GGUF models (tests/data/checkpoint/make_fixtures.py): names, values, what the config and
// the settings for images say, and files that do not belong together.
#include "base/files.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/test_folder.h"

namespace weft {
namespace {

struct Pair {
  const char *model, *projector, *architecture, *text_tensor;
};
constexpr Pair kPairs[] = {
    {"qwen2vl", "qwen2vl_merger", "Qwen2VLForConditionalGeneration", "model.layers.0.mlp.up_proj.weight"},
    {"qwen2vl", "qwen2.5vl_merger", "Qwen2_5_VLForConditionalGeneration", "model.layers.0.mlp.up_proj.weight"},
    {"gemma3", "gemma3", "Gemma3ForConditionalGeneration", "language_model.model.layers.0.mlp.up_proj.weight"},
    {"llama4", "llama4", "Llama4ForConditionalGeneration", "language_model.model.layers.0.feed_forward.up_proj.weight"},
    {"llama", "mlp", "LlavaNextForConditionalGeneration", "language_model.model.layers.0.mlp.up_proj.weight"},
};

std::string encoder_path(const char* projector) {
  return checkpoint_data(std::string("mmproj-") + projector + ".gguf");
}

class GgufEncoder : public testing::TestWithParam<Pair> {};

TEST_P(GgufEncoder, TensorsAreThoseBeforeConversion) {
  const auto opened = Checkpoint::open(checkpoint_data(std::string(GetParam().model) + ".gguf"), LoadMode::mmap,
                                       encoder_path(GetParam().projector));
  ASSERT_TRUE(opened.ok()) << opened.error().to_string();
  const Checkpoint& checkpoint = **opened;
  EXPECT_NE(checkpoint.find(GetParam().text_tensor), nullptr);
  EXPECT_EQ(checkpoint.files().size(), 2u);
  const MappedFile file = std::move(
      MappedFile::open(checkpoint_data(std::string("mmproj-") + GetParam().projector + ".safetensors")).value());
  const std::vector<TensorInfo> expected = parse_safetensors(file.bytes(), "expected").value();
  ASSERT_GE(expected.size(), 14u);
  for (const TensorInfo& want : expected) {
    const TensorInfo* tensor = checkpoint.find(want.name);
    ASSERT_NE(tensor, nullptr) << want.name;
    EXPECT_EQ(tensor->shape, want.shape) << want.name;
    EXPECT_EQ(*read_all(*tensor), *read_all(want)) << want.name;
  }
}

TEST_P(GgufEncoder, ConfigAndSettingsSayWhatTheFilesSay) {
  for (const bool dummy : {false, true}) {
    const std::string model = checkpoint_data(std::string(GetParam().model) + ".gguf");
    const std::string encoder = encoder_path(GetParam().projector);
    const auto opened =
        dummy ? Checkpoint::open_dummy(model, encoder) : Checkpoint::open(model, LoadMode::mmap, encoder);
    ASSERT_TRUE(opened.ok()) << opened.error().to_string();
    const HfConfig config((*opened)->config());
    EXPECT_EQ(config.architecture(), GetParam().architecture);
    const bool qwen = std::string(GetParam().model) == "qwen2vl";
    EXPECT_EQ((qwen ? config : config.sub("text_config")).count("hidden_size"), 32);
    const HfConfig vision = config.sub("vision_config");
    EXPECT_EQ(vision.count("patch_size"), 2);
    EXPECT_EQ(vision.count(qwen ? "depth" : "num_hidden_layers"), 1);
    EXPECT_EQ(vision.count(qwen ? "num_heads" : "num_attention_heads"), 2);
    if (qwen) {
      EXPECT_EQ(config.rope().sections, (std::vector<int>{2, 3, 3}));
    } else {
      EXPECT_EQ(vision.count("image_size"), 8);
      EXPECT_EQ(vision.count("intermediate_size"), 16);
    }
    EXPECT_TRUE(config.status().ok()) << config.status().error().message();
    const Json* pixels = (*opened)->gguf_media_settings().find("preprocessor_config.json");
    ASSERT_NE(pixels, nullptr);
    EXPECT_EQ(pixels->find("image_mean")->items()[1].as_number(), 0.25);
    EXPECT_EQ(pixels->find("image_std")->items()[2].as_number(), 0.25);
  }
}

INSTANTIATE_TEST_SUITE_P(All, GgufEncoder, testing::ValuesIn(kPairs), [](const auto& info) {
  std::string name = info.param.projector;
  std::erase_if(name, [](char c) { return c == '.' || c == '_'; });
  return name;
});

TEST(GgufEncoderFiles, AreFoundBesideTheModelAndRefusedWhereTheyDoNotBelong) {
  const auto problem = [](const std::string& model, const std::string& encoder) {
    const auto opened = Checkpoint::open(model, LoadMode::mmap, encoder);
    return opened.ok() ? HfConfig((*opened)->config()).architecture() : opened.error().message();
  };
  const TestFolder folder;
  folder.write("model.gguf", read_file(checkpoint_data("llama.gguf")).value());
  EXPECT_EQ(problem(folder.path(), ""), "LlamaForCausalLM");
  folder.write("mmproj-f16.gguf", read_file(encoder_path("mlp")).value());
  EXPECT_EQ(problem(folder.path(), ""), "LlavaNextForConditionalGeneration");
  EXPECT_EQ(problem(folder.path() + "/model.gguf", ""), "LlamaForCausalLM") << "a file alone is what it is";
  folder.write("mmproj-q8.gguf", read_file(encoder_path("mlp")).value());
  EXPECT_NE(problem(folder.path(), "").find("2 encoders of images"), std::string::npos);
  EXPECT_EQ(problem(folder.path(), folder.path() + "/mmproj-q8.gguf"), "LlavaNextForConditionalGeneration");
  EXPECT_NE(problem(checkpoint_data("qwen2.gguf"), encoder_path("gemma3")).find("clip.projector_type is gemma3"),
            std::string::npos);
  EXPECT_NE(problem(encoder_path("mlp"), "").find("general.architecture is clip"), std::string::npos);
  EXPECT_NE(problem(checkpoint_data("llama.gguf"), checkpoint_data("qwen2.gguf")).find("general.architecture is qwen2"),
            std::string::npos);
}

}  // namespace
}  // namespace weft
