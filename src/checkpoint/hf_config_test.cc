// Reading config.json: values, defaults, both spellings, and messages that name the key.
#include "checkpoint/hf_config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <functional>

#include "base/files.h"
#include "checkpoint/checkpoint.h"

namespace weft {
namespace {

HfConfig config(const char* json) { return HfConfig(parse_json(json).value()); }

// What status() says after `read`.
std::string fault(const char* json, const std::function<void(const HfConfig&)>& read) {
  const HfConfig c = config(json);
  read(c);
  return c.status().ok() ? "ok" : c.status().error().message();
}

Code fault_code(const char* json, const std::function<void(const HfConfig&)>& read) {
  const HfConfig c = config(json);
  read(c);
  return c.status().error().code();
}

TEST(HfConfig, ReadsValues) {
  const HfConfig c = config(
      R"({"n": 7, "zero": 0, "x": 2.5, "whole": 3, "on": true, "s": "text", "none": null, "list": [1, 2], "one": 4,
                                "names": ["a", "b"], "xs": [1, 2.5], "sub": {"n": 9, "deep": {"m": 1}}, "items": [{"k": 1}, {"k": 2}]})");
  EXPECT_EQ(c.count("n"), 7);
  EXPECT_EQ(c.index("zero"), 0);
  EXPECT_EQ(c.number("x"), 2.5);
  EXPECT_EQ(c.positive("whole"), 3);
  EXPECT_TRUE(c.flag("on", false));
  EXPECT_TRUE(c.flag("n", false)) << "numbers count as in Python";
  EXPECT_FALSE(c.flag("zero", true));
  EXPECT_EQ(c.text("s"), "text");
  EXPECT_EQ(c.indices("list"), (std::vector<int>{1, 2}));
  EXPECT_EQ(c.indices("one"), (std::vector<int>{4}));
  EXPECT_EQ(c.texts("names"), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(c.numbers("xs"), (std::vector<double>{1, 2.5}));
  EXPECT_EQ(c.count("sub.n"), 9);
  EXPECT_EQ(c.sub("sub").sub("deep").count("m"), 1);
  ASSERT_EQ(c.list("items").size(), 2u);
  EXPECT_EQ(c.list("items")[1].count("k"), 2);
  EXPECT_EQ(c.choice("s", "other", {"other", "text"}), "text");
  EXPECT_TRUE(c.status().ok());
}

TEST(HfConfig, AbsentAndNullAreTheSame) {
  const HfConfig c = config(R"({"none": null, "sub": {"none": null}})");
  for (const char* key : {"none", "missing", "sub.none", "sub.missing", "missing.n", "none.n"}) {
    EXPECT_FALSE(c.has(key)) << key;
    EXPECT_EQ(c.count(key, 5), 5);
    EXPECT_EQ(c.index(key, 6), 6);
    EXPECT_EQ(c.positions(key, 7), 7);
    EXPECT_EQ(c.number(key, -1.5), -1.5);
    EXPECT_EQ(c.positive(key, 2.5), 2.5);
    EXPECT_TRUE(c.flag(key, true));
    EXPECT_EQ(c.text(key, "x"), "x");
    EXPECT_TRUE(c.indices(key).empty() && c.texts(key).empty() && c.numbers(key).empty() && c.list(key).empty() &&
                c.token_ids(key).empty());
  }
  EXPECT_TRUE(c.status().ok());
}

TEST(HfConfig, WrongCountsNameTheKeyAndGiveSomethingHarmless) {
  for (const char* value :
       {"0", "-1", "2.5", "\"16\"", "[16]", "{}", "true", "1000000000", "2147483648", "1e30", "99999999999999999999"}) {
    const HfConfig c = config(("{\"hidden_size\": " + std::string(value) + "}").c_str());
    EXPECT_EQ(c.count("hidden_size"), 1) << value;
    ASSERT_FALSE(c.status().ok()) << value;
    EXPECT_NE(c.status().error().message().find("config.json: hidden_size"), std::string::npos)
        << c.status().error().message();
  }
  EXPECT_NE(fault("{}", [](const HfConfig& c) { EXPECT_EQ(c.count("hidden_size"), 1); }).find("hidden_size"),
            std::string::npos);
}

TEST(HfConfig, LayersAreFew) {
  EXPECT_EQ(config(R"({"num_hidden_layers": 126})").count("num_hidden_layers"), 126);
  EXPECT_NE(
      fault(R"({"num_hidden_layers": 100000})", [](const HfConfig& c) { EXPECT_EQ(c.count("num_hidden_layers"), 1); }),
      "ok");
  EXPECT_NE(fault(R"({"text_config": {"num_hidden_layers": 100000}})",
                  [](const HfConfig& c) { (void)c.count("text_config.num_hidden_layers"); }),
            "ok");
}

TEST(HfConfig, TheFirstErrorIsKept) {
  const HfConfig c = config(R"({"a": 0, "b": 0})");
  (void)c.count("b"), (void)c.count("a");
  EXPECT_NE(c.status().error().message().find(": b is 0"), std::string::npos);
  const HfConfig copy = c;
  EXPECT_FALSE(copy.status().ok()) << "copies share it";
}

TEST(HfConfig, NestedKeysAreNamedInFull) {
  const auto nested = [](const HfConfig& c) { (void)c.sub("text_config").count("hidden_size"); };
  EXPECT_NE(fault(R"({"text_config": {}})", nested).find("text_config.hidden_size"), std::string::npos);
  EXPECT_NE(fault("{}", nested).find("text_config"), std::string::npos);
  EXPECT_NE(fault(R"({"text_config": 3})", nested).find("text_config"), std::string::npos);
  EXPECT_NE(fault(R"({"blocks": [{"n": 1}, {"n": 0}]})",
                  [](const HfConfig& c) {
                    for (const HfConfig& b : c.list("blocks")) (void)b.count("n");
                  })
                .find("blocks[1].n"),
            std::string::npos);
  EXPECT_NE(fault(R"({"blocks": [1]})", [](const HfConfig& c) { (void)c.list("blocks"); }).find("blocks"),
            std::string::npos);
}

TEST(HfConfig, PositionsAreCapped) {
  EXPECT_EQ(config(R"({"n": 2147483648})").positions("n"), HfConfig::kMaxPositions);
  EXPECT_EQ(config(R"({"n": 1000000000000000})").positions("n"), HfConfig::kMaxPositions);
  EXPECT_EQ(config(R"({"n": 1e30})").positions("n"), HfConfig::kMaxPositions);
  EXPECT_EQ(config(R"({"n": 131072})").positions("n"), 131072);
  for (const char* json : {R"({"n": 0})", R"({"n": -1})", R"({"n": "x"})"})
    EXPECT_NE(fault(json, [](const HfConfig& c) { (void)c.positions("n"); }), "ok") << json;
}

TEST(HfConfig, NumbersMustBeNumbers) {
  const auto positive = [](const HfConfig& c) { EXPECT_EQ(c.positive("eps"), 1); };
  for (const char* json : {R"({"eps": 0})", R"({"eps": -1.0})", R"({"eps": "1e-5"})", R"({"eps": []})", "{}"})
    EXPECT_NE(fault(json, positive).find("eps"), std::string::npos) << json;
  // JSON has no such numbers, but GGUF has.
  for (const double value : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
    const HfConfig c(Json::object({{"eps", value}, {"n", value}}));
    EXPECT_EQ(c.positive("eps"), 1);
    EXPECT_NE(c.status().error().message().find("eps is not finite"), std::string::npos)
        << c.status().error().message();
    const HfConfig other(Json::object({{"n", value}}));
    EXPECT_EQ(other.count("n"), 1);
    EXPECT_FALSE(other.status().ok());
    const HfConfig third(Json::object({{"n", Json::array({value})}}));
    EXPECT_TRUE(third.numbers("n").empty());
  }
}

TEST(HfConfig, LongValuesAreCutBetweenCharacters) {
  std::string text;
  for (int i = 0; i < 100; ++i) text += "\xc3\xa9";  // é
  for (const std::string& lead : {std::string(), std::string("a")}) {
    const HfConfig c(Json::object({{"n", lead + text}}));
    (void)c.count("n");
    const std::string message = c.status().error().message();
    EXPECT_LT(message.size(), 250u);
    EXPECT_TRUE(parse_json("\"" + message.substr(0, message.find('"')) + "\"").ok());
    EXPECT_EQ(message.find("\xc3."), std::string::npos) << message;
  }
}

TEST(HfConfig, Architecture) {
  const auto read = [](const HfConfig& c) { (void)c.architecture(); };
  EXPECT_EQ(config(R"({"architectures": ["LlamaForCausalLM"]})").architecture(), "LlamaForCausalLM");
  for (const char* json :
       {"{}", R"({"architectures": null})", R"({"architectures": []})", R"({"architectures": "LlamaForCausalLM"})",
        R"({"architectures": [5]})", R"({"architectures": {"a": 1}})"})
    EXPECT_NE(fault(json, read).find("architectures"), std::string::npos) << json;
  for (const char* json : {"[]", "3", "null", "\"text\""}) EXPECT_NE(fault(json, read), "ok") << json;
}

TEST(HfConfig, Dtype) {
  EXPECT_EQ(config(R"({"torch_dtype": "bfloat16"})").dtype(), "bfloat16");
  EXPECT_EQ(config(R"({"torch_dtype": "torch.float16"})").dtype(), "float16");
  EXPECT_EQ(config(R"({"dtype": "float32"})").dtype(), "float32");
  EXPECT_EQ(config("{}").dtype(), "");
}

TEST(HfConfig, TokenIds) {
  EXPECT_EQ(config(R"({"eos_token_id": 2})").eos_token_ids(), std::vector<int>{2});
  EXPECT_EQ(config(R"({"eos_token_id": [2, -1, 3]})").eos_token_ids(), (std::vector<int>{2, 3}));
  EXPECT_TRUE(config(R"({"eos_token_id": null})").eos_token_ids().empty());
  EXPECT_TRUE(config(R"({"eos_token_id": -1})").eos_token_ids().empty());
  for (const char* json : {R"({"eos_token_id": "x"})", R"({"eos_token_id": [2, "x"]})", R"({"eos_token_id": 2.5})"})
    EXPECT_NE(fault(json, [](const HfConfig& c) { (void)c.eos_token_ids(); }).find("eos_token_id"), std::string::npos)
        << json;
}

TEST(HfConfig, HeadSizes) {
  EXPECT_EQ(config(R"({"hidden_size": 64, "num_attention_heads": 4})").head_dim(), 16);
  EXPECT_EQ(config(R"({"hidden_size": 80, "num_attention_heads": 6, "head_dim": 16})").head_dim(), 16);
  EXPECT_EQ(config(R"({"hidden_size": 64, "num_attention_heads": 4, "head_dim": null})").head_dim(), 16);
  const auto head = [](const HfConfig& c) { EXPECT_GE(c.head_dim(), 1); };
  for (const char* json :
       {R"({"hidden_size": 16, "num_attention_heads": 3})", R"({"hidden_size": 16, "num_attention_heads": 5})",
        R"({"hidden_size": 12, "num_attention_heads": 4})",
        R"({"hidden_size": 16, "num_attention_heads": 2, "head_dim": 7})",
        R"({"hidden_size": 16, "num_attention_heads": 2, "head_dim": 0})",
        R"({"hidden_size": 16, "num_attention_heads": 0})"})
    EXPECT_NE(fault(json, head), "ok") << json;
  EXPECT_EQ(config(R"({"num_attention_heads": 4})").kv_heads(), 4);
  EXPECT_EQ(config(R"({"num_attention_heads": 4, "num_key_value_heads": 2})").kv_heads(), 2);
  for (const char* json : {R"({"num_attention_heads": 2, "num_key_value_heads": 3})",
                           R"({"num_attention_heads": 2, "num_key_value_heads": 0})"})
    EXPECT_NE(fault(json, [](const HfConfig& c) { EXPECT_GE(c.kv_heads(), 1); }).find("num_key_value_heads"),
              std::string::npos)
        << json;
}

TEST(HfConfig, LayerTypes) {
  using enum LayerKind;
  EXPECT_EQ(config(R"({"layer_types": ["full_attention", "sliding_attention", "chunked_attention"]})").layer_types(3),
            (std::vector<LayerKind>{full, window, chunk}));
  EXPECT_TRUE(config("{}").layer_types(3).empty());
  const auto read = [](const HfConfig& c) { (void)c.layer_types(2); };
  for (const char* json :
       {R"({"layer_types": ["full_attention"]})", R"({"layer_types": "full_attention"})", R"({"layer_types": [1, 2]})"})
    EXPECT_NE(fault(json, read).find("layer_types"), std::string::npos) << json;
  EXPECT_EQ(fault_code(R"({"layer_types": ["full_attention", "linear_attention"]})", read), Code::unsupported);
}

using Scaling = RopeConfig::Scaling;

TEST(HfConfigRope, DefaultsAndPlainForms) {
  EXPECT_EQ(config("{}").rope().theta, 10000);
  EXPECT_EQ(config("{}").rope(LayerKind::full, 5e5).theta, 5e5);
  EXPECT_EQ(config(R"({"rope_theta": 1e6, "rope_scaling": null})").rope(), (RopeConfig{.theta = 1e6}));
  EXPECT_EQ(config(R"({"rope_scaling": {}})").rope(), RopeConfig{});
  EXPECT_EQ(config(R"({"partial_rotary_factor": 0.5})").rope().partial_rotary_factor, 0.5);
  EXPECT_EQ(config(R"({"rope_percent": 0.25})").rope().partial_rotary_factor, 0.25);
  EXPECT_EQ(config(R"({"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}})").rope().sections,
            (std::vector<int>{2, 3, 3}));
}

