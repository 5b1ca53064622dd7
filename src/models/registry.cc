#include <sstream>

#include "base/log.h"
#include "models/models.h"
#include "models/vision.h"

namespace weft::models {

static constexpr Architecture kArchitectures[] = {
    {"BertForSequenceClassification", bert_classifier, "classes of a text or a pair",
     "textattack/bert-base-uncased-imdb", "bidirectional, whole texts batched without padding"},
    {"DeciLMForCausalLM", nemotron_nas, "text", "nvidia/Llama-3_1-Nemotron-51B-Instruct",
     "heads and widths per layer, linear and absent halves"},
    {"DeepseekV3ForCausalLM", deepseek_v3, "text", "deepseek-ai/DeepSeek-V3",
     "latent attention and cache, grouped sigmoid router, shared experts, fp8 blocks, yarn"},
    {"Gemma2ForCausalLM", gemma2, "text", "google/gemma-2-2b-it", "windows, sandwich norms, soft caps"},
    {"Gemma3ForCausalLM", gemma3, "text", "google/gemma-3-1b-it", "windows, two rope bases, sandwich norms"},
    {"Gemma3ForConditionalGeneration", gemma3_with_images, "text, about images", "google/gemma-3-4b-it",
     "as Gemma3ForCausalLM; SigLIP, the tokens of an image see each other", gemma3_vision},
    {"GraniteForCausalLM", granite, "text", "ibm-granite/granite-3.3-2b-instruct", "multipliers"},
    {"Llama4ForCausalLM", llama4, "text", "Llama 4's language model alone", "as Llama4ForConditionalGeneration"},
    {"Llama4ForConditionalGeneration", llama4, "text, about images", "meta-llama/Llama-4-Scout-17B-16E-Instruct",
     "chunked attention, layers without rope, top-1 experts scaled at the input; tiles of an image", llama4_vision},
    {"LlamaForCausalLM", llama, "text", "meta-llama/Llama-3.1-8B-Instruct", "linear, llama3 and yarn rope, biases"},
    {"LlavaLlamaModel", vila, "text, about images", "Efficient-Large-Model/NVILA-8B",
     "VILA and NVILA: SigLIP, tiles or dynamic S2, sub-folder checkpoints", vila_vision},
    {"LlavaNextForConditionalGeneration", llava_next, "text, about images", "llava-hf/llava-v1.6-mistral-7b-hf",
     "CLIP, tiles of any resolution; Llama, Mistral or Qwen2 behind", llava_next_vision},
    {"MistralForCausalLM", mistral, "text", "mistralai/Mistral-7B-v0.1", "sliding window"},
    {"MixtralForCausalLM", mixtral, "text", "mistralai/Mixtral-8x7B-v0.1", "softmax router, sliding window"},
    {"MllamaForConditionalGeneration", mllama, "text, about images", "meta-llama/Llama-3.2-11B-Vision-Instruct",
     "tiled, gated tower; cross-attention layers, left out without an image", mllama_vision},
    {"NemotronForCausalLM", nemotron, "text", "nvidia/Minitron-8B-Base",
     "layer norms of 1 + w, part of a head rotated, squared ReLU"},
    {"NemotronNASForCausalLM", nemotron_nas, "text", "nvidia/Llama-3_3-Nemotron-Super-49B-v1", "as DeciLMForCausalLM"},
    {"Olmo2ForCausalLM", olmo2, "text", "allenai/OLMo-2-0425-1B-Instruct",
     "norms after the blocks and on rows of q, k"},
    {"Phi3ForCausalLM", phi3, "text", "microsoft/Phi-4-mini-instruct", "fused tensors, longrope, sliding window"},
    {"Qwen2ForCausalLM", qwen2, "text", "Qwen/Qwen2.5-7B-Instruct", "biases, window from a layer on"},
    {"Qwen2ForProcessRewardModel", qwen2_process_reward, "a reward per step", "Qwen/Qwen2.5-Math-PRM-7B",
     "step probabilities at `<extra_0>`"},
    {"Qwen2ForRewardModel", qwen2_reward, "a reward", "Qwen/Qwen2.5-Math-RM-72B", "value at the last token"},
    {"Qwen2VLForConditionalGeneration", qwen_vl, "text, about images and videos", "Qwen/Qwen2-VL-7B-Instruct",
     "any resolution, positions on three axes", qwen_vision},
    {"Qwen2_5_VLForConditionalGeneration", qwen_vl, "text, about images and videos", "Qwen/Qwen2.5-VL-7B-Instruct",
     "windows in the tower, timed video positions", qwen_vision},
    {"Qwen3ForCausalLM", qwen3, "text", "Qwen/Qwen3-8B", "head norms, yarn"},
    {"Qwen3MoeForCausalLM", qwen3_moe, "text", "Qwen/Qwen3-30B-A3B", "softmax router, dense layers between"},
};

std::span<const Architecture> architectures() { return kArchitectures; }

// The flag may stand beside text_config or in it. A pair that is saved twice with different values is not tied,
// whatever the configuration says (as in the reference).
static void decide_tying(const HfConfig& config, blocks::DecoderRecipe& recipe) {
  if (config.flag("tie_word_embeddings", false)) recipe.tied_embeddings = true;
  if (!recipe.tied_embeddings) return;
  const Scope root(recipe.root);
  const std::string head = (root / "lm_head").path() + ".weight";
  if (!config.differ((root / recipe.body / "embed_tokens").path() + ".weight", head)) return;
  log_warning("tie_word_embeddings is true, but ", head, " is another matrix than the embedding: both are used");
  recipe.tied_embeddings = false;
}

Result<Plan> build_plan(const HfConfig& config, std::span<const int> taps) {
  const std::string name = config.architecture();
  WEFT_RETURN_IF_ERROR(config.status());
  const bool has_parts = config.has("text_config") || config.has("llm_cfg");
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.name != name) continue;
    blocks::DecoderRecipe recipe = architecture.make(has_parts ? config : text_config(config));
    decide_tying(config, recipe);
    // Nothing is recorded from a configuration with a fault: its numbers are not to be trusted.
    WEFT_RETURN_IF_ERROR(config.status());
    for (const int tap : taps)
      if (tap < 0 || tap > recipe.layers)
        return fail(Code::invalid_argument, "no hidden state after ", tap, " layers: the model has ", recipe.layers);
    PlanBuilder builder(name);
    blocks::build_model(builder, recipe, taps);
    WEFT_RETURN_IF_ERROR(config.status());
    return builder.take();
  }
  std::ostringstream known;
  for (const Architecture& architecture : kArchitectures) known << (known.tellp() > 0 ? ", " : "") << architecture.name;
  return fail(Code::unsupported, "architecture ", name, " is not supported; these are: ", known.str());
}

}  // namespace weft::models
