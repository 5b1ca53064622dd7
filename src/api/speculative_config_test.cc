// --speculative-config under the names of three systems: what each key becomes, and which key each refusal names.
#include "api/speculative_config.h"

#include <gtest/gtest.h>

#include "api/options.h"

namespace weft {
namespace {

using Method = DraftMethod;

SpeculationOptions read(const std::string& text) {
  const auto options = read_speculation(text);
  EXPECT_TRUE(options.ok()) << text << ": " << (options.ok() ? "" : options.error().message());
  return options.ok() ? *options : SpeculationOptions();
}

TEST(SpeculativeConfig, None) {
  for (const char* text : {"", "  ", "{}", "null", "false", "none", "\"none\"", R"({"method": "none"})",
                           R"({"method": null, "num_tokens": null})", R"({"decoding_type": "None"})"}) {
    EXPECT_EQ(read(text).method, Method::none) << text;
    EXPECT_EQ(read(text).most(), 0) << text;
  }
}

TEST(SpeculativeConfig, OwnKeys) {
  SpeculationOptions o = read(R"({"method": "mtp", "num_tokens": 3})");
  EXPECT_EQ(o.method, Method::mtp);
  EXPECT_EQ(o.num_tokens, 3);
  EXPECT_EQ(o.most(), 3);
  EXPECT_TRUE(o.one_model);

  o = read(R"({"method": "eagle3", "model": "head", "one_model": false, "max_tokens": 5, "dtype": "float32",
               "threads": 2, "layers": [2, 15, 27]})");
  EXPECT_EQ(o.method, Method::eagle3);
  EXPECT_EQ(o.model, "head");
  EXPECT_FALSE(o.one_model);
  EXPECT_EQ(o.num_tokens, 0);
  EXPECT_EQ(o.most(), 5);
  EXPECT_EQ(o.dtype, ComputeType::float32);
  EXPECT_EQ(o.threads, 2);
  EXPECT_EQ(o.layers, (std::vector<int>{2, 15, 27}));

  o = read(R"({"method": "draft_model", "model": "small", "one_model": false})");
  EXPECT_EQ(o.method, Method::draft_model);
  EXPECT_FALSE(o.one_model);
  EXPECT_FALSE(read(R"({"method": "draft_model", "model": "small", "threads": 1})").one_model);

  o = read(R"({"method": "ngram", "ngram_min": 3, "ngram_max": 8, "ngram_shared": true})");
  EXPECT_EQ(o.ngram_min, 3);
  EXPECT_EQ(o.ngram_max, 8);
  EXPECT_TRUE(o.ngram_shared);
  EXPECT_EQ(read("auto").method, Method::automatic);
  EXPECT_EQ(read("\"ngram\"").method, Method::ngram);
}

TEST(SpeculativeConfig, NamesOfVllm) {
  SpeculationOptions o = read(R"({"method": "deepseek_mtp", "num_speculative_tokens": 1, "model": null})");
  EXPECT_EQ(o.method, Method::mtp);
  EXPECT_EQ(o.num_tokens, 1);
  for (const char* text : {R"({"model": "[ngram]", "num_speculative_tokens": 4, "prompt_lookup_max": 4})",
                           R"({"method": "ngram", "model": "[ngram]", "num_tokens": 4, "ngram_max": 4})"}) {
    o = read(text);
    EXPECT_EQ(o.method, Method::ngram);
    EXPECT_EQ(o.num_tokens, 4);
    EXPECT_EQ(o.ngram_min, 2);
    EXPECT_EQ(o.ngram_max, 4);
  }
  // A default gives way to the bound that is given.
  o = read(R"({"method": "ngram", "prompt_lookup_min": 7})");
  EXPECT_EQ(o.ngram_max, 7);
  o = read(R"({"method": "ngram", "prompt_lookup_max": 1})");
  EXPECT_EQ(o.ngram_min, 1);
  o = read(R"({"method": "eagle3", "model": "h", "num_speculative_tokens": 5, "draft_tensor_parallel_size": 1})");
  EXPECT_EQ(o.num_tokens, 5);
}

TEST(SpeculativeConfig, NamesOfTheReferenceSystem) {
  SpeculationOptions o = read(R"({"decoding_type": "MTP", "num_nextn_predict_layers": 2,
      "use_relaxed_acceptance_for_thinking": false, "relaxed_topk": 1, "relaxed_delta": 0.0, "use_mtp_vanilla": false,
      "mtp_eagle_one_model": true})");
  EXPECT_EQ(o.method, Method::mtp);
  EXPECT_EQ(o.num_tokens, 2);

