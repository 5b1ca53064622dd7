#include "checkpoint/sharded_writer.h"

#include <array>
#include <cstdio>

#include "base/files.h"
#include "base/json.h"

namespace weft {

ShardedWriter::~ShardedWriter() {
  if (finished_) return;
  writer_.reset();
  for (int shard = 1; shard <= shards_; ++shard) (void)std::remove(temporary(shard).c_str());
}

Status ShardedWriter::begin(const std::string& name, StorageType type, const std::vector<int64_t>& shape) {
  if (writer_ && shard_ >= shard_bytes_) WEFT_RETURN_IF_ERROR(end_shard());
  if (!writer_) {
    WEFT_TRY(SafetensorsWriter made, SafetensorsWriter::create(temporary(++shards_), {{{"format", "pt"}}, 4096}));
    writer_ = std::move(made);
  }
  shard_of_[name] = shards_;
  return writer_->begin(name, type, shape);
}

Status ShardedWriter::append(std::span<const std::byte> bytes) {
  shard_ += static_cast<int64_t>(bytes.size()), total_ += static_cast<int64_t>(bytes.size());
  return writer_->append(bytes);
}

Status ShardedWriter::add(const std::string& name, StorageType type, const std::vector<int64_t>& shape,
                          std::span<const std::byte> bytes) {
  WEFT_RETURN_IF_ERROR(begin(name, type, shape));
  return append(bytes);
}

Status ShardedWriter::finish() {
  if (writer_) WEFT_RETURN_IF_ERROR(end_shard());
  Json map = Json::object();
  for (const auto& [name, shard] : shard_of_) map.set(name, final_name(shard));
  for (int shard = 1; shard <= shards_; ++shard)
    if (std::rename(temporary(shard).c_str(), (folder_ + "/" + final_name(shard)).c_str()) != 0)
      return fail(Code::internal, "cannot rename ", temporary(shard));
  finished_ = true;
  if (shards_ == 1) return {};
  Json index = Json::object();
  index.set("metadata", Json::object({{"total_size", static_cast<long>(total_)}}));
  index.set("weight_map", std::move(map));
  return write_file(folder_ + "/model.safetensors.index.json", index.dump() + "\n");
}

Status ShardedWriter::end_shard() {
  WEFT_RETURN_IF_ERROR(writer_->finish());
  writer_.reset(), shard_ = 0;
  return {};
}

std::string ShardedWriter::temporary(int shard) const {
  return folder_ + "/shard-" + std::to_string(shard) + ".safetensors";
}

std::string ShardedWriter::final_name(int shard) const {
  if (shards_ == 1) return "model.safetensors";
  std::array<char, 64> name{};
  std::snprintf(name.data(), name.size(), "model-%05d-of-%05d.safetensors", shard, shards_);
  return name.data();
}

}  // namespace weft
