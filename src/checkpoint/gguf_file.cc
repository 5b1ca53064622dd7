#include "checkpoint/gguf_file.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>

#include "base/thread_team.h"
#include "checkpoint/gguf_architecture.h"
#include "checkpoint/gguf_blocks.h"
#include "checkpoint/gguf_description.h"
#include "checkpoint/store_floats.h"

namespace weft {
namespace {

bool is_plain_float(StorageType type) {
  return type == StorageType::f32 || type == StorageType::f16 || type == StorageType::bf16;
}

// A tensor of the file, and what it is made from.
struct Made {
  GgufTensorPlan plan;
  std::vector<const TensorInfo*> sources;  // one, or one for each expert
  bool one_plus = false;
  int rotary_heads = 0;  // > 0: rows of each of so many heads are interleaved
  // latent: of every head of kv_b some rows, for keys turned. fused: of every expert of a tensor [experts, in, columns]
  // some columns, turned. divisors: rope_freqs.weight.
  enum class Form : uint8_t { rows, latent_keys, latent_values, fused, divisors };
  Form form = Form::rows;
  int64_t of_each = 0, first = 0, count = 0;  // rows of a head, or of an expert; which rows or columns
};

class FileWriter {
 public:
  FileWriter(const Checkpoint& checkpoint, const HfConfig& config, const GgufArchitecture& architecture,
             const GgufFileOptions& options)
      : checkpoint_(checkpoint), config_(config), architecture_(architecture), options_(options),
        description_(config, architecture) {
    if (options.blocks) team_.emplace(options.threads > 0 ? options.threads : ThreadTeam::default_size());
  }

  Result<WrittenGguf> run(const GgufItems& more, const std::string& path) {
    WEFT_TRY(GgufItems items, description_.items());
    WEFT_RETURN_IF_ERROR(plan());
    std::vector<GgufTensorPlan> plans;
    std::map<StorageType, int64_t> values;
    for (const Made& made : made_) {
      plans.push_back(made.plan);
      report_.bytes += made.plan.bytes();
      if (made.plan.shape.size() >= 2) values[made.plan.type] += made.plan.bytes();
    }
    items.emplace_back("general.file_type", file_type(values));
    if (std::ranges::any_of(values, [](const auto& entry) { return is_blocked(entry.first); }))
      items.emplace_back("general.quantization_version", uint32_t{2});  // ggml's
    items.insert(items.end(), more.begin(), more.end());
    WEFT_TRY(GgufWriter writer, GgufWriter::create(path, items, std::move(plans)));
    for (const Made& made : made_) WEFT_RETURN_IF_ERROR(write(made, writer));
    WEFT_RETURN_IF_ERROR(checkpoint_.check_unchanged());
    WEFT_RETURN_IF_ERROR(writer.finish());
    report_.tensors = static_cast<int>(made_.size());
    return WrittenGguf{std::move(writer), std::move(report_)};
  }

 private:
  // llama.cpp's enum llama_ftype for the type of most bytes.
  static uint32_t file_type(const std::map<StorageType, int64_t>& bytes) {
    StorageType most = StorageType::f32;
    int64_t size = 0;
    for (const auto& [type, count] : bytes)
      if (count > size) size = count, most = type;
    switch (most) {
      case StorageType::f16: return 1;
      case StorageType::q8_0: return 7;
      case StorageType::q4_k: return 14;
      case StorageType::q6_k: return 18;
      case StorageType::bf16: return 32;
      default: return 0;
    }
  }

  Status plan() {
    const int layers = config_.count("num_hidden_layers");
    for (const auto& [name, tensor] : checkpoint_.tensors()) {
      total_ += static_cast<int64_t>(tensor.data.size());
      if (is_behind(name, layers)) {
        report_.skipped.push_back(name);
        continue;
      }
      WEFT_RETURN_IF_ERROR(add(name, tensor));
    }
    for (const Made& made : made_)
      if (std::ranges::count(made.sources, nullptr) > 0)
        return fail(Code::data_corrupt, "tensor ", made.plan.name, " lacks the matrices of some experts");
    if (!description_.rope_divisors().empty()) {
      Made made;
      made.plan = {"rope_freqs.weight", StorageType::f32, {static_cast<int64_t>(description_.rope_divisors().size())}};
      made.form = Made::Form::divisors;
      made_.push_back(std::move(made));
    }
    return {};
  }