  // The layer whose output is captured: one more layer has run by then. As a list, and as YAML's set.
  for (const char* layers : {"[27, 1, 14]", R"({"1": null, "27": null, "14": null})"}) {
    o = read(R"({"decoding_type": "Eagle", "max_draft_len": 4, "speculative_model_dir": "head", "use_dynamic_tree":
        false, "eagle3_one_model": false, "eagle3_layers_to_capture": )" +
             std::string(layers) + "}");
    EXPECT_EQ(o.method, Method::eagle3);
    EXPECT_EQ(o.num_tokens, 4);
    EXPECT_EQ(o.model, "head");
    EXPECT_FALSE(o.one_model);
    EXPECT_EQ(o.layers, (std::vector<int>{2, 15, 28}));
  }
  EXPECT_EQ(read(R"({"decoding_type": "Eagle3", "speculative_model": "h"})").method, Method::eagle3);
  for (const char* type : {"DraftTarget", "Draft_Target"}) {
    o = read(R"({"decoding_type": ")" + std::string(type) + R"(", "speculative_model": "s", "max_draft_len": 3})");
    EXPECT_EQ(o.method, Method::draft_model);
    EXPECT_EQ(o.model, "s");
  }
  o = read(R"({"decoding_type": "NGram", "max_draft_len": 6, "max_total_draft_tokens": 6,
               "max_matching_ngram_size": 3, "is_public_pool": true, "is_keep_all": true})");
  EXPECT_EQ(o.method, Method::ngram);
  EXPECT_EQ(o.ngram_max, 3);
  EXPECT_TRUE(o.ngram_shared);
  EXPECT_EQ(read(R"({"decoding_type": "Auto"})").method, Method::automatic);
}

// Two names of one thing may agree.
TEST(SpeculativeConfig, TwoNames) {
  const SpeculationOptions o = read(R"({"method": "eagle3", "decoding_type": "Eagle", "num_tokens": 3,
      "max_draft_len": 3, "model": "h", "speculative_model": "h", "layers": [2, 4],
      "eagle3_layers_to_capture": [1, 3]})");
  EXPECT_EQ(o.num_tokens, 3);
  EXPECT_EQ(o.layers, (std::vector<int>{2, 4}));
}