TEST(HfConfigRope, KindsOfScaling) {
  const RopeConfig linear = config(R"({"rope_scaling": {"type": "linear", "factor": 8}})").rope();
  EXPECT_EQ(linear, (RopeConfig{.scaling = Scaling::linear, .factor = 8}));
  const RopeConfig llama3 =
      config(R"({"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
      "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}})")
          .rope();
  EXPECT_EQ(llama3,
            (RopeConfig{.scaling = Scaling::llama3, .theta = 5e5, .factor = 32, .original_max_positions = 8192}));
  const RopeConfig yarn =
      config(
          R"({"max_position_embeddings": 4096, "rope_scaling": {"type": "yarn", "factor": 40, "mscale": 1.0, "mscale_all_dim": 0.707}})")
          .rope();
  EXPECT_EQ(yarn, (RopeConfig{.scaling = Scaling::yarn,
                              .factor = 40,
                              .original_max_positions = 4096,
                              .mscale = 1.0,
                              .mscale_all_dim = 0.707}));
  EXPECT_EQ(
      config(
          R"({"rope_scaling": {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 64, "beta_fast": 16, "beta_slow": 2,
      "attention_factor": 1.5, "truncate": false}})")
          .rope(),
      (RopeConfig{.scaling = Scaling::yarn,
                  .factor = 4,
                  .original_max_positions = 64,
                  .beta_fast = 16,
                  .beta_slow = 2,
                  .attention_factor = 1.5,
                  .truncate = false}));
  EXPECT_EQ(config(R"({"rope_scaling": {"rope_type": "factors"}})").rope().scaling, Scaling::factors);
}

