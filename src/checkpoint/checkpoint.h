// One read-only view of a model on disk, whatever its form: a folder with safetensors (one file or shards with an
// index), or a GGUF file shown under Hugging Face names and a Hugging Face style config. A tensor's bytes come into
// memory when they are looked at (LoadMode::mmap) or pinned (LoadMode::read), and drop() gives their pages back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/mapped_file.h"
#include "base/result.h"
#include "checkpoint/storage_type.h"
#include "core/input_rounding.h"

namespace weft {

struct CodedMatrix;  // checkpoint/quant/coded_matrix.h

// A stored tensor. Rows are what lies along the last dimension: a [out, in] matrix has `out` rows of `in` values, a
// vector is one row, a tensor of more dimensions has the product of the leading ones.
struct TensorInfo {
  std::string name;         // as in Hugging Face checkpoints
  std::string stored_name;  // as in the file, where that is another one
  StorageType type = StorageType::f32;
  std::string unknown_type;  // what the file calls a type that is not known
  std::vector<int64_t> shape;
  // the stored bytes, to be looked at while pinned; may start at any address, so never load wider types through a cast
  std::span<const std::byte> data;
  const MappedFile* source = nullptr;  // of `data`; null: it is in memory
  int file = 0;                        // index into Checkpoint::files()

  // What read_rows() does beyond converting (set by the readers of the formats):
  float offset = 0;  // added to every value (GGUF stores Gemma's norms as 1 + w)
  // > 0: the rows of each of so many heads are stored in GGUF's interleaved rotary order; undone on reading
  int rotary_heads = 0;
  const TensorInfo* scale = nullptr;  // factors for a scaled fp8 weight: one value, one per row, or one per block below
  int scale_block_rows = 0, scale_block_cols = 0;
  // of type `coded`: what its values are computed from; `data` are its codes, in the order of their file
  const CodedMatrix* coded = nullptr;
  // of quantised matrices: what their format does with the input of products
  InputRounding input_rounding = {};

  // Brings the bytes of stored rows, a part of `data` or all of it into memory for as long as the pin lives.
  Result<MappedFile::Pin> pin(int64_t first_row, int64_t rows) const;
  Result<MappedFile::Pin> pin(std::span<const std::byte> part) const;
  Result<MappedFile::Pin> pin() const { return pin(data); }

  int64_t cols() const { return shape.empty() ? 1 : shape.back(); }
  int64_t rows() const;
  int64_t values() const { return rows() * cols(); }
  // True if the bytes in `data` are the values, in order, as `plain_dtype(type)`: nothing to scale, add or reorder.
  bool is_plain() const {
    return offset == 0 && rotary_heads == 0 && scale == nullptr && plain_dtype(type).has_value();
  }
};

// Rows [first_row, first_row + rows) of a tensor as float32, row r at out + (r - first_row) * ld; `ld` >= cols(). Exact
// for f32, f16, bf16 and fp8; f64 is rounded; quantised matrices as CodedMatrix says; GGUF blocks are computed in
// float32 in the order of ggml's reference dequantisation. Integer tensors are an error, a range outside the tensor is
// a bug (checked). Thread-safe; nothing is allocated for plain tensors.
Status read_rows(const TensorInfo& tensor, int64_t first_row, int64_t rows, float* out, int64_t ld);
// The same for columns [first_col, first_col + cols) only; a cut through a block of a quantised format is allowed.
Status read_block(const TensorInfo& tensor, int64_t first_row, int64_t rows, int64_t first_col, int64_t cols,
                  float* out, int64_t ld);
// The whole tensor, row after row.
Result<std::vector<float>> read_all(const TensorInfo& tensor);

// The stored bytes of a row of a matrix that has any (not `random`) and is pinned: whole blocks, GGUF's row order
// undone.
std::span<const std::byte> stored_row(const TensorInfo& tensor, int64_t row);

// The tokenizer that a GGUF file carries in its metadata (tokenizer.ggml.*). Strings point into the mapped file and
// live as long as the Checkpoint.
struct GgufTokenizer {
  std::string_view model;  // "llama" (SentencePiece), "gpt2" (byte-level BPE), "bert", "t5"; "none": no tokenizer
  std::string_view pre;    // pre-tokenizer name: "smollm", "llama-bpe", "qwen2", ...
  std::vector<std::string_view> tokens;
  std::vector<float> scores;  // empty or one per token
  // empty or one per token: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte
  std::vector<int32_t> token_type;
  std::vector<std::string_view> merges;  // "left right"
  std::optional<int64_t> bos, eos, eot, unknown, separator, padding, mask;
  std::optional<bool> add_bos, add_eos, add_space_prefix, remove_extra_spaces;
  std::string charsmap;                                                             // of "t5": SentencePiece's rules
  std::string_view chat_template;                                                   // empty if none
  std::vector<std::pair<std::string_view, std::string_view>> named_chat_templates;  // others: name, source
};

// A matrix that a checkpoint without files is said to have.
struct MatrixShape {
  std::string name;  // with its ".weight"
  int64_t rows = 0, cols = 0;
};

// Immutable once opened; reads from any thread.
class Checkpoint {
 public:
  // `path`: a folder holding config.json and *.safetensors, a .gguf file, or a folder holding exactly one .gguf file
  // and no safetensors. Every offset, size and name is checked here, and so is quantization_config: a method that is
  // not understood is refused (Code::unsupported) so that packed bytes are never taken for weights.
  static Result<std::shared_ptr<const Checkpoint>> open(const std::string& path, LoadMode mode = LoadMode::mmap);
  // `mmproj`: a GGUF file with the encoder of images that belongs to a GGUF model; empty (and above): the one beside
  // the model in its folder (mmproj*.gguf), if there is one.
  static Result<std::shared_ptr<const Checkpoint>> open(const std::string& path, LoadMode mode,
                                                        const std::string& mmproj);
  // config.json (or GGUF metadata) alone; TensorUsage then invents tensors of type `random` for whatever is asked for.
  // A folder's config.json may also be named itself.
  static Result<std::shared_ptr<const Checkpoint>> open_dummy(const std::string& path);
  static Result<std::shared_ptr<const Checkpoint>> open_dummy(const std::string& path, const std::string& mmproj);
  // The same with those of `matrices`, without their bytes, that quantization_config says are stored in fp8: to know
  // how they would be kept in memory. Patterns ("re:...") in its lists of exceptions are not followed.
  static Result<std::shared_ptr<const Checkpoint>> open_described(const std::string& path,
                                                                  std::span<const MatrixShape> matrices);
  ~Checkpoint();
  Checkpoint(const Checkpoint&) = delete;
  Checkpoint& operator=(const Checkpoint&) = delete;

