// Every architecture, by the name that config.json gives it. A model is one function from the configuration to a
// recipe; see docs/adding-a-model.md.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "blocks/blocks.h"
#include "checkpoint/hf_config.h"

namespace weft::models {

using MakeRecipe = blocks::DecoderRecipe (*)(const HfConfig&);
struct VisionTower;  // vision.h
using MakeVision = VisionTower (*)(const HfConfig&);

struct Architecture {
  std::string_view name;  // config.json's architectures[0]
  MakeRecipe make;
  std::string_view gives;     // what comes out
  std::string_view example;   // a published checkpoint of this kind
  std::string_view features;  // what sets it apart, for the table of `weft models`
  MakeVision vision = nullptr;
};

// All of them, in alphabetical order.
std::span<const Architecture> architectures();

// Records the plan of the model that the configuration describes. Errors: unknown architecture (the message lists the
// known ones), and what is missing, wrong or unsupported in the configuration, with the key's name. `taps`: see
// blocks::build_model.
Result<Plan> build_plan(const HfConfig& config, std::span<const int> taps = {});

blocks::DecoderRecipe bert_classifier(const HfConfig&);
blocks::DecoderRecipe deepseek_v3(const HfConfig&);
blocks::DecoderRecipe gemma2(const HfConfig&);
blocks::DecoderRecipe gemma3(const HfConfig&);
blocks::DecoderRecipe gemma3_with_images(const HfConfig&);
blocks::DecoderRecipe granite(const HfConfig&);
blocks::DecoderRecipe llama(const HfConfig&);
blocks::DecoderRecipe llama4(const HfConfig&);
blocks::DecoderRecipe llava_next(const HfConfig&);
blocks::DecoderRecipe mistral(const HfConfig&);
blocks::DecoderRecipe mixtral(const HfConfig&);
blocks::DecoderRecipe mllama(const HfConfig&);
blocks::DecoderRecipe nemotron(const HfConfig&);
blocks::DecoderRecipe nemotron_nas(const HfConfig&);
blocks::DecoderRecipe olmo2(const HfConfig&);
blocks::DecoderRecipe phi3(const HfConfig&);
blocks::DecoderRecipe qwen2(const HfConfig&);
blocks::DecoderRecipe qwen2_process_reward(const HfConfig&);
blocks::DecoderRecipe qwen2_reward(const HfConfig&);
blocks::DecoderRecipe qwen_vl(const HfConfig&);
blocks::DecoderRecipe qwen3(const HfConfig&);
blocks::DecoderRecipe qwen3_moe(const HfConfig&);
blocks::DecoderRecipe vila(const HfConfig&);

// The language model's part of a configuration: text_config or (VILA) llm_cfg where there is one.
HfConfig text_config(const HfConfig&);
// How many positions the model was made for, and which keys of its text configuration say so.
struct ContextLimit {
  int positions = 0;
  std::string keys;
  bool learned = false;  // each position has a vector of its own: there are no more
};
ContextLimit context_limit(const HfConfig&);
// Checks a routing rule's numbers against each other and the kernels' limits; `key` names the experts' count.
void check_rule(const HfConfig&, const kernels::RouteRule&, std::string_view key);
// Parts of the Llama recipe that variants reuse. decoder_frame() has sizes, norm, layer form, embedding and head, but
// neither attention nor MLP.
blocks::DecoderRecipe decoder_frame(const HfConfig&);
blocks::AttentionOptions llama_attention(const HfConfig&);
blocks::MlpOptions llama_mlp(const HfConfig&);
// hidden_act (or `key`) as an activation; records an error for an unknown one.
kernels::Activation activation(const HfConfig&, std::string_view key = "hidden_act", std::string_view absent = "silu");

}  // namespace weft::models
