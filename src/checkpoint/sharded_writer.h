// Files of tensors with an index, as the hub has them: model.safetensors, or model-00001-of-00003.safetensors and
// model.safetensors.index.json.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "checkpoint/safetensors_writer.h"

namespace weft {

class ShardedWriter {
 public:
  // A file ends with the tensor that reaches `shard_bytes`. `folder` must exist.
  ShardedWriter(std::string folder, int64_t shard_bytes) : folder_(std::move(folder)), shard_bytes_(shard_bytes) {}
  ~ShardedWriter();  // without finish(), no file of tensors is left behind
  ShardedWriter(const ShardedWriter&) = delete;
  ShardedWriter& operator=(const ShardedWriter&) = delete;

  // As SafetensorsWriter's.
  Status begin(const std::string& name, StorageType type, const std::vector<int64_t>& shape);
  Status append(std::span<const std::byte> bytes);
  Status add(const std::string& name, StorageType type, const std::vector<int64_t>& shape,
             std::span<const std::byte> bytes);
  // Gives the files their names, which say how many there are, and writes the index.
  Status finish();
  int64_t bytes() const { return total_; }  // of all tensors so far

 private:
  Status end_shard();
  std::string temporary(int shard) const;
  std::string final_name(int shard) const;

  const std::string folder_;
  const int64_t shard_bytes_;
  std::optional<SafetensorsWriter> writer_;
  std::map<std::string, int> shard_of_;
  int shards_ = 0;
  int64_t shard_ = 0, total_ = 0;  // bytes
  bool finished_ = false;
};

}  // namespace weft