TEST(HfConfigRope, Version5SpellingIsTheSame) {
  EXPECT_EQ(
      config(
          R"({"rope_parameters": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6, "partial_rotary_factor": 0.5}})")
          .rope(),
      config(R"({"rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 8.0}, "partial_rotary_factor": 0.5})")
          .rope());
  const HfConfig gemma =
      config(R"({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
      "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}})");
  EXPECT_EQ(gemma.rope(), (RopeConfig{.scaling = Scaling::linear, .theta = 1e6, .factor = 8}));
  EXPECT_EQ(gemma.rope(LayerKind::window), (RopeConfig{.theta = 10000}));
  const HfConfig old = config(
      R"({"rope_theta": 1e6, "rope_local_base_freq": 10000, "rope_scaling": {"rope_type": "linear", "factor": 8.0}})");
  EXPECT_EQ(old.rope(), gemma.rope());
  EXPECT_EQ(old.rope(LayerKind::window), gemma.rope(LayerKind::window));
}

// The factors follow from the context that the engine makes room for, the factor on cos and sin from the model's.
TEST(HfConfigRope, LongropeChoosesOnceByTheContext) {
  std::string folder = (std::filesystem::temp_directory_path() / "weft_config_XXXXXX").string();
  folder = ::mkdtemp(folder.data());
  ASSERT_TRUE(write_file(folder + "/config.json",
                         R"({"max_position_embeddings": 256, "original_max_position_embeddings": 64,
      "rope_scaling": {"type": "su", "short_factor": [1, 1.5], "long_factor": [2, 40]}})")
                  .ok());
  const auto checkpoint = Checkpoint::open_dummy(folder);
  std::filesystem::remove_all(folder);
  ASSERT_TRUE(checkpoint.ok());
  const auto rope = [&](int context) { return HfConfig::of(**checkpoint, context).rope(LayerKind::full, 1e4, 4); };
  const std::vector<double> short_factors{1, 1.5}, long_factors{2, 40};
  EXPECT_EQ(rope(0).factors, long_factors) << "all of the model's positions";
  EXPECT_EQ(rope(65).factors, long_factors);
  EXPECT_EQ(rope(64).factors, short_factors);
  // transformers: sqrt(1 + log(256 / 64) / log(64)) = sqrt(4 / 3), for both kinds of factors
  for (const int context : {0, 64}) EXPECT_NEAR(*rope(context).attention_factor, 1.1547005383792515, 1e-12);
  EXPECT_EQ(rope(0).scaling, Scaling::longrope);
}