  // Layers behind the last are for multi-token prediction, which llama.cpp's converter leaves out as well.
  static bool is_behind(std::string_view name, int layers) {
    constexpr std::string_view kLayers = "model.layers.";
    return name.starts_with(kLayers) && std::atoi(std::string(name.substr(kLayers.size(), 6)).c_str()) >= layers;
  }

  Status add(const std::string& name, const TensorInfo& tensor) {
    if (!is_plain_float(tensor.type))
      return fail(Code::invalid_argument, "tensor ", name, " is stored as ", weft::name(tensor.type),
                  ", and only float32, float16 and bfloat16 are written to GGUF files");
    const bool fused = name.find(".feed_forward.experts.") != std::string::npos && tensor.shape.size() == 3;
    if (fused) return add_fused(name, tensor);
    const std::optional<GgufPlace> place = gguf_place(architecture_, name);
    if (!place)
      return fail(Code::unsupported, "tensor ", name, " has no name in GGUF files of the architecture ",
                  architecture_.name);
    if (place->expert >= 0) return add_expert(*place, tensor);
    if (place->tensor.ends_with(".attn_kv_b.weight")) return add_latent(*place, tensor);
    Made made;
    made.sources = {&tensor}, made.one_plus = place->one_plus;
    made.plan.name = place->tensor, made.plan.shape = tensor.shape;
    const int layer = layer_of(name);
    if (place->rotary_query) made.rotary_heads = description_.layer_heads(layer);
    if (place->rotary_key) made.rotary_heads = description_.layer_kv_heads(layer);
    const int64_t rows = tensor.shape.size() <= 1 ? tensor.cols() : tensor.rows();
    if ((place->rotary_query || place->rotary_key) && (made.rotary_heads < 1 || rows % (2 * made.rotary_heads) != 0))
      return fail(Code::data_corrupt, "tensor ", name, " has ", rows, " rows, which are no even number for each of ",
                  made.rotary_heads, " heads");
    made.plan.type = type_of(made.plan.name, tensor, tensor.cols());
    made_.push_back(std::move(made));
    return {};
  }

  static int layer_of(std::string_view name) {
    constexpr std::string_view kLayers = "model.layers.";
    return name.starts_with(kLayers) ? std::atoi(std::string(name.substr(kLayers.size(), 6)).c_str()) : 0;
  }

  // Vectors and routers are float32 whatever the model's type: llama.cpp multiplies by nothing else.
  StorageType type_of(const std::string& name, const TensorInfo& tensor, int64_t cols) {
    if (tensor.shape.size() <= 1 || name.ends_with(".ffn_gate_inp.weight")) return StorageType::f32;
    const bool latent = name.ends_with(".attn_k_b.weight") || name.ends_with(".attn_v_b.weight");
    if (!options_.blocks || latent || !name.starts_with("blk.") || !name.ends_with(".weight")) return tensor.type;
    for (const StorageType type : {*options_.blocks, StorageType::q8_0})
      if (cols % layout(type).block_values == 0) {
        if (type != *options_.blocks) report_.others.push_back(name + ": " + weft::name(type));
        return type;
      }
    report_.others.push_back(name + ": " + weft::name(tensor.type));
    return tensor.type;
  }

  Status add_expert(const GgufPlace& place, const TensorInfo& tensor) {
    const auto experts = static_cast<size_t>(config_.count(config_.has("num_local_experts") ? "num_local_experts"
                                                           : config_.has("num_experts")     ? "num_experts"
                                                                                            : "n_routed_experts"));
    auto found = std::ranges::find_if(made_, [&](const Made& made) { return made.plan.name == place.tensor; });
    if (found == made_.end()) {
      Made made;
      made.plan = {place.tensor,
                   type_of(place.tensor, tensor, tensor.cols()),
                   {static_cast<int64_t>(experts), tensor.rows(), tensor.cols()}};
      made.sources.resize(experts);
      found = made_.insert(made_.end(), std::move(made));
    }
    const std::vector<int64_t>& shape = found->plan.shape;
    if (place.expert >= static_cast<int>(experts) || tensor.shape.size() != 2 || tensor.rows() != shape[1] ||
        tensor.cols() != shape[2])
      return fail(Code::data_corrupt, "tensor ", tensor.name, " is not one of ", experts, " experts with ", shape[1],
                  " rows of ", shape[2], " values");
    found->sources[static_cast<size_t>(place.expert)] = &tensor;
    return {};
  }

