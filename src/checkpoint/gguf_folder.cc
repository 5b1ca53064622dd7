#include "checkpoint/gguf_folder.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>

#include "base/files.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/rope_scaling.h"
#include "checkpoint/sharded_writer.h"
#include "checkpoint/store_floats.h"

namespace weft {
namespace {

constexpr std::string_view kKeys = ".k_b_proj.weight", kValues = ".v_b_proj.weight";
constexpr std::string_view kFusedExperts = ".feed_forward.experts.";  // Llama 4's

bool is_plain_float(StorageType type) {
  return type == StorageType::f32 || type == StorageType::f16 || type == StorageType::bf16;
}

// What a name becomes with another end; "" if it has not that end.
std::string with_end(std::string_view name, std::string_view end, std::string_view other) {
  if (!name.ends_with(end)) return "";
  return std::string(name.substr(0, name.size() - end.size())) + std::string(other);
}

class FolderWriter {
 public:
  FolderWriter(const Checkpoint& gguf, const std::string& folder, const GgufFolderOptions& options)
      : gguf_(gguf), folder_(folder), options_(options), writer_(folder, options.shard_bytes) {}

  Result<GgufFolderReport> run() {
    if (gguf_.config().find("vision_config"))
      return fail(Code::unsupported, gguf_.path(),
                  " has an encoder of images beside it (mmproj), and only the text model is converted: put the file "
                  "where no mmproj file is");
    WEFT_RETURN_IF_ERROR(check());
    for (const auto& [name, tensor] : gguf_.tensors()) {
      WEFT_RETURN_IF_ERROR(write(name, tensor));
      gguf_.drop(tensor);
      done_ += static_cast<int64_t>(tensor.data.size());
      if (options_.progress) options_.progress(done_, total_);
    }
    WEFT_TRY(const Json config, folder_config());
    WEFT_RETURN_IF_ERROR(gguf_.check_unchanged());
    WEFT_RETURN_IF_ERROR(writer_.finish());
    WEFT_RETURN_IF_ERROR(write_file(folder_ + "/generation_config.json", gguf_.generation_config().dump() + "\n"));
    WEFT_RETURN_IF_ERROR(write_file(folder_ + "/config.json", config.dump() + "\n"));
    report_.bytes = writer_.bytes();
    return report_;
  }

 private:
  // Before anything is written: all tensors have a name and a type that can be written. Finds the matrices' type.
  Status check() {
    for (const Json* json : {&gguf_.config(), &gguf_.generation_config()})
      for (const auto& [key, value] : json->members())
        if (!is_writable(value)) return fail(Code::data_corrupt, "the metadata says a ", key, " that is not finite");
    std::map<StorageType, int64_t> sizes;
    for (const auto& [name, tensor] : gguf_.tensors()) {
      total_ += static_cast<int64_t>(tensor.data.size());
      if (name == "rope_factors") continue;
      if (!name.starts_with("model.") && !name.starts_with("lm_head."))
        return fail(Code::unsupported, "tensor ", name, " has no name in Hugging Face's form that is known");
      if (tensor.type == StorageType::unknown)
        return fail(Code::unsupported, "tensor ", name, " is of ", tensor.unknown_type, ", which is not read");
      if (!is_plain_float(tensor.type) && tensor.type != StorageType::f64 && !options_.widen)
        return fail(Code::invalid_argument, "tensor ", name, " is stored as ", weft::name(tensor.type),
                    ", and safetensors hold floats: --dtype says what such tensors are widened to");
      if (tensor.shape.size() >= 2) sizes[target(tensor.type)] += tensor.values();
    }
    int64_t most = 0;
    for (const auto& [type, values] : sizes)
      if (is_plain_float(type) && values > most) most = values, main_ = type;
    return {};
  }

  StorageType target(StorageType type) const {
    return is_plain_float(type) ? type : options_.widen.value_or(StorageType::f32);
  }

  // The type that a tensor is written in, with what was said about float32 in mind.
  Result<StorageType> type_of(const TensorInfo& tensor) const {
    const StorageType own = target(tensor.type);
    if (own != StorageType::f32 || main_ == StorageType::f32) return own;
    std::vector<float> row(static_cast<size_t>(tensor.cols()));
    for (int64_t r = 0; r < tensor.rows(); ++r) {
      WEFT_RETURN_IF_ERROR(read_rows(tensor, r, 1, row.data(), tensor.cols()));
      if (!std::ranges::all_of(row, [&](float value) { return is_stored_exactly(main_, value); })) return own;
    }
    return main_;
  }

