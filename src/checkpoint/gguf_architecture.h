// The architectures that GGUF files name (general.architecture), and what each keeps under which name. The numbers that
// a name implies are those of llama.cpp (src/models/*.cpp, load_arch_hparams), the names of tensors those of gguf-py
// (constants.py).
#pragma once

#include <array>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "checkpoint/gguf_metadata.h"

namespace weft {

class GgufConfig;
class GgufDescription;

// A fact that config.json and a file's metadata both state, for both directions.
struct GgufFact {
  enum Kind : uint8_t { count, number, flag, implied_number, implied_flag, implied_text };
  std::string_view config;    // key of config.json
  std::string_view metadata;  // key behind "<architecture>."; empty (implied_*): the architecture's name alone says it
  Kind kind = count;
  // What a file without the key means, or of implied facts their value; none: the key is required.
  std::optional<double> absent = std::nullopt;
  std::string_view text = {};  // of implied_text
  bool set = true;             // implied: whether the reader writes it to config.json, where it is no default
};

// One architecture of llama.cpp that an architecture of Hugging Face stands for.
struct GgufArchitecture {
  std::string_view name;                      // general.architecture
  std::string_view architecture, model_type;  // as config.json has them
  std::string_view gives;                     // what of it is read, for the table of docs/gguf.md
  std::span<const GgufFact> facts = {};       // beyond those that all have
  // What is no plain fact: from metadata to config.json, and from config.json to metadata.
  void (*configure)(GgufConfig&);
  void (*describe)(GgufDescription&) = nullptr;
  std::string_view also = {};   // another architecture of config.json that such a file can stand for
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
  void set(const GgufFact& fact);
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

// The opposite: where a tensor of Hugging Face's name is in a file.
struct GgufPlace {
  std::string tensor;  // GGUF's name; of an expert's matrix that of the tensor with all experts
  int expert = -1;
  bool rotary_query = false, rotary_key = false;  // rows that are interleaved within each head of queries or keys
  bool one_plus = false;                          // stored as 1 + w
};
// Nothing: the architecture has no such tensor.
std::optional<GgufPlace> gguf_place(const GgufArchitecture& architecture, std::string_view name);

// Suggested sampling values: metadata, and the field of generation_config.json.
std::span<const std::pair<const char*, const char*>> gguf_sampling_keys();

// Those that all architectures have (head counts, widths of heads and MLPs, rope and tokens are more than facts).
std::span<const GgufFact> common_gguf_facts();

}  // namespace weft
