// Blocks of the KV cache in files, one for each, in a folder that processes of one machine and user may share and that
// outlives them.
//
//   FOLDER/lock, usage                     shared_folder.h
//   FOLDER/tmp/                            files that are being written
//   FOLDER/IDENTITY/identity.txt           what the blocks below depend on, for people
//   FOLDER/IDENTITY/3f/3fa0...-GROUP       a block (block_file.h); 3fa0... is its key
//
// IDENTITY is a hash of the text that says what a block's bits depend on, and is in every file as well. A file gets its
// name when it is whole, and nothing is flushed to the disk: after a loss of power a file may be short or have other
// bytes, which its checksums tell. Such a file, or any that is not this block's, is removed by the read that finds it.
//
// Eviction takes the blocks that were used least recently, of all identities: a file's modification time is when it was
// last used, to the minute. It takes a sixteenth of the limit at a time, so it cuts few sequences in two although it
// does not know which blocks belong together.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <string>
#include <unordered_set>

#include "base/sha256.h"
#include "store/block_file.h"
#include "store/block_store.h"
#include "store/shared_folder.h"

namespace weft {

struct FileStoreOptions {
  std::string folder;  // made where it is missing, for its owner alone
  // Of all files in the folder, whoever wrote them; 0: as much as the disk holds. Processes that share a folder should
  // give the same limit, since each keeps to its own.
  int64_t max_bytes = 0;
  // All that a block's bits depend on besides its key: the model's digest, options, instruction set, version. Any text;
  // people find it in the folder.
  std::string identity;
  std::chrono::milliseconds pause_after_error{5000};  // no writes for so long after one failed
};

class FileStore final : public BlockStore {
 public:
  // Reads the names and sizes of all files in the folder. Errors name the folder and the reason.
  static Result<std::unique_ptr<FileStore>> open(FileStoreOptions options);

  bool has(int group, const BlockKey& key) const override;
  bool read(int group, const BlockKey& key, std::span<std::byte> into) override;
  Status write(int group, const BlockKey& key, std::span<const std::byte> content) override;
  StoreMetrics metrics() const override;

 private:
  FileStore(FileStoreOptions options, std::unique_ptr<SharedFolder> folder);
  Status write_new(const BlockId& id, const std::string& path, std::span<const std::byte> content);
  Result<bool> publish(const std::string& temporary, const BlockId& id, const std::string& path);
  Status make_folders(const BlockId& id);
  Status describe();
  bool knows(const BlockId& id) const;
  void learn(const BlockId& id) const;
  void forget(const BlockId& id) const;

  const FileStoreOptions options_;
  const std::unique_ptr<SharedFolder> folder_;
  const Digest identity_;
  const std::string name_;  // of the identity's folder
  // What is there, as far as this process has seen. Others add (has() then finds the file) and evict (read() misses).
  mutable std::shared_mutex index_mutex_;
  mutable std::unordered_set<BlockId, BlockIdHash> index_;
  std::atomic<int64_t> paused_until_{0};  // nanoseconds of the steady clock
  std::atomic<int64_t> hits_{0}, misses_{0}, read_bytes_{0}, writes_{0}, written_bytes_{0}, write_errors_{0},
      skipped_writes_{0}, torn_{0}, evicted_{0};
};

}  // namespace weft
