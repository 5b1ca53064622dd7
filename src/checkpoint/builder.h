// Fills a Checkpoint; the formats' readers share it.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "base/files.h"
#include "base/mapped_file.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/quant/coded_matrix.h"

namespace weft {

struct Checkpoint::Files {
  std::deque<MappedFile> mapped;        // at addresses that stay, for TensorInfo::source
  FileStamps stamps;                    // of all files that were read
  std::vector<MappedFile::Pin> pins;    // of what a GGUF file's strings point to
  std::deque<TensorInfo> scales;        // factors in the shape that read_rows() indexes; they stay at their addresses
  std::deque<std::vector<float>> made;  // values of tensors that are in no file as they are
  std::deque<CodedMatrix> coded;        // at addresses that stay, for TensorInfo::coded
};

struct CheckpointBuilder {
  std::shared_ptr<Checkpoint> checkpoint{new Checkpoint};
  LoadMode mode = LoadMode::mmap;
  std::string mmproj;  // path of the encoder of images that was asked for
  std::string prefix;  // put before the names of tensors that are added or looked for

  // Maps a file and returns its index; the bytes stay at their address as long as the checkpoint lives.
  Result<int> map(const std::string& path);
  const MappedFile& file(int file) const { return checkpoint->files_->mapped[static_cast<size_t>(file)]; }
  // A JSON file of the model.
  Result<Json> read_json(const std::string& path);
  void keep_pins(std::vector<MappedFile::Pin> pins) {
    for (MappedFile::Pin& pin : pins) checkpoint->files_->pins.push_back(std::move(pin));
  }
  // data_corrupt for a name that is there already.
  Status add(TensorInfo tensor);
  TensorInfo* find(const std::string& name);
  // Stores a scale at an address that stays valid, for TensorInfo::scale.
  const TensorInfo* keep_scale(TensorInfo scale) { return &checkpoint->files_->scales.emplace_back(std::move(scale)); }
  // Keeps values that stay where they are, for TensorInfo::data.
  std::span<const std::byte> keep_values(std::vector<float> values) {
    return std::as_bytes(std::span(checkpoint->files_->made.emplace_back(std::move(values))));
  }
  const CodedMatrix* keep_coded(CodedMatrix matrix) {
    return &checkpoint->files_->coded.emplace_back(std::move(matrix));
  }
  std::map<std::string, TensorInfo, std::less<>>& tensors() { return checkpoint->tensors_; }
  void set_path(std::string path) { checkpoint->path_ = std::move(path); }
  void set_config(Json config) { checkpoint->config_ = std::move(config); }
  void set_media_settings(Json settings) { checkpoint->media_settings_ = std::move(settings); }
  void set_generation_config(Json config) { checkpoint->generation_config_ = std::move(config); }
  void set_gguf_tokenizer(std::unique_ptr<GgufTokenizer> tokenizer) {
    checkpoint->gguf_tokenizer_ = std::move(tokenizer), checkpoint->gguf_ = true;
  }
  void set_dummy() { checkpoint->dummy_ = true; }
};

// Reads a .gguf file, or all parts of a split one of which `path` is any: its tensors under Hugging Face names (unless
// `config_only`), a config and the tokenizer's metadata.
Status read_gguf(CheckpointBuilder& builder, const std::string& path, bool config_only);

}  // namespace weft
