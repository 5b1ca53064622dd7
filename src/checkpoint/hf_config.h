// A checked, read-only view of a config.json. Recipes read it with plain expressions (`c.count("hidden_size")`): the
// first thing that is wrong is remembered, accessors return something harmless from then on, and the loader asks
// status() once at the end. Both spellings of Hugging Face configs are understood: transformers 4 (torch_dtype,
// rope_theta, rope_scaling) and 5 (dtype, rope_parameters, layer_types).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "checkpoint/rope_config.h"

namespace weft {

class Checkpoint;

// How a layer's attention is limited, as `layer_types` names it: full_attention, sliding_attention, chunked_attention.
enum class LayerKind : uint8_t { full, window, chunk };

// Whether JSON can write it: numbers from GGUF metadata may be infinite or NaN.
bool is_writable(const Json& value);

// Copies share the document and the remembered error; copying is cheap. Not thread-safe. Keys may be dotted paths
// ("text_config.hidden_size"). A null value counts as absent, but never gets a
// value of with_defaults().
class HfConfig {
 public:
  // Limits: a count above kMaxCount or a position count above kMaxPositions is refused, so that products of two stay
  // within int64 and no recipe overflows int.
  static constexpr int kMaxCount = 1 << 24;
  static constexpr int kMaxPositions = 1 << 30;
  // For every key that ends in num_hidden_layers: a plan is recorded layer by layer before any tensor is looked for.
  static constexpr int kMaxLayers = 1 << 12;

  // `where` names the document in messages.
  explicit HfConfig(Json document, std::string where = "config.json");
  // The config of a checkpoint, which also knows the checkpoint's tensors.
  // `context`: the positions that the engine makes room for; 0: all of the model's.
  static HfConfig of(const Checkpoint& checkpoint, int context = 0);

  bool has(std::string_view key) const { return value(key) != nullptr; }
  const Json* value(std::string_view key) const;  // null if absent or null
  bool is_null(std::string_view key) const;       // written as null, not absent; `key` is no path

  // Whole numbers from 1 to kMaxCount. The one-argument forms require the key. On error: 1.
  int count(std::string_view key) const;
  int count(std::string_view key, int absent) const;
  // Whole numbers from 0 to kMaxCount. On error: 0.
  int index(std::string_view key) const;
  int index(std::string_view key, int absent) const;
  // The context of of(), or max_position_embeddings.
  int context() const;
  // Context lengths: 1 to kMaxPositions; larger ones are taken as kMaxPositions.
  int positions(std::string_view key) const;
  int positions(std::string_view key, int absent) const;
  // Finite numbers. On error: 1.
  double number(std::string_view key) const;
  double number(std::string_view key, double absent) const;
  // Finite numbers above 0 (norm epsilons, scales, rope bases). On error: 1.
  double positive(std::string_view key) const;
  double positive(std::string_view key, double absent) const;
  // true or false; whole numbers count as in Python (early Llama 4 files have "attn_temperature_tuning": 4).
  bool flag(std::string_view key, bool absent) const;
  std::string text(std::string_view key) const;  // on error ""
  std::string text(std::string_view key, std::string_view absent) const;
  // One of `allowed`, else an error that lists them (on error the first).
  std::string choice(std::string_view key, std::string_view absent, const std::vector<std::string_view>& allowed) const;
  // Lists of whole numbers >= 0; a single number is a list of one. Empty if absent.
  std::vector<int> indices(std::string_view key) const;
  std::vector<std::string> texts(std::string_view key) const;
  std::vector<double> numbers(std::string_view key) const;
  // Items of a list of objects (block_configs), each as a view; empty if absent.
  std::vector<HfConfig> list(std::string_view key) const;
  // The same view, with values for keys that are absent, not null (saved configurations leave out what equals
  // transformers' defaults).
  HfConfig with_defaults(Json defaults) const;
  // A nested object (text_config, vision_config). An absent one is an error and yields an empty view.
  HfConfig sub(std::string_view key) const;

  // architectures[0].
  std::string architecture() const;
  // `dtype` or `torch_dtype` without "torch."; "" if absent.
  std::string dtype() const;
  // The first extent of a tensor, for the few sizes that configurations leave out; `absent` where the checkpoint is not
  // at hand or has no such tensor.
  int tensor_rows(std::string_view tensor, int absent) const;
  // Whether both tensors are in the checkpoint and their values differ.
  bool differ(std::string_view tensor, std::string_view other) const;
  // Token ids, a single one or a list; negative ones (meaning "none") are left out. Empty if absent.
  std::vector<int> token_ids(std::string_view key) const;
  std::vector<int> eos_token_ids() const { return token_ids("eos_token_id"); }
  // head_dim, or hidden_size / num_attention_heads, which must then divide. Even, as rope needs it.
  int head_dim() const;
  // num_key_value_heads (absent: num_attention_heads), which must divide num_attention_heads.
  int kv_heads() const;
  // `layer_types`, which must then have `layers` entries of known kinds; empty if absent (the recipe knows its family's
  // rule).
  std::vector<LayerKind> layer_types(int layers) const;
  // Rotary settings for layers of a kind. `theta` is the family's default. Reads rope_parameters (flat, or one object
  // per kind), else rope_theta and rope_scaling; for `window` and a config with rope_local_base_freq (Gemma 3, version
  // 4) that base without scaling. Longrope (Phi 3), if `head_dim` is given: the long factors if the context is more
  // than original_max_position_embeddings, else the short ones. Unknown kinds (dynamic, ...) are an error that names
  // rope_scaling and the kind.
  RopeConfig rope(LayerKind kind = LayerKind::full, double theta = 10000.0, int head_dim = 0) const;

  // Remembers an error about a key (unless one is remembered already): "config.json: KEY is VALUE, PROBLEM".
  void reject(std::string_view key, std::string_view problem, Code code = Code::invalid_argument) const;
  // The first error so far.
  Status status() const;

 private:
  struct Shared;
  HfConfig(std::shared_ptr<Shared> shared, const Json* node, std::string prefix);
  const Json* required(std::string_view key) const;
  int whole(const Json* value, std::string_view key, int64_t low, int64_t high) const;

  std::shared_ptr<Shared> shared_;
  const Json* node_;
  std::shared_ptr<const Json> defaults_;
  std::string prefix_;
};

}  // namespace weft
