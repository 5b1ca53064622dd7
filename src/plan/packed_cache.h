// Packed weights in files, so that a later start of the same model maps them instead of packing them again.
//
//   FOLDER/NAME.packed    the weights of one plan; NAME is a hash of the model's path, the plan, the options and the
//                         kernels, so a changed checkpoint or another build of weft takes the place of the old file
//   FOLDER/NAME.writing   one that is being written; its writer holds a lock on it, so what a killed process has left
//                         is told from that and used again
//
// A file is a header, the list of its parts, a checksum (XXH3) of each 256 KiB, and the parts. It gets its name when it
// is whole, nothing is flushed to the disk, and every byte is checked when it is found: one that is torn or damaged is
// removed and packed again. What a file is for - checkpoint files with their sizes and times, plan, options, kernels
// and build of weft - is in its header as a hash, and must be the same.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/mapped_file.h"
#include "base/result.h"
#include "base/thread_team.h"
#include "kernels/weight_form.h"

namespace weft {

// What a file is for: `place` names it, `content` is what else its bytes depend on. Any texts.
struct PackedIdentity {
  std::string place, content;
};

// A piece of a file. `tag` is whatever the writer wants to know when it finds it again.
struct PackedPart {
  uint64_t tag = 0;
  std::span<const std::byte> bytes;
};

// A file that was found and checked. kernels::kReadAhead bytes behind the last part may be read. Where it is
// mapped, a thread moves it into large pages meanwhile: from small ones the kernels read up to a tenth more slowly.
struct PackedFile {
  class Mover;
  std::shared_ptr<const MappedFile> file;
  std::vector<MappedFile::Pin> pins;  // of all of it
  std::vector<PackedPart> parts;
  std::shared_ptr<Mover> mover;  // null: it was read
};

// Any thread.
class PackedCache {
 public:
  // Makes the folder where it is missing. `max_bytes` is for all files of the folder, 0: no limit. Errors: no such
  // folder can be made or written to.
  static Result<std::shared_ptr<PackedCache>> open(std::string folder, int64_t max_bytes, LoadMode mode);

  // The file of that identity, if there is one that is whole; it counts as used now. All threads of the team check it;
  // `first_thread` and the following `threads` (0: all) are those that will read the parts, each its share. With
  // several NUMA nodes or LoadMode::read it is read into memory, else mapped.
  std::optional<PackedFile> find(const PackedIdentity& identity, ThreadTeam& team, int first_thread, int threads) const;

  // Writes parts into a file, on a thread of its own, unless another process does. They must stay where they are until
  // the result is destroyed, which waits for some seconds and then gives up. What goes wrong is a warning in the log.
  class Writer;
  std::shared_ptr<Writer> write(const PackedIdentity& identity, std::vector<PackedPart> parts) const;

 private:
  PackedCache(std::string folder, int64_t max_bytes, LoadMode mode)
      : folder_(std::move(folder)), max_bytes_(max_bytes), mode_(mode) {}

  const std::string folder_;
  const int64_t max_bytes_;
  const LoadMode mode_;
};

}  // namespace weft