  // The tensor of that Hugging Face name, or null. Pointers live as long as the Checkpoint.
  const TensorInfo* find(std::string_view name) const;
  std::vector<std::string_view> names() const;  // sorted
  const std::map<std::string, TensorInfo, std::less<>>& tensors() const { return tensors_; }

  // config.json; for GGUF one made from the metadata with the same keys: architectures, model_type, hidden_size,
  // head_dim, rope_theta, rope_scaling, sliding_window, tie_word_embeddings, vocab_size, bos_token_id, eos_token_id,
  // ...
  const Json& config() const { return config_; }
  // generation_config.json, or null. For GGUF {bos_token_id, eos_token_id}.
  const Json& generation_config() const { return generation_config_; }
  const std::string& path() const { return path_; }  // as given to open()
  const std::vector<std::string>& files() const { return file_names_; }
  bool is_gguf() const { return gguf_; }
  bool is_dummy() const { return dummy_; }
  // Null unless is_gguf(), and without_files().
  const GgufTokenizer* gguf_tokenizer() const { return gguf_tokenizer_.get(); }
  // For a GGUF model with an encoder of images, what the settings files of a folder would say of images:
  // preprocessor_config.json and so on, by their names. Else null.
  const Json& gguf_media_settings() const { return media_settings_; }
  // Llama 3's frequency scaling as GGUF stores it: head_dim/2 divisors of the rotary frequencies (rope_freqs.weight),
  // or null. The config then has rope_scaling {"rope_type": "factors"}: frequency i is theta^(-2i/head_dim) /
  // factors[i].
  const TensorInfo* rope_factors() const { return find("rope_factors"); }

  // Whether everything that was read so far is from the files as they were opened. Else data_corrupt, with the file's
  // name: it was shortened, written to, replaced or removed meanwhile, or could not be read.
  Status check_unchanged() const;
  // All files that were read, as they were when they were opened.
  const FileStamps& stamps() const;
  // Its configuration alone, without tensors and without a hold on any file.
  std::shared_ptr<const Checkpoint> without_files() const;

  // Tells the kernel that the tensor's pages are no longer needed in memory. Reading it again still works.
  void drop(const TensorInfo& tensor) const;
  // The same for the pages that lie wholly in rows [first_row, first_row + rows) as they are stored.
  void drop(const TensorInfo& tensor, int64_t first_row, int64_t rows) const;

 private:
  friend struct CheckpointBuilder;
  struct Files;
  Checkpoint();

  std::string path_;
  std::vector<std::string> file_names_;
  std::unique_ptr<Files> files_;
  std::map<std::string, TensorInfo, std::less<>> tensors_;
  Json config_, generation_config_;
  std::unique_ptr<GgufTokenizer> gguf_tokenizer_;
  bool dummy_ = false, gguf_ = false;
  Json media_settings_;
};

}  // namespace weft
