// The architectures that GGUF files name (general.architecture), and what each keeps under which name. The numbers that
// a name implies are those of llama.cpp (src/models/*.cpp, load_arch_hparams), the names of tensors those of gguf-py
// (constants.py).
#pragma once

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "checkpoint/gguf_metadata.h"

namespace weft {

class GgufConfig;

// One architecture of llama.cpp that an architecture of Hugging Face stands for.
struct GgufArchitecture {
  std::string_view name;                      // general.architecture
  std::string_view architecture, model_type;  // as config.json has them
  std::string_view gives;                     // what of it is read, for the table of docs/gguf.md
  // What the metadata says, as config.json would have it, beyond what all have.
  void (*configure)(GgufConfig&);
  bool with_experts = false;    // of two with one name: the one for files with experts
  bool rotary_order = false;    // rows of q and k are interleaved within each head
  bool one_plus_norms = false;  // norm weights are stored as 1 + w
  // Names of a layer's parts, below "model.layers.N."
  std::string_view mlp = "mlp", router = "mlp.gate", experts = "mlp.experts", shared = "mlp.shared_experts";
  std::array<std::string_view, 3> expert = {"gate_proj", "up_proj", "down_proj"};
  std::span<const std::pair<std::string_view, std::string_view>> names = {};  // before the common ones
};

// All of them, by name.
std::span<const GgufArchitecture> gguf_architectures();
// The one that a file is of. Errors: no architecture, one that is not known (the message lists the known ones), an
// encoder of images in place of a model.
Result<const GgufArchitecture*> gguf_architecture(const GgufMetadata& metadata);

// Reads "<architecture>.KEY" of the metadata and writes config.json's keys. The first thing that is missing or wrong is
// remembered with its full key; what is read is harmless from then on.
class GgufConfig {
 public:
  GgufConfig(const GgufHeader& header, const GgufArchitecture& architecture);

  Json& json() { return json_; }
  const GgufMetadata& metadata() const { return header_.metadata; }
  const GgufArchitecture& architecture() const { return architecture_; }
  const TensorInfo* find(std::string_view tensor) const;  // GGUF's name; null: none
  std::string key(std::string_view name) const { return std::string(architecture_.name) + "." + std::string(name); }

  bool has(std::string_view name) const { return metadata().has(key(name)); }
  // Whole numbers from 0 to HfConfig::kMaxCount. The form with one argument requires the key.
  int64_t count(std::string_view name);
  int64_t count(std::string_view name, int64_t absent);
  // A number for each layer: a list of as many, or one for all.
  std::vector<int64_t> per_layer(std::string_view name);
  double number(std::string_view name, double absent) const { return metadata().number(key(name), absent); }
  bool flag(std::string_view name, bool absent) const;

  void set(std::string_view name, Json value) { json_.set(std::string(name), std::move(value)); }
  void copy(std::string_view name, std::string_view from);  // a required count
  void reject(std::string_view name, std::string_view problem, Code code = Code::unsupported);
  Status status() const;

  int64_t layers() const { return layers_; }
  int64_t heads() const { return heads_; }          // the largest of all layers
  int64_t head_size() const { return head_size_; }  // of keys

 private:
  void set_common();
  void set_rope();
  void set_tokens();

  const GgufHeader& header_;
  const GgufArchitecture& architecture_;
  Json json_ = Json::object();
  std::optional<Error> error_;
  int64_t layers_ = 1, heads_ = 1, head_size_ = 1;
};

// How the tensors of a file are called by Hugging Face and what was done to their values; puts them into `builder`.
// Their `file` says where they are.
struct CheckpointBuilder;
Status add_gguf_tensors(CheckpointBuilder& builder, const GgufArchitecture& architecture, GgufHeader& header);

}  // namespace weft
