// config.json to the recorded plan of a model without weights (weft plan MODEL): bounded, and in itself whole.
#include "api/recorded_plan.h"
#include "plan/cost.h"
#include "plan/split.h"
#include "target.h"

using namespace weft;

namespace {

const FuzzFolder& folder() {
  static const FuzzFolder made;
  return made;
}

// Ids of ops point into the plan's lists, and shapes are shapes.
void check(const Plan& plan) {
  const auto known = [&](const Value& value) {
    return value.storage >= 0 && static_cast<size_t>(value.storage) < plan.storages.size();
  };
  for (const Op& op : plan.ops) {
    for (const Value& value : op.in) require(known(value), "an op reads a storage of the plan");
    require(!op.out || known(*op.out), "an op writes a storage of the plan");
    for (const int matrix : matrices_of(op))
      require(matrix >= 0 && static_cast<size_t>(matrix) < plan.matrices.size(), "an op has a matrix of the plan");
  }
  for (const Storage& storage : plan.storages) require(storage.cols >= 0, "a storage has columns");
  for (const Matrix& matrix : plan.matrices)
    require(matrix.k > 0 && matrix.out() > 0 && matrix.out() < int64_t{1} << 48, "a matrix has rows and columns");
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  std::vector<std::string> seeds;
  for (const char* name : {"llama-3.1",       "bert-wordpiece-gamma",
                           "decilm-51b",      "deepseek-v3",
                           "deepseek-v3-fp8", "gemma2",
                           "gemma3-1b",       "granite",
                           "llama4",          "llava-next-mistral",
                           "mistral-swa",     "mixtral",
                           "mllama-text",     "nemotron",
                           "nvila",           "olmo2",
                           "phi3-longrope",   "qwen2-prm",
                           "qwen2-rm",        "qwen2-swa",
                           "qwen2-vl",        "qwen2.5-vl",
                           "qwen3",           "qwen3-moe"})
    seeds.push_back(seed_file("golden/" + std::string(name) + "/config.json"));
  for (const char* name : {"deepseek-v3", "llama-4-scout", "qwen3-235b-a22b"})
    seeds.push_back(seed_file("configs/" + std::string(name) + "/config.json"));
  return seeds;
}
std::vector<std::string> fuzz_words() {
  return {"\"hidden_size\": ",
          "\"num_hidden_layers\": ",
          "\"num_attention_heads\": ",
          "\"num_key_value_heads\": ",
          "\"head_dim\": ",
          "\"vocab_size\": ",
          "\"intermediate_size\": ",
          "\"rope_scaling\": ",
          "\"rope_type\": ",
          "\"yarn\"",
          "\"longrope\"",
          "\"llama3\"",
          "\"factor\": ",
          "\"sliding_window\": ",
          "\"layer_types\": ",
          "\"full_attention\"",
          "\"num_experts\": ",
          "\"num_experts_per_tok\": ",
          "\"quantization_config\": ",
          "\"text_config\": ",
          "\"vision_config\": ",
          "\"max_position_embeddings\": ",
          "null",
          "true",
          "[]",
          "{}",
          "16777216",
          "0",
          "1e300"};
}
void mend(std::string&) {}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string path = folder().put("config.json", copy_of(data, size));
  EngineOptions options;
  // A context and rows that a server could have; the shapes are what the input decides.
  options.max_seq_len = 256, options.max_num_tokens = 64, options.max_batch_size = 4;
  options.dtype = size % 2 ? ComputeType::bfloat16 : ComputeType::float32;
  const auto recorded = record_plan(path, options);
  if (!recorded.ok()) return require_message(recorded.error()), 0;
  check(recorded->plan);
  const HeldBytes held = held_bytes(recorded->plan, recorded->form, recorded->cache);
  require(held.weight_bytes() >= 0 && held.cache_per_token >= 0, "what is held is countable");
  const auto share = split_plan(recorded->plan, {.tensor = 2}, size / 2 % 2);
  if (!share.ok()) return require_message(share.error()), 0;
  check(recorded->prepared(*share));
  return 0;
}
