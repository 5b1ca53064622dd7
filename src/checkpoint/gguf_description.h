// A model's configuration as the metadata of a GGUF file, under the names that llama.cpp has now. The facts are those
// of gguf_architecture.h, from which the reader goes the other way.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/gguf_architecture.h"
#include "checkpoint/gguf_writer.h"
#include "checkpoint/hf_config.h"

namespace weft {

// The architecture of GGUF for one of config.json. Errors (unsupported): there is none; the message lists those.
Result<const GgufArchitecture*> gguf_architecture_for(const std::string& architecture);

class GgufDescription {
 public:
  // `config`: the language model's part, with the values of keys that are left out.
  GgufDescription(const HfConfig& config, const GgufArchitecture& architecture);

  HfConfig config;

  void put(std::string_view name, int64_t value);
  void put_number(std::string_view name, double value);
  void put_list(std::string_view name, std::vector<int32_t> values);
  void set_heads(std::vector<int32_t> heads, std::vector<int32_t> kv_heads);  // by layer

  int heads() const { return heads_; }          // of queries, the largest of all layers
  int head_size() const { return head_size_; }  // of keys
  int layer_heads(int layer) const { return heads_of_.empty() ? heads_ : heads_of_.at(static_cast<size_t>(layer)); }
  int layer_kv_heads(int layer) const {
    return kv_heads_of_.empty() ? kv_heads_ : kv_heads_of_.at(static_cast<size_t>(layer));
  }
  // Divisors of the rotary frequencies, for the tensor rope_freqs.weight; empty: none.
  const std::vector<float>& rope_divisors() const { return divisors_; }

  // The metadata, and config's first error.
  Result<GgufItems> items() const;

 private:
  void put_fact(const GgufFact& fact);
  void put_sizes();
  void put_rope();

  const GgufArchitecture& architecture_;
  std::map<std::string, GgufItem> values_;
  std::vector<int32_t> heads_of_, kv_heads_of_;
  std::vector<float> divisors_;
  int heads_ = 1, kv_heads_ = 1, head_size_ = 1;
};

}  // namespace weft
