// Writes a .safetensors file tensor by tensor, without holding the data: room for the header is kept at the front (the
// format allows spaces behind the header's JSON) and filled in at the end. The file appears under its name only when it
// is complete.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "checkpoint/storage_type.h"

namespace weft {

class SafetensorsWriter {
 public:
  struct Options {
    std::vector<std::pair<std::string, std::string>> metadata;  // "__metadata__"
    size_t expected_tensors = 64;  // room kept in the header; more tensors cost one extra copy of the file at the end
  };

  static Result<SafetensorsWriter> create(const std::string& path, Options options);
  static Result<SafetensorsWriter> create(const std::string& path) { return create(path, Options()); }
  SafetensorsWriter(SafetensorsWriter&&) noexcept;
  SafetensorsWriter& operator=(SafetensorsWriter&&) noexcept;
  ~SafetensorsWriter();  // without finish(), nothing is left behind

  // Starts the next tensor; the one before must be complete. Names must be new; block formats and `random` cannot be
  // stored.
  Status begin(std::string_view name, StorageType type, const std::vector<int64_t>& shape);
  // The next bytes of the tensor begun (little-endian values, row-major).
  Status append(std::span<const std::byte> bytes);
  // begin() and append() at once.
  Status add(std::string_view name, StorageType type, const std::vector<int64_t>& shape,
             std::span<const std::byte> bytes);
  Status add(std::string_view name, const std::vector<int64_t>& shape, std::span<const float> values);
  Status add(std::string_view name, const std::vector<int64_t>& shape, std::span<const int64_t> values);
  // Writes the header and gives the file its name.
  Status finish();

 private:
  struct State;
  explicit SafetensorsWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace weft
