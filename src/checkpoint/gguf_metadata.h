// The header of a GGUF file: key-value metadata and the list of tensors, read with every length checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"
#include "checkpoint/checkpoint.h"

namespace weft {

// Numbers are widened; arrays hold one kind. Strings point into the file.
struct GgufValue {
  std::variant<int64_t, double, bool, std::string_view, std::vector<int64_t>, std::vector<double>,
               std::vector<std::string_view>>
      value;
};

class GgufMetadata {
 public:
  std::map<std::string, GgufValue, std::less<>> values;

  bool has(std::string_view key) const { return values.find(key) != values.end(); }
  // The value where it is of that kind, else `absent`. A list of equal numbers (one per layer) counts as that number.
  int64_t integer(std::string_view key, int64_t absent) const;
  double number(std::string_view key, double absent) const;
  std::string_view text(std::string_view key) const;
  std::optional<bool> flag(std::string_view key) const;
  std::optional<int64_t> id(std::string_view key) const;
  const std::vector<std::string_view>* texts(std::string_view key) const;
  const std::vector<int64_t>* integers(std::string_view key) const;
  const std::vector<double>* numbers(std::string_view key) const;
};

// tokenizer.ggml.NAME_token_id, or what llama.cpp takes where a vocabulary of that kind lacks it; nothing if there is
// no such token.
std::optional<int64_t> gguf_token_id(const GgufMetadata& metadata, std::string_view name);

struct GgufHeader {
  GgufMetadata metadata;
  std::vector<TensorInfo> tensors;    // GGUF's names; shapes outermost first; data inside the file
  std::vector<MappedFile::Pin> pins;  // of what the strings point to
};

// `source`: what `file` is of, where it must be pinned to be read; null: it is in memory.
Result<GgufHeader> parse_gguf(std::span<const std::byte> file, const MappedFile* source = nullptr);

// A Hugging Face style config for a file's metadata and tensors. Errors: architectures and variants of them that are
// not known.
Result<Json> gguf_config(const GgufHeader& header);

}  // namespace weft
