#include "plan/quantize_checkpoint.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <system_error>

#include "base/file_descriptor.h"
#include "base/files.h"
#include "base/folder.h"
#include "checkpoint/sharded_writer.h"
#include "kernels/quantize.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kWeight = ".weight";

// Files that go along: everything that is not weights, or says where they are.
bool goes_along(std::string_view name) {
  for (const std::string_view weights : {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"})
    if (name.ends_with(weights)) return false;
  return name != "config.json" && !name.ends_with(".index.json") && !name.starts_with(".");
}

std::string module_of(std::string_view tensor) {
  return std::string(tensor.substr(0, tensor.ends_with(kWeight) ? tensor.size() - kWeight.size() : tensor.size()));
}

// The weights of products, by tensor: columns of a row. An error where one is not a matrix of its own.
class Products {
 public:
  Products(const Checkpoint& checkpoint, const Plan& plan) : checkpoint_(checkpoint), plan_(plan) {}

  Status find() {
    for (const Op& op : plan_.ops) {
      const bool head = std::holds_alternative<LinearOp>(op.kind) && op.out->storage == plan_.output.storage;
      if (head || std::holds_alternative<EmbedOp>(op.kind)) continue;
      for (const int index : matrices_of(op)) WEFT_RETURN_IF_ERROR(take(plan_.matrices[static_cast<size_t>(index)]));
    }
    return {};
  }
  bool contains(const std::string& tensor) const { return names_.contains(tensor) || turned_.contains(tensor); }
  // Groups lie along what products add up, and latent attention adds up a part of its kv_b_proj the other way.
  bool is_turned(const std::string& tensor) const { return turned_.contains(tensor); }

 private:
  Status take(const Matrix& matrix) {
    if (matrix.keep_float32) return {};
    for (const TensorRows& source : matrix.sources) {
      const TensorInfo* const tensor = checkpoint_.find(source.tensor);
      if (!tensor) return fail(Code::not_found, "tensor ", source.tensor, " is absent");
      if (tensor->shape.size() != 2 || !source.tensor.ends_with(kWeight))
        return fail(Code::unsupported, "tensor ", source.tensor,
                    " holds the weights of a product, and not as a matrix [out, in] of its own: such checkpoints "
                    "cannot be written in compressed-tensors' spelling");
      if (tensor->type != StorageType::f32 && tensor->type != StorageType::f16 && tensor->type != StorageType::bf16)
        return fail(Code::invalid_argument, "tensor ", source.tensor, " is stored as ", name(tensor->type),
                    ", and only float32, float16 and bfloat16 are quantised");
      (source.transposed ? turned_ : names_).insert(source.tensor);
    }
    return {};
  }

  const Checkpoint& checkpoint_;
  const Plan& plan_;
  std::set<std::string> names_, turned_;
};

// Of a row, whose words they fill: as a stream of bits from 0 on, where int8 is two's complement.
void pack_codes(std::span<const uint8_t> codes, int bits, uint32_t* words) {
  uint64_t held = 0;
  int count = 0;
  for (const uint8_t code : codes) {
    held |= static_cast<uint64_t>(bits == 8 ? code ^ 0x80u : code) << count;
    count += bits;
    if (count < 32) continue;
    *words++ = static_cast<uint32_t>(held);
    held >>= 32, count -= 32;
  }
}

class Quantizer {
 public:
  Quantizer(const Checkpoint& checkpoint, const Products& products, const std::string& folder,
            const QuantizeOptions& options)
      : checkpoint_(checkpoint), products_(products), options_(options), folder_(folder),
        writer_(folder, options.shard_bytes) {}

  Result<QuantizeReport> run() {
    for (const auto& [name, tensor] : checkpoint_.tensors()) {
      report_.bytes_before += static_cast<int64_t>(tensor.data.size());
      ++tensors_of_[tensor.stored_name];
    }
    for (const auto& [name, tensor] : checkpoint_.tensors()) {
      const bool product = products_.contains(name);
      if (product && !products_.is_turned(name) && tensor.cols() % group() == 0) {
        WEFT_RETURN_IF_ERROR(quantize(tensor));
        ++report_.matrices;
      } else {
        if (product) report_.kept.push_back(name);
        const std::string stored = name_of(tensor);
        if (tensor.shape.size() >= 2 && stored.ends_with(kWeight)) ignored_.push_back(module_of(stored));
        WEFT_RETURN_IF_ERROR(copy(tensor));
      }
      checkpoint_.drop(tensor);
      done_ += static_cast<int64_t>(tensor.data.size());
      if (options_.progress) options_.progress(done_, report_.bytes_before);
    }
    if (report_.matrices == 0)
      return fail(Code::unsupported, "no product has a multiple of ", group(), " inputs, so nothing can be quantised");
    WEFT_RETURN_IF_ERROR(checkpoint_.check_unchanged());
    WEFT_RETURN_IF_ERROR(writer_.finish());
    report_.bytes_after = writer_.bytes();
    WEFT_RETURN_IF_ERROR(write_config());
    return report_;
  }

 private:
  static kernels::WeightFormat int8_format(int64_t cols) {
    return kernels::quantized_format(kernels::WeightForm::int8, static_cast<int>(cols), kernels::Operand::f32);
  }
  int group() const { return options_.bits == 8 ? int8_format(1 << 12).groups.size : kernels::kFitGroup; }

  // Of a tensor's columns, as numbers around 1 and none of them 0; empty: they count alike.
  Result<std::vector<float>> importance_of(const TensorInfo& tensor) const {
    const auto found = options_.importance.find(tensor.name);
    if (found == options_.importance.end()) return std::vector<float>();
    std::vector<float> importance = found->second;
    if (importance.size() != static_cast<size_t>(tensor.cols()))
      return fail(Code::internal, "tensor ", tensor.name, " has ", tensor.cols(), " columns, and ", importance.size(),
                  " were calibrated");
    const double mean =
        std::accumulate(importance.begin(), importance.end(), 0.0) / static_cast<double>(importance.size());
    if (!(mean > 0) || !std::isfinite(mean)) return std::vector<float>();
    for (float& value : importance) value = static_cast<float>(value / mean) + 0.01f;
    return importance;
  }

  // As in the source's file, so that others find it, unless it is one of several parts of what lies there.
  std::string name_of(const TensorInfo& tensor) const {
    const bool own = tensor.stored_name.empty() || tensors_of_.at(tensor.stored_name) > 1;
    return own ? tensor.name : tensor.stored_name;
  }

  Status copy(const TensorInfo& tensor) {
    constexpr int64_t kPiece = int64_t{16} << 20;
    WEFT_RETURN_IF_ERROR(writer_.begin(name_of(tensor), tensor.type, tensor.shape));
    const auto bytes = static_cast<int64_t>(tensor.data.size());
    for (int64_t at = 0; at < bytes; at += kPiece) {
      const auto piece =
          tensor.data.subspan(static_cast<size_t>(at), static_cast<size_t>(std::min(kPiece, bytes - at)));
      WEFT_TRY(const MappedFile::Pin pin, tensor.pin(piece));
      WEFT_RETURN_IF_ERROR(writer_.append(piece));
    }
    return {};
  }

  Status quantize(const TensorInfo& tensor) {
    const int64_t out = tensor.rows(), in = tensor.cols(), groups = in / group();
    const int bits = options_.bits;
    const int64_t row_words = in * bits / 32;
    const kernels::WeightFormat int8 = int8_format(in);
    WEFT_TRY(const std::vector<float> importance, importance_of(tensor));
    if (!importance.empty()) ++report_.calibrated;
    std::vector<float> row(static_cast<size_t>(in));
    std::vector<uint8_t> codes(static_cast<size_t>(in));
    std::vector<uint32_t> words(static_cast<size_t>(out * row_words));
    std::vector<uint16_t> scales(static_cast<size_t>(out * groups));
    for (int64_t r = 0; r < out; ++r) {
      WEFT_RETURN_IF_ERROR(read_rows(tensor, r, 1, row.data(), in));
      if (const auto bad = std::find_if_not(row.begin(), row.end(), [](float value) { return std::isfinite(value); });
          bad != row.end())
        return fail(Code::data_corrupt, "tensor ", tensor.name, " holds ", *bad, " in row ", r, ", column ",
                    bad - row.begin());
      uint16_t* const row_scales = scales.data() + r * groups;
      if (bits == 8) kernels::quantize_row(int8, row.data(), static_cast<int>(in), codes.data(), row_scales);
      else
        kernels::fit_row(bits, row.data(), importance.empty() ? nullptr : importance.data(), static_cast<int>(in),
                         codes.data(), row_scales);
      pack_codes(codes, bits, words.data() + r * row_words);
    }
    const std::string module = module_of(name_of(tensor));
    const std::array<int64_t, 2> shape{out, in};
    WEFT_RETURN_IF_ERROR(
        writer_.add(module + ".weight_packed", StorageType::i32, {out, row_words}, std::as_bytes(std::span(words))));
    WEFT_RETURN_IF_ERROR(
        writer_.add(module + ".weight_scale", StorageType::bf16, {out, groups}, std::as_bytes(std::span(scales))));
    return writer_.add(module + ".weight_shape", StorageType::i64, {2}, std::as_bytes(std::span(shape)));
  }

  Status write_config() const {
    Json ignored = Json::array();
    for (const std::string& module : ignored_) ignored.push_back(module);
    Json weights = Json::object({{"num_bits", options_.bits},
                                 {"type", "int"},
                                 {"symmetric", true},
                                 {"strategy", "group"},
                                 {"group_size", group()},
                                 {"dynamic", false},
                                 {"observer", "minmax"}});
    Json group = Json::object({{"targets", Json::array({"Linear"})}, {"weights", std::move(weights)}});
    group.set("input_activations", Json());
    group.set("output_activations", Json());
    Json groups = Json::object();
    groups.set("group_0", std::move(group));
    Json quantization = Json::object(
        {{"quant_method", "compressed-tensors"}, {"format", "pack-quantized"}, {"quantization_status", "compressed"}});
    quantization.set("config_groups", std::move(groups));
    quantization.set("ignore", std::move(ignored));
    Json config = checkpoint_.config();
    config.set("quantization_config", std::move(quantization));
    return write_file(folder_ + "/config.json", config.dump() + "\n");
  }

  const Checkpoint& checkpoint_;
  const Products& products_;
  const QuantizeOptions& options_;
  const std::string folder_;
  ShardedWriter writer_;
  std::map<std::string, int> tensors_of_;  // by stored name
  std::vector<std::string> ignored_;
  QuantizeReport report_;
  int64_t done_ = 0;
};

Status copy_files(const std::string& from, const std::string& to) {
  for (const std::string& name : names_in(from)) {
    std::error_code problem;
    const fs::path source = fs::path(from) / name;
    if (!goes_along(name) || !fs::is_regular_file(source, problem)) continue;
    fs::copy_file(source, fs::path(to) / name, problem);
    if (problem) return fail(Code::internal, "cannot copy ", source.string(), ": ", problem.message());
  }
  return {};
}

}  // namespace

Result<QuantizeReport> quantize_checkpoint(const Checkpoint& checkpoint, const Plan& plan, const std::string& folder,
                                           const QuantizeOptions& options) {
  if (options.bits != 3 && options.bits != 4 && options.bits != 8)
    return fail(Code::invalid_argument, "weights of ", options.bits, " bits cannot be written, of 3, 4 and 8 can");
  if (checkpoint.is_gguf() || checkpoint.is_dummy())
    return fail(Code::unsupported, checkpoint.path(), " is not a folder with safetensors");
  if (checkpoint.config().find("quantization_config"))
    return fail(Code::invalid_argument, checkpoint.path(), " is quantised already");
  Products products(checkpoint, plan);
  WEFT_RETURN_IF_ERROR(products.find());
  WEFT_TRY(NewFolder made, NewFolder::make(folder));
  WEFT_RETURN_IF_ERROR(copy_files(checkpoint.path(), folder));
  WEFT_TRY(QuantizeReport report, Quantizer(checkpoint, products, folder, options).run());
  made.keep();
  return report;
}

}  // namespace weft
