#include <sstream>

#include "models/models.h"

namespace weft::models {

static constexpr Architecture kArchitectures[] = {
    {"Gemma3ForCausalLM", gemma3, "google/gemma-3-1b-it"},
    {"LlamaForCausalLM", llama, "meta-llama/Llama-3.1-8B-Instruct"},
    {"MistralForCausalLM", mistral, "mistralai/Mistral-7B-v0.1"},
    {"Qwen2ForCausalLM", qwen2, "Qwen/Qwen2-7B-Instruct"},
    {"Qwen3ForCausalLM", qwen3, "Qwen/Qwen3-8B"},
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
    blocks::build_decoder(builder, Scope(), recipe);
    WEFT_RETURN_IF_ERROR(config.status());
    return builder.take();
  }
  std::ostringstream known;
  for (const Architecture& architecture : kArchitectures) known << (known.tellp() > 0 ? ", " : "") << architecture.name;
  return fail(Code::unsupported, "architecture ", name, " is not supported; these are: ", known.str());
}

}  // namespace weft::models
