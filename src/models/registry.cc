#include <sstream>

#include "models/models.h"

namespace weft::models {

static constexpr Architecture kArchitectures[] = {
    {"BertForSequenceClassification", bert_classifier, "textattack/bert-base-uncased-yelp-polarity"},
    {"DeciLMForCausalLM", nemotron_nas, "nvidia/Llama-3_1-Nemotron-51B-Instruct"},
    {"DeepseekV3ForCausalLM", deepseek_v3, "deepseek-ai/DeepSeek-V3"},
    {"Gemma3ForCausalLM", gemma3, "google/gemma-3-1b-it"},
    {"Llama4ForCausalLM", llama4, "the language model of Llama 4 alone"},
    {"Llama4ForConditionalGeneration", llama4, "meta-llama/Llama-4-Scout-17B-16E-Instruct"},
    {"LlamaForCausalLM", llama, "meta-llama/Llama-3.1-8B-Instruct"},
    {"MistralForCausalLM", mistral, "mistralai/Mistral-7B-v0.1"},
    {"MixtralForCausalLM", mixtral, "mistralai/Mixtral-8x7B-v0.1"},
    {"MllamaForConditionalGeneration", mllama, "meta-llama/Llama-3.2-11B-Vision-Instruct"},
    {"NemotronForCausalLM", nemotron, "nvidia/Minitron-8B-Base"},
    {"NemotronNASForCausalLM", nemotron_nas, "nvidia/Llama-3_3-Nemotron-Super-49B-v1"},
    {"Qwen2ForCausalLM", qwen2, "Qwen/Qwen2-7B-Instruct"},
    {"Qwen2ForProcessRewardModel", qwen2_process_reward, "Qwen/Qwen2.5-Math-PRM-7B"},
    {"Qwen2ForRewardModel", qwen2_reward, "Qwen/Qwen2.5-Math-RM-72B"},
    {"Qwen3ForCausalLM", qwen3, "Qwen/Qwen3-8B"},
    {"Qwen3MoeForCausalLM", qwen3_moe, "Qwen/Qwen3-30B-A3B"},
};

std::span<const Architecture> architectures() { return kArchitectures; }

Result<Plan> build_plan(const HfConfig& config) {
  const std::string name = config.architecture();
  WEFT_RETURN_IF_ERROR(config.status());
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.name != name) continue;
    const blocks::DecoderRecipe recipe = architecture.make(config);
    // Nothing is recorded from a configuration with a fault: its numbers are not to be trusted.
    WEFT_RETURN_IF_ERROR(config.status());
    PlanBuilder builder(name);
    blocks::build_model(builder, recipe);
    WEFT_RETURN_IF_ERROR(config.status());
    return builder.take();
  }
  std::ostringstream known;
  for (const Architecture& architecture : kArchitectures) known << (known.tellp() > 0 ? ", " : "") << architecture.name;
  return fail(Code::unsupported, "architecture ", name, " is not supported; these are: ", known.str());
}

}  // namespace weft::models
