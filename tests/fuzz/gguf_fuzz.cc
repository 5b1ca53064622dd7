// A GGUF file: header, config, names, the tokenizer inside. What opens has its tensors in the file and its tokens once.
#include <map>

#include "api/text_side.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf_metadata.h"
#include "target.h"

using namespace weft;

namespace {

const FuzzFolder& folder() {
  static const FuzzFolder made;
  return made;
}

void check_tensors(const GgufHeader& header, const std::string& file) {
  const auto* begin = reinterpret_cast<const std::byte*>(file.data());
  for (const TensorInfo& tensor : header.tensors) {
    require(tensor.data.empty() || (tensor.data.data() >= begin && tensor.data.size() <= file.size() &&
                                    tensor.data.data() + tensor.data.size() <= begin + file.size()),
            "a tensor lies in the file");
    require(tensor.values() >= 0, "a tensor has a size");
    if (tensor.values() > 1 << 16) continue;
    const auto values = read_all(tensor);
    require(!values.ok() || values->size() == static_cast<size_t>(tensor.values()), "all values are read");
  }
}

// The header and config again, now through the mapped file, and the tokenizer of the metadata.
void open_whole(const std::string& path) {
  const auto opened = Checkpoint::open(path);
  if (!opened.ok()) return require_message(opened.error());
  for (const auto& [name, tensor] : (*opened)->tensors()) require(!name.empty(), "a tensor has a name");
  const auto text = load_text(path, "");
  if (!text.ok()) return require_message(text.error());
  if (!text->tokenizer) return;
  const auto ids = text->tokenizer->encode("Hello, \xc3\xbc 12\n");
  if (!ids.ok()) return require_message(ids.error());
  for (const int32_t id : *ids)
    require(id >= 0 && id < text->tokenizer->vocab_size(), "an id is one of the vocabulary");
}

// An encoder of images beside a good model.
void open_encoder(const GgufHeader& header, const std::string& file) {
  const std::string_view projector = header.metadata.text("clip.projector_type");
  const char* const model = projector == "gemma3"            ? "gemma3"
                            : projector == "llama4"          ? "llama4"
                            : projector.starts_with("qwen2") ? "qwen2vl"
                                                             : "llama";
  static std::map<std::string, std::string> models;
  std::string& path = models[model];
  if (path.empty())
    path = folder().put(std::string(model) + ".gguf", seed_file("checkpoint/" + std::string(model) + ".gguf"));
  const std::string encoder = folder().put("encoder.gguf", file);
  const auto opened = Checkpoint::open(path, LoadMode::mmap, encoder);
  if (!opened.ok()) return require_message(opened.error());
  for (const auto& [name, tensor] : (*opened)->tensors())
    if (tensor.values() <= 1 << 16) (void)read_all(tensor).ok();
  const auto text = load_text(path, "", encoder);
  if (!text.ok()) require_message(text.error());
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  std::vector<std::string> seeds;
  for (const char* name : {"llama", "qwen2", "qwen3", "gemma3", "mixtral", "qwen3moe", "llama4", "deepseek2",
                           "deepseek2-old", "deci", "nemotron", "qwen2vl", "parts-00001-of-00004", "mmproj-gemma3",
                           "mmproj-llama4", "mmproj-mlp", "mmproj-qwen2.5vl_merger", "mmproj-qwen2vl_merger"})
    seeds.push_back(seed_file("checkpoint/" + std::string(name) + ".gguf"));
  return seeds;
}
std::vector<std::string> fuzz_words() {
  return {"general.architecture",
          "general.alignment",
          "tokenizer.ggml.tokens",
          "tokenizer.ggml.merges",
          "tokenizer.ggml.token_type",
          "tokenizer.ggml.scores",
          "tokenizer.chat_template",
          ".block_count",
          ".embedding_length",
          ".attention.head_count",
          ".rope.scaling.type",
          ".rope.dimension_count",
          ".expert_count",
          ".attention.head_count_kv",
          ".feed_forward_length",
          "split.count",
          "blk.0.attn_qkv.weight",
          "blk.0.ffn_gate_up_exps.weight",
          "clip.projector_type",
          "clip.vision.block_count",
          "tokenizer.ggml.precompiled_charsmap",
          "t5",
          "llama",
          "qwen2",
          "gemma3",
          "gpt2",
          std::string("\0\0\0\0\0\0\0\0", 8),
          std::string("\xff\xff\xff\xff\xff\xff\xff\x7f", 8),
          std::string("\x09\0\0\0", 4),
          std::string("\x08\0\0\0", 4)};
}
void mend(std::string&) {}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string file = copy_of(data, size);
  const auto header = parse_gguf(std::as_bytes(std::span(file)));
  if (!header.ok()) return require_message(header.error()), 0;
  check_tensors(*header, file);
  if (header->metadata.text("general.architecture") == "clip") return open_encoder(*header, file), 0;
  const auto config = gguf_config(*header);
  if (!config.ok()) return require_message(config.error()), 0;
  require(config->find("architectures") != nullptr, "a config names its architecture");
  open_whole(folder().put("m.gguf", file));
  return 0;
}