  // Llama 4's experts in one tensor, turned: gate_up_proj [experts, hidden, 2 * width], down_proj [experts, width,
  // hidden].
  Status add_fused(const std::string& name, const TensorInfo& tensor) {
    const std::string scope = "blk." + std::to_string(layer_of(name)) + ".ffn_";
    const bool down = name.ends_with("down_proj");
    const int64_t width = down ? tensor.shape[2] : tensor.shape[2] / 2;
    for (const char* part : {"gate", "up", "down"}) {
      if ((std::string_view(part) == "down") != down) continue;
      Made made;
      made.plan = {scope + part + "_exps.weight",
                   type_of(scope + part + "_exps.weight", tensor, tensor.shape[1]),
                   {tensor.shape[0], width, tensor.shape[1]}};
      made.sources = {&tensor};
      made.form = Made::Form::fused, made.of_each = tensor.shape[1];
      made.first = std::string_view(part) == "up" ? width : 0, made.count = width;
      made_.push_back(std::move(made));
    }
    return {};
  }

  // kv_b [heads * (key + value), rank] in two: keys [heads, rank, key], turned, and values [heads, value, rank].
  Status add_latent(const GgufPlace& place, const TensorInfo& tensor) {
    const int heads = description_.heads(), key = config_.count("qk_nope_head_dim"),
              value = config_.count("v_head_dim");
    if (tensor.shape.size() != 2 || tensor.rows() != int64_t{heads} * (key + value))
      return fail(Code::data_corrupt, "tensor ", tensor.name, " has ", tensor.rows(), " rows instead of ", key, " and ",
                  value, " for each of ", heads, " heads");
    const std::string scope = place.tensor.substr(0, place.tensor.size() - std::string_view("kv_b.weight").size());
    for (const bool keys : {true, false}) {
      Made made;
      made.plan.name = scope + (keys ? "k_b.weight" : "v_b.weight");
      made.plan.shape =
          keys ? std::vector<int64_t>{heads, tensor.cols(), key} : std::vector<int64_t>{heads, value, tensor.cols()};
      made.plan.type = tensor.type;
      made.sources = {&tensor}, made.form = keys ? Made::Form::latent_keys : Made::Form::latent_values;
      made.of_each = key + value, made.first = keys ? 0 : key, made.count = keys ? key : value;
      made_.push_back(std::move(made));
    }
    return {};
  }

  Status encode(StorageType type, std::span<const float> row) {
    const auto bad = std::ranges::find_if_not(row, [](float value) { return std::fabs(value) <= kLargestInBlocks; });
    if (bad != row.end())
      return fail(Code::data_corrupt, "tensor ", current_, " holds ", *bad, ", which blocks of ", weft::name(type),
                  " cannot");
    // Each thread has some of the blocks.
    const StorageLayout stored = layout(type);
    const int64_t blocks = static_cast<int64_t>(row.size()) / stored.block_values;
    team_->run([&](int thread) {
      const int64_t first = blocks * thread / team_->size(), end = blocks * (thread + 1) / team_->size();
      encode_blocks(type, row.data() + first * stored.block_values, (end - first) * stored.block_values,
                    bytes_.data() + first * stored.block_bytes);
    });
    return {};
  }

  Status append(std::span<const float> row, StorageType type, GgufWriter& writer) {
    const StorageLayout stored = layout(type);
    bytes_.resize(row.size() / static_cast<size_t>(stored.block_values) * static_cast<size_t>(stored.block_bytes));
    if (is_plain_float(type)) store_floats(type, row, bytes_.data());
    else WEFT_RETURN_IF_ERROR(encode(type, row));
    return writer.append(bytes_);
  }

  Status write(const Made& made, GgufWriter& writer) {
    current_ = made.plan.name;
    if (is_blocked(made.plan.type)) ++report_.encoded;
    if (made.form == Made::Form::divisors) return append(description_.rope_divisors(), StorageType::f32, writer);
    if (made.form == Made::Form::fused) return write_fused(made, writer);
    if (made.form != Made::Form::rows) return write_latent(made, writer);
    for (const TensorInfo* const source : made.sources) {
      WEFT_RETURN_IF_ERROR(write_rows(made, *source, writer));
      checkpoint_.drop(*source);
      done_ += static_cast<int64_t>(source->data.size());
      if (options_.progress) options_.progress(done_, total_);
    }
    return {};
  }

  // The row of Hugging Face's order that is stored at a place of GGUF's: the two halves of each head are interleaved.
  static int64_t rotary_source(int64_t row, int64_t rows, int heads) {
    const int64_t size = rows / heads, in_head = row % size;
    return row - in_head + (in_head % 2 == 0 ? in_head / 2 : size / 2 + in_head / 2);
  }

