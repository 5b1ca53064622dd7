// What the readers of quantised formats share: finding a module's tensors, checking them, and putting the matrix that
// they make in their place.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/builder.h"
#include "checkpoint/quant/coded_matrix.h"

namespace weft {

// Errors of all of these name the tensor.
class Joiner {
 public:
  // `settings`: the object that describes the method, found at `where` ("config.json: quantization_config"). `config`:
  // config.json.
  Joiner(CheckpointBuilder& builder, const Json& config, const Json& settings, std::string where)
      : builder_(builder), config_(config), settings_(settings), where_(std::move(where)) {}

  const Json& config() const { return config_; }
  const Json& settings() const { return settings_; }
  const std::string& where() const { return where_; }
  CheckpointBuilder& builder() { return builder_; }

  // The modules that have a tensor MODULE + `end` (".qweight"), sorted.
  std::vector<std::string> modules_with(std::string_view end) const;
  bool has(const std::string& name) const { return builder_.find(name) != nullptr; }
  // The name that the module's tensors have in the file, as the patterns of configurations mean it.
  std::string stored_name(const std::string& tensor) const;

  // Takes a tensor out of the checkpoint, since it is no weight of its own. not_found without it.
  Result<TensorInfo> take(const std::string& name, std::string_view why);
  std::optional<TensorInfo> take_optional(const std::string& name);
  void discard(const std::string& name) { (void)take_optional(name); }
  // Makes tensor MODULE.weight of the matrix. One that is there already is an error. `name`: if it is not that.
  Status add(CodedMatrix matrix, std::string name = "", InputRounding rounding = {});

  // An integer setting under the first of `keys` that is there, of at least `low`; `absent` if none is (nothing: an
  // error). In `object`, or in the settings.
  Result<int64_t> whole(std::initializer_list<const char*> keys, std::optional<int64_t> absent, int64_t low) const {
    return whole(settings_, keys, absent, low);
  }
  Result<int64_t> whole(const Json& object, std::initializer_list<const char*> keys, std::optional<int64_t> absent,
                        int64_t low) const;
  bool flag(const char* key, bool absent) const;
  std::string text(const char* key) const;  // "" if absent or no text

 private:
  CheckpointBuilder& builder_;
  const Json &config_, &settings_;
  std::string where_;
};

// Checks of a tensor; data_corrupt with its name.
Status expect_shape(const TensorInfo& tensor, const std::vector<int64_t>& shape, std::string_view why);
Status expect_type(const TensorInfo& tensor, StorageType type);
// Two extents of at most 2^31, so that products of one with a few bits stay within int64.
Status expect_matrix(const TensorInfo& tensor);
// f16, bf16 or f32.
Status expect_float(const TensorInfo& tensor);
// A scalar: one float32 (or 16-bit) value, finite and not 0.
Result<float> sole_factor(const TensorInfo& tensor);
std::string shape_text(const std::vector<int64_t>& shape);
// The place of a matrix's fields where each row is a little-endian stream of whole words.
PackedFields row_fields(TensorInfo tensor, int64_t rows, int64_t cols, int bits, int word_bytes);
// The columns' groups from int32 [cols]: empty if they are in order. Groups outside [0, groups) are refused.
Result<std::vector<int32_t>> read_groups(const TensorInfo& tensor, int64_t cols, int64_t group_size, int64_t groups);
constexpr int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The sixteen values of e2m1 by code: sign, two bits of exponent, one of mantissa.
extern const std::array<float, 16> kE2m1;

}  // namespace weft