  Status write(const std::string& name, const TensorInfo& tensor) {
    if (name == "rope_factors") return {};
    if (!is_plain_float(tensor.type)) ++report_.widened;
    if (name.ends_with(kValues)) return {};  // with its keys
    if (name.ends_with(kKeys)) return write_latent(tensor);
    if (name.find(kFusedExperts) != std::string::npos) return write_experts(name, tensor);
    WEFT_TRY(const StorageType type, type_of(tensor));
    WEFT_RETURN_IF_ERROR(begin(name, type, tensor.shape));
    return append_rows(tensor, 0, tensor.rows(), type);
  }

  Status begin(const std::string& name, StorageType type, const std::vector<int64_t>& shape) {
    ++report_.tensors;
    return writer_.begin(name, type, shape);
  }

  Status append_floats(std::span<const float> values, StorageType type) {
    bytes_.resize(values.size() * static_cast<size_t>(layout(type).block_bytes));
    store_floats(type, values, bytes_.data());
    return writer_.append(bytes_);
  }

  // Rows in Hugging Face's order: through float32, which holds every value of the 16-bit types.
  Status append_rows(const TensorInfo& tensor, int64_t first, int64_t count, StorageType type) {
    std::vector<float> row(static_cast<size_t>(tensor.cols()));
    for (int64_t r = first; r < first + count; ++r) {
      WEFT_RETURN_IF_ERROR(read_rows(tensor, r, 1, row.data(), tensor.cols()));
      WEFT_RETURN_IF_ERROR(append_floats(row, type));
    }
    return {};
  }

  // k_b [heads, rank, nope] and v_b [heads, v, rank] as rows [heads * (nope + v), rank].
  Status write_latent(const TensorInfo& keys) {
    const TensorInfo* const values = gguf_.find(with_end(keys.name, kKeys, kValues));
    if (!values || keys.shape.size() != 3 || values->shape.size() != 3 || keys.shape[0] != values->shape[0] ||
        keys.shape[1] != values->shape[2])
      return fail(Code::data_corrupt, "tensor ", keys.name, " must have the extents heads, rank and size of a key, ",
                  "and v_b_proj beside it heads, size of a value and rank");
    const int64_t heads = keys.shape[0], rank = keys.shape[1], size = keys.shape[2], value_size = values->shape[1];
    const StorageType type = target(keys.type) == target(values->type) ? target(keys.type) : StorageType::f32;
    WEFT_RETURN_IF_ERROR(
        begin(with_end(keys.name, kKeys, ".kv_b_proj.weight"), type, {heads * (size + value_size), rank}));
    std::vector<float> head(static_cast<size_t>(rank * size)), turned(head.size());
    for (int64_t h = 0; h < heads; ++h) {
      WEFT_RETURN_IF_ERROR(read_rows(keys, h * rank, rank, head.data(), size));
      for (int64_t r = 0; r < rank; ++r)
        for (int64_t c = 0; c < size; ++c)
          turned[static_cast<size_t>(c * rank + r)] = head[static_cast<size_t>(r * size + c)];
      WEFT_RETURN_IF_ERROR(append_floats(turned, type));
      WEFT_RETURN_IF_ERROR(append_rows(*values, h * value_size, value_size, type));
    }
    return {};
  }

  // Llama 4's form: gate_up_proj [experts, hidden, 2 * width], down_proj [experts, width, hidden].
  Status write_experts(const std::string& name, const TensorInfo& first) {
    const std::string scope = name.substr(0, name.find(kFusedExperts) + kFusedExperts.size());
    if (name == scope + "0.down_proj.weight") return write_fused(scope, {"down_proj"}, first);
    if (name == scope + "0.gate_proj.weight") return write_fused(scope, {"gate_proj", "up_proj"}, first);
    return {};  // with the first expert's
  }