TEST(HfConfigRope, FaultsAreRefused) {
  const auto rope = [](const HfConfig& c) { (void)c.rope(); };
  for (
      const char* json :
      {R"({"rope_scaling": {"rope_type": "linear", "factor": 0}})",
       R"({"rope_scaling": {"rope_type": "linear", "factor": -1.0}})",
       R"({"rope_scaling": {"rope_type": "linear", "factor": "8"}})", R"({"rope_scaling": {"rope_type": "linear"}})",
       R"({"rope_scaling": [1]})", R"({"rope_scaling": "linear"})", R"({"rope_scaling": {"factor": 8}})",
       R"({"rope_scaling": {"rope_type": 5}})", R"({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}})",
       R"({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0, "original_max_position_embeddings": 64}})",
       R"({"rope_scaling": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "beta_fast": 1, "beta_slow": 32}})"})
    EXPECT_NE(fault(json, rope).find("rope_scaling"), std::string::npos) << json << fault(json, rope);
  for (const char* json :
       {R"({"rope_scaling": {"type": "magic", "factor": 2.0}})", R"({"rope_scaling": {"rope_type": "longrope"}})",
        R"({"rope_scaling": {"type": "dynamic", "factor": 2.0}})",
        R"({"rope_scaling": {"type": "su", "factor": 2.0}})"}) {
    EXPECT_NE(fault(json, rope).find("rope_scaling"), std::string::npos) << json;
    EXPECT_EQ(fault_code(json, rope), Code::unsupported);
  }
  const auto of_four = [](const HfConfig& c) { (void)c.rope(LayerKind::full, 1e4, 4); };
  for (const char* json :
       {R"({"max_position_embeddings": 64, "rope_scaling": {"rope_type": "longrope"}})",
        R"({"max_position_embeddings": 64, "rope_scaling": {"rope_type": "longrope", "short_factor": [1]}})",
        R"({"max_position_embeddings": 64, "rope_scaling": {"rope_type": "longrope", "short_factor": [1, 0]}})",
        R"({"max_position_embeddings": 64, "rope_scaling": {"rope_type": "longrope", "short_factor": 1}})"})
    EXPECT_NE(fault(json, of_four).find("short_factor"), std::string::npos) << json << fault(json, of_four);
  for (
      const char* json :
      {R"({"rope_theta": 0})", R"({"rope_theta": -1})", R"({"rope_theta": "x"})",
       R"({"rope_theta": 1, "rope_scaling": {"rope_type": "yarn", "factor": 2, "original_max_position_embeddings": 64}})"})
    EXPECT_NE(fault(json, rope).find("rope_theta"), std::string::npos) << json;
  EXPECT_FALSE(parse_json(R"({"factor": 1e400})").ok()) << "infinity never gets that far";
  EXPECT_NE(fault(R"({"partial_rotary_factor": 1.5})", rope).find("partial_rotary_factor"), std::string::npos);
}

}  // namespace
}  // namespace weft