TEST(SpeculativeConfig, Refusals) {
  const struct {
    const char *config, *key;  // "": the option itself
  } cases[] = {
      // shape
      {"{", ""},
      {"[]", ""},
      {"true", ""},
      {"3", ""},
      {"speculate", ""},
      {R"({"num_tokens": 3})", "method"},
      {R"({"relaxed_topk": 1})", "method"},
      {R"({"method": "ngram", "method": "mtp"})", "method"},
      {R"({"method": "ngram", "tokens": 3})", "tokens"},
      {R"({"method": "none", "num_tokens": 3})", "num_tokens"},
      // methods
      {R"({"method": "eagle"})", "method"},
      {R"({"method": "medusa"})", "method"},
      {R"({"method": 3})", "method"},
      {R"({"decoding_type": "Lookahead"})", "decoding_type"},
      {R"({"method": "mtp", "decoding_type": "NGram"})", "decoding_type"},
      {R"({"method": "mtp", "model": "[ngram]"})", "model"},
      // types and ranges
      {R"({"method": "ngram", "num_tokens": 0})", "num_tokens"},
      {R"({"method": "ngram", "num_tokens": 17})", "num_tokens"},
      {R"({"method": "ngram", "max_draft_len": "4"})", "max_draft_len"},
      {R"({"method": "ngram", "num_speculative_tokens": 1.5})", "num_speculative_tokens"},
      {R"({"method": "ngram", "max_tokens": 17})", "max_tokens"},
      {R"({"method": "ngram", "ngram_min": 0})", "ngram_min"},
      {R"({"method": "ngram", "prompt_lookup_max": 65})", "prompt_lookup_max"},
      {R"({"method": "ngram", "ngram_shared": 1})", "ngram_shared"},
      {R"({"method": "eagle3", "model": 3})", "model"},
      {R"({"method": "eagle3", "model": ""})", "model"},
      {R"({"method": "eagle3", "model": "h", "one_model": "no"})", "one_model"},
      {R"({"method": "eagle3", "model": "h", "layers": 3})", "layers"},
      {R"({"method": "eagle3", "model": "h", "layers": []})", "layers"},
      {R"({"method": "eagle3", "model": "h", "layers": [2, 2]})", "layers"},
      {R"({"method": "eagle3", "model": "h", "layers": [-1]})", "layers"},
      {R"({"method": "eagle3", "model": "h", "eagle3_layers_to_capture": {"1": 2}})", "eagle3_layers_to_capture"},
      {R"({"method": "eagle3", "model": "h", "eagle3_layers_to_capture": {"a": null}})", "eagle3_layers_to_capture"},
      {R"({"method": "draft_model", "model": "s", "dtype": "fp8"})", "dtype"},
      {R"({"method": "draft_model", "model": "s", "threads": -1})", "threads"},
      // together
      {R"({"method": "ngram", "num_tokens": 3, "max_draft_len": 4})", "max_draft_len"},
      {R"({"method": "ngram", "max_draft_len": 3, "max_total_draft_tokens": 12})", "max_total_draft_tokens"},
      {R"({"method": "ngram", "num_tokens": 3, "max_tokens": 3})", "max_tokens"},
      {R"({"method": "ngram", "ngram_min": 5, "ngram_max": 4})", "ngram_min"},
      {R"({"method": "eagle3"})", "model"},
      {R"({"method": "draft_model"})", "model"},
      {R"({"method": "ngram", "model": "m"})", "model"},
      {R"({"method": "mtp", "speculative_model": "m"})", "speculative_model"},
      {R"({"method": "eagle3", "model": "h", "num_nextn_predict_layers": 3})", "num_nextn_predict_layers"},
      {R"({"method": "mtp", "ngram_max": 3})", "ngram_max"},
      {R"({"method": "mtp", "one_model": false})", "one_model"},
      {R"({"method": "ngram", "one_model": true})", "one_model"},
      {R"({"method": "draft_model", "model": "s", "one_model": true})", "one_model"},
      {R"({"method": "eagle3", "model": "h", "threads": 2})", "threads"},
      {R"({"method": "draft_model", "model": "s", "layers": [1]})", "layers"},
      // what would change answers, and what is decided otherwise
      {R"({"method": "mtp", "use_relaxed_acceptance_for_thinking": true})", "use_relaxed_acceptance_for_thinking"},
      {R"({"method": "mtp", "relaxed_topk": 10})", "relaxed_topk"},
      {R"({"method": "mtp", "relaxed_delta": 0.6})", "relaxed_delta"},
      {R"({"method": "eagle3", "model": "h", "use_dynamic_tree": true})", "use_dynamic_tree"},
      {R"({"method": "eagle3", "model": "h", "eagle_choices": [[0]]})", "eagle_choices"},
      {R"({"method": "eagle3", "model": "h", "greedy_sampling": false})", "greedy_sampling"},
      {R"({"method": "ngram", "max_concurrency": 4})", "max_concurrency"},
      {R"({"method": "draft_model", "model": "s", "draft_tensor_parallel_size": 2})", "draft_tensor_parallel_size"},
  };
  for (const auto& [config, key] : cases) {
    const auto options = read_speculation(config);
    ASSERT_FALSE(options.ok()) << config;
    const std::string message = options.error().message();
    EXPECT_NE(message.find(*key ? key : "speculative"), std::string::npos) << config << ": " << message;
    EXPECT_EQ(options.error().param(), std::string("speculative_config") + (*key ? "." : "") + key) << message;
    EXPECT_LT(message.size(), 300u) << message;
  }
}

TEST(SpeculativeConfig, Messages) {
  const auto message = [](const char* config) { return read_speculation(config).error().message(); };
  EXPECT_EQ(message(R"({"method": "ngram", "num_tokens": 3, "max_draft_len": 4})"),
            "speculative_config says num_tokens 3 and max_draft_len 4, which mean the same thing; give one of them");
  EXPECT_EQ(
      message(R"({"method": "mtp", "relaxed_topk": 10})"),
      "speculative_config.relaxed_topk 10 is not supported: a draft is accepted if it is the token that the model "
      "samples, so answers do not change; leave it out or set it to 1");
  EXPECT_EQ(message(R"({"method": "mtp", "model": "m"})"),
            "speculative_config.model is for the method draft_model and eagle3, not for mtp");
  EXPECT_EQ(message(R"({"method": "eagle3"})"),
            "speculative_config.model is missing: eagle3 needs the draft's checkpoint");
}

// Both ways into an engine's options are checked before anything is loaded.
TEST(SpeculativeConfig, OfAnEngine) {
  EngineOptions options;
  options.speculative_config = R"({"method": "ngram", "num_tokens": 40})";
  EXPECT_EQ(check_options(options).error().param(), "speculative_config.num_tokens");
  options.speculative_config = R"({"method": "ngram", "num_tokens": 4})";
  EXPECT_TRUE(check_options(options).ok());
  options.speculative_config.clear();
  options.speculation.method = Method::eagle3;
  EXPECT_EQ(check_options(options).error().param(), "speculative_config.model");
  options.speculation = {.method = Method::mtp, .num_tokens = 17};
  EXPECT_EQ(check_options(options).error().param(), "speculative_config.num_tokens");
  options.speculation = {.method = Method::ngram, .ngram_min = 6};
  EXPECT_EQ(check_options(options).error().param(), "speculative_config.ngram_min");
}

}  // namespace
}  // namespace weft