  Status write_fused(const std::string& scope, const std::vector<std::string>& parts, const TensorInfo& first) {
    const auto part_of = [&](int64_t expert, const std::string& part) {
      return gguf_.find(scope + std::to_string(expert) + "." + part + ".weight");
    };
    int64_t experts = 0;
    while (part_of(experts, parts[0])) ++experts;
    const int64_t rows = first.rows(), cols = first.cols(), width = rows * static_cast<int64_t>(parts.size());
    const StorageType type = target(first.type);
    WEFT_RETURN_IF_ERROR(
        begin(scope + (parts.size() == 1 ? "down_proj" : "gate_up_proj"), type, {experts, cols, width}));
    std::vector<float> matrix(static_cast<size_t>(rows * cols)), turned(static_cast<size_t>(width * cols));
    for (int64_t e = 0; e < experts; ++e) {
      for (size_t p = 0; p < parts.size(); ++p) {
        const TensorInfo* const part = part_of(e, parts[p]);
        if (!part || part->rows() != rows || part->cols() != cols)
          return fail(Code::data_corrupt, "tensor ", scope, e, ".", parts[p], ".weight is absent, or its extents are ",
                      "not those of ", first.name);
        WEFT_RETURN_IF_ERROR(read_rows(*part, 0, rows, matrix.data(), cols));
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t c = 0; c < cols; ++c)
            turned[static_cast<size_t>(c * width + static_cast<int64_t>(p) * rows + r)] =
                matrix[static_cast<size_t>(r * cols + c)];
      }
      WEFT_RETURN_IF_ERROR(append_floats(turned, type));
    }
    return {};
  }

  // config.json: the reader's, without what only GGUF's form of the tensors needs.
  Result<Json> folder_config() const {
    Json config = Json::object();
    const Json* const eps = gguf_.config().find("rms_norm_eps");
    for (const auto& [key, value] : gguf_.config().members()) {
      if (key == "kv_b_split") continue;
      // Hugging Face's class has no such key: there it is always 1e-6.
      if (key == "latent_norm_eps" && eps && static_cast<float>(eps->as_number()) == 1e-6f) continue;
      config.set(key, value);
    }
    const TensorInfo* const factors = gguf_.rope_factors();
    if (factors) {
      WEFT_TRY(const std::vector<float> divisors, read_all(*factors));
      Json scaling = llama3_scaling(divisors, gguf_.config().find("rope_theta")->as_number());
      if (scaling.is_null())
        return fail(Code::unsupported,
                    "tensor rope_freqs.weight holds divisors that are not those of Llama 3, and config.json cannot "
                    "say others");
      config.set("rope_scaling", std::move(scaling));
    }
    config.set("torch_dtype", weft::name(main_));
    return config;
  }

  const Checkpoint& gguf_;
  const std::string folder_;
  const GgufFolderOptions& options_;
  ShardedWriter writer_;
  GgufFolderReport report_;
  StorageType main_ = StorageType::f32;  // of most values of matrices
  std::vector<std::byte> bytes_;
  int64_t done_ = 0, total_ = 0;
};

}  // namespace

Json llama3_scaling(std::span<const float> divisors, double theta) {
  if (divisors.empty()) return {};
  const double factor = *std::ranges::max_element(divisors), dims = 2.0 * static_cast<double>(divisors.size());
  // Llama 3's own first, then Llama 4 Scout's; 8192 first.
  std::vector<int64_t> lengths = {8192};
  for (int64_t length = 16; length <= 1 << 20; length *= 2) lengths.push_back(length);
  for (const auto& [low, high] : {std::pair(1.0, 4.0), std::pair(1.0, 1.0)})
    for (const int64_t length : lengths) {
      const RopeConfig scaling{.factor = factor,
                               .original_max_positions = static_cast<int>(length),
                               .low_freq_factor = low,
                               .high_freq_factor = high};
      const auto is_same = [&](size_t i) {
        const double frequency = std::pow(theta, -2.0 * static_cast<double>(i) / dims);
        const double wanted = frequency / llama3_frequency(frequency, scaling);
        return std::abs(divisors[i] - wanted) <= 1e-5 * wanted;
      };
      size_t same = 0;
      while (same < divisors.size() && is_same(same)) ++same;
      if (same == divisors.size())
        return Json::object({{"rope_type", "llama3"},
                             {"factor", factor},
                             {"low_freq_factor", low},
                             {"high_freq_factor", high},
                             {"original_max_position_embeddings", length}});
    }
  return {};
}

Result<GgufFolderReport> write_gguf_folder(const Checkpoint& gguf, const std::string& folder,
                                           const GgufFolderOptions& options) {
  if (!gguf.is_gguf() || gguf.is_dummy()) return fail(Code::invalid_argument, gguf.path(), " is not a GGUF file");
  return FolderWriter(gguf, folder, options).run();
}

}  // namespace weft
