// Keys that a configuration leaves out; the values are those of transformers 5.24's configuration classes.
#include <gtest/gtest.h>

#include "models/models.h"

namespace weft::models {
namespace {

HfConfig config_of(const std::string& architecture, const std::string& more = "") {
  return HfConfig(parse_json(R"({"architectures": [")" + architecture + "\"]" + more + "}").value());
}

TEST(Defaults, AsTransformersClassesHaveThem) {
  struct Case {
    const char *architecture, *key;
    double value;
  };
  const Case cases[] = {
      {"LlamaForCausalLM", "max_position_embeddings", 2048},
      {"MistralForCausalLM", "sliding_window", 4096},
      {"MistralForCausalLM", "num_key_value_heads", 8},
      {"MixtralForCausalLM", "rope_theta", 1e6},
      {"MixtralForCausalLM", "rms_norm_eps", 1e-5},
      {"NemotronForCausalLM", "partial_rotary_factor", 0.5},
      {"Gemma2ForCausalLM", "final_logit_softcapping", 30},
      {"Gemma3ForCausalLM", "rope_local_base_freq", 1e4},
      {"Gemma3ForCausalLM", "rope_theta", 1e6},
      {"DeepseekV3ForCausalLM", "routed_scaling_factor", 2.5},
      {"DeepseekV3ForCausalLM", "n_group", 8},
      {"Llama4ForCausalLM", "rope_theta", 5e5},
      {"MllamaForConditionalGeneration", "rope_theta", 5e5},
      {"Qwen2ForCausalLM", "max_position_embeddings", 32768},
      {"Qwen2VLForConditionalGeneration", "rope_theta", 1e6},
      {"Qwen2_5_VLForConditionalGeneration", "rms_norm_eps", 1e-5},
      {"Qwen3ForCausalLM", "head_dim", 128},
      {"Qwen3MoeForCausalLM", "num_key_value_heads", 4},
      {"Phi3ForCausalLM", "original_max_position_embeddings", 4096},
      {"BertForSequenceClassification", "layer_norm_eps", 1e-12},
  };
  for (const Case& c : cases) {
    const HfConfig config = text_config(config_of(c.architecture));
    EXPECT_EQ(config.number(c.key), c.value) << c.architecture << " " << c.key;
    EXPECT_TRUE(config.status().ok());
  }
  EXPECT_FALSE(text_config(config_of("MixtralForCausalLM")).has("sliding_window"));
}

TEST(Defaults, WindowedLayersOfGemma3TurnAtTheirOwnBase) {
  const HfConfig c = text_config(config_of("Gemma3ForCausalLM"));
  EXPECT_EQ(c.rope(LayerKind::window).theta, 1e4);
  EXPECT_EQ(c.rope(LayerKind::full).theta, 1e6);
  const HfConfig nested =
      text_config(config_of("Gemma3ForCausalLM", R"(, "rope_parameters": {"sliding_attention": {"rope_theta": 7}})"));
  EXPECT_EQ(nested.rope(LayerKind::window).theta, 7);
}

TEST(Defaults, NoMoreThanAHeadIsRotated) {
  for (const char* factor : {"0", "-1", "1.5", "4294967296", "1e300"}) {
    const HfConfig c = config_of("NemotronForCausalLM",
                                 std::string(R"(, "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1,
                                 "intermediate_size": 64, "vocab_size": 32, "partial_rotary_factor": )") +
                                     factor);
    const auto plan = build_plan(c);
    const std::string problem = !plan.ok()        ? plan.error().message()
                                : c.status().ok() ? ""
                                                  : c.status().error().message();
    EXPECT_NE(problem.find("partial_rotary_factor"), std::string::npos) << factor << ": " << problem;
  }
}

TEST(Defaults, NullIsNotAbsent) {
  const HfConfig c = text_config(config_of("MistralForCausalLM", R"(, "sliding_window": null)"));
  EXPECT_FALSE(c.has("sliding_window"));
  const auto refusal = [](const std::string& more) {
    const auto plan = build_plan(config_of(
        "LlamaForCausalLM", R"(, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 8,
        "intermediate_size": 8)" +
                                more));
    return plan.ok() ? "ok" : plan.error().message();
  };
  EXPECT_EQ(refusal(""), "ok");
  EXPECT_NE(refusal(R"(, "hidden_act": null)").find("hidden_act is null"), std::string::npos)
      << refusal(R"(, "hidden_act": null)");
  EXPECT_NE(refusal(R"(, "rms_norm_eps": null)").find("rms_norm_eps is null"), std::string::npos);
}

TEST(ContextLimit, YarnExtendsWhatIsStated) {
  const auto limit = [](const std::string& more) { return context_limit(config_of("Qwen3ForCausalLM", more)); };
  const std::string yarn = R"("rope_scaling": {"rope_type": "yarn", "factor": 2)";
  EXPECT_EQ(limit(R"(, "max_position_embeddings": 64)").positions, 64);
  EXPECT_EQ(limit(R"(, "max_position_embeddings": 64, )" + yarn + "}").positions, 128);
  EXPECT_EQ(
      limit(R"(, "max_position_embeddings": 64, )" + yarn + R"(, "original_max_position_embeddings": 64})").positions,
      128);
  const ContextLimit whole =
      limit(R"(, "max_position_embeddings": 256, )" + yarn + R"(, "original_max_position_embeddings": 64})");
  EXPECT_EQ(whole.positions, 256);
  EXPECT_EQ(whole.keys, "max_position_embeddings");
  EXPECT_FALSE(whole.learned);
  EXPECT_TRUE(context_limit(config_of("BertForSequenceClassification")).learned);
}

}  // namespace
}  // namespace weft::models
