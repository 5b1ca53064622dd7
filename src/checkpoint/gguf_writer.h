// Writes a GGUF file (version 3) without holding it in memory: metadata and the list of tensors first, then the tensors
// in their order. See gguf.cc for the reader.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"
#include "checkpoint/storage_type.h"

namespace weft {

// A metadata value, in the type that llama.cpp reads it in.
using GgufItem = std::variant<uint32_t, int32_t, float, bool, std::string, std::vector<int32_t>, std::vector<float>,
                              std::vector<std::string>>;
using GgufItems = std::vector<std::pair<std::string, GgufItem>>;

struct GgufTensorPlan {
  std::string name;  // GGUF's
  StorageType type = StorageType::f32;
  std::vector<int64_t> shape;  // outermost first
  int64_t bytes() const;
};

class GgufWriter {
 public:
  // Begins the file beside `path`, at temporary(), and writes its header. Nothing lies at `path` before publish().
  // Errors: a file is there already; a type that GGUF has no number for; rows that are no whole blocks.
  static Result<GgufWriter> create(const std::string& path, const GgufItems& metadata,
                                   std::vector<GgufTensorPlan> tensors);
  GgufWriter(GgufWriter&&) noexcept;
  GgufWriter& operator=(GgufWriter&&) noexcept;
  ~GgufWriter();  // without publish(), nothing is left behind

  // The next bytes of the tensors, one after the other; a tensor that is complete is followed by the next.
  Status append(std::span<const std::byte> bytes);
  // Ends the file; an error if a tensor lacks bytes. It can be opened at temporary() then.
  Status finish();
  const std::string& temporary() const;  // ends in .gguf
  // Gives the file its name.
  Status publish();

 private:
  struct State;
  explicit GgufWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace weft
