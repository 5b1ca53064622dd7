// How the readers of the formats fill a Checkpoint; nothing outside this folder includes it.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/files.h"
#include "checkpoint/checkpoint.h"

namespace weft {

struct Checkpoint::Files {
  std::vector<MappedFile> maps;
  std::deque<TensorInfo> scales;  // factors as read_rows() wants them; addresses stay
};

// Use: make one, map files, add tensors, set the documents, finish().
struct CheckpointBuilder {
  explicit CheckpointBuilder(const std::string& path);

  // Maps a file and returns its index.
  Result<int> map(const std::string& path);
  std::span<const std::byte> bytes(int file) const { return made->files_->maps[static_cast<size_t>(file)].bytes(); }
  // Fails on a name that is there already.
  Status add(TensorInfo tensor);

  std::map<std::string, TensorInfo, std::less<>>& tensors() { return made->tensors_; }
  std::deque<TensorInfo>& scales() { return made->files_->scales; }
  Json& config() { return made->config_; }
  Json& generation_config() { return made->generation_config_; }
  void set_gguf_tokenizer(std::unique_ptr<GgufTokenizer> tokenizer) { made->gguf_tokenizer_ = std::move(tokenizer); }
  // Forgets the tensors: TensorUsage will invent them.
  void make_dummy();
  std::shared_ptr<const Checkpoint> finish() { return std::move(made); }

  std::shared_ptr<Checkpoint> made;
};

}  // namespace weft