  Status write_rows(const Made& made, const TensorInfo& source, GgufWriter& writer) {
    constexpr int64_t kTogether = 1 << 20;  // values
    const int64_t rows = source.rows(), cols = source.cols(), step = std::max<int64_t>(1, kTogether / cols);
    std::vector<float> part;
    for (int64_t first = 0; first < rows; first += step) {
      const int64_t count = std::min(step, rows - first);
      part.resize(static_cast<size_t>(count * cols));
      for (int64_t r = 0; r < count; ++r) {
        const bool turned = made.rotary_heads > 0 && source.shape.size() > 1;
        const int64_t from = turned ? rotary_source(first + r, rows, made.rotary_heads) : first + r;
        WEFT_RETURN_IF_ERROR(read_rows(source, from, 1, part.data() + r * cols, cols));
      }
      if (made.rotary_heads > 0 && source.shape.size() <= 1) {
        const std::vector<float> plain = part;
        for (int64_t c = 0; c < cols; ++c)
          part[static_cast<size_t>(c)] = plain[static_cast<size_t>(rotary_source(c, cols, made.rotary_heads))];
      }
      if (made.one_plus) add_one(part);
      WEFT_RETURN_IF_ERROR(append(part, made.plan.type, writer));
    }
    return {};
  }

  void add_one(std::vector<float>& row) {
    bool exact = true;
    for (float& value : row) {
      const float sum = value + 1;
      exact = exact && sum - 1 == value;
      value = sum;
    }
    if (!exact) ++report_.inexact_norms;
  }

  // A matrix's columns, one behind the other, as rows.
  Status append_turned(const std::vector<float>& matrix, int64_t rows, StorageType type, GgufWriter& writer) {
    const int64_t cols = static_cast<int64_t>(matrix.size()) / rows;
    std::vector<float> row(static_cast<size_t>(rows));
    for (int64_t c = 0; c < cols; ++c) {
      for (int64_t r = 0; r < rows; ++r) row[static_cast<size_t>(r)] = matrix[static_cast<size_t>(r * cols + c)];
      WEFT_RETURN_IF_ERROR(append(row, type, writer));
    }
    return {};
  }

  Status write_latent(const Made& made, GgufWriter& writer) {
    const TensorInfo& source = *made.sources[0];
    const int64_t cols = source.cols();
    std::vector<float> head(static_cast<size_t>(made.count * cols));
    for (int64_t at = 0; at < source.rows(); at += made.of_each) {
      WEFT_RETURN_IF_ERROR(read_rows(source, at + made.first, made.count, head.data(), cols));
      if (made.form == Made::Form::latent_keys) {
        WEFT_RETURN_IF_ERROR(append_turned(head, made.count, made.plan.type, writer));
        continue;
      }
      for (int64_t r = 0; r < made.count; ++r)
        WEFT_RETURN_IF_ERROR(append(std::span(head).subspan(static_cast<size_t>(r * cols), static_cast<size_t>(cols)),
                                    made.plan.type, writer));
    }
    return {};
  }

  Status write_fused(const Made& made, GgufWriter& writer) {
    const TensorInfo& source = *made.sources[0];
    std::vector<float> matrix(static_cast<size_t>(made.of_each * made.count));
    for (int64_t at = 0; at < source.rows(); at += made.of_each) {
      WEFT_RETURN_IF_ERROR(read_block(source, at, made.of_each, made.first, made.count, matrix.data(), made.count));
      WEFT_RETURN_IF_ERROR(append_turned(matrix, made.of_each, made.plan.type, writer));
    }
    return {};
  }

  const Checkpoint& checkpoint_;
  const HfConfig& config_;
  const GgufArchitecture& architecture_;
  const GgufFileOptions& options_;
  GgufDescription description_;
  GgufFileReport report_;
  std::vector<Made> made_;
  std::optional<ThreadTeam> team_;  // that encodes blocks
  std::string current_;             // the tensor that is being written
  std::vector<std::byte> bytes_;
  int64_t done_ = 0, total_ = 0;
};

}  // namespace

Result<WrittenGguf> write_gguf_file(const Checkpoint& checkpoint, const HfConfig& config, const GgufItems& more,
                                    const std::string& path, const GgufFileOptions& options) {
  WEFT_TRY(const GgufArchitecture* const architecture, gguf_architecture_for(HfConfig::of(checkpoint).architecture()));
  return FileWriter(checkpoint, config, *architecture, options).run(more, path);
}

}  // namespace weft
