// What a step gives to the plan: one block of fixed addresses, filled before each run.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/kernels.h"
#include "plan/plan.h"

namespace weft {

// The step as one cache group sees it.
struct GroupInputs {
  std::vector<int32_t> block_table;              // of all sequences, see SequenceView::table_offset; kept by the worker
  std::vector<kernels::SequenceView> sequences;  // in row order
  kernels::AttendPlan attend;                    // filled by CpuExecutor::run
};

// See kernels::MixRowsArgs.
struct MixTable {
  std::vector<int32_t> offsets, entries;
};

// What the rows of a vision tower are looked up by, [tokens] each; empty where the tower has no such table. A canvas is
// the grid of tiles that an image was cut into: aspect ratio `a` of the model's list with `most` tiles at most.
struct VisionIndices {
  std::vector<int32_t> class_rows;           // 0 in rows of a class token, else -1
  std::vector<int32_t> tile_rows;            // the row's number in its tile
  std::vector<int32_t> canvas_rows;          // (a * most + tile) * rows of a tile + the row's number in its tile
  std::vector<int32_t> canvas_tiles;         // a * most + tile; -1 in rows of a class token
  std::vector<int32_t> padded_canvas_tiles;  // a * most + tile, per row of Rows::mixed
};

constexpr uint8_t kHasImages = 1, kSeesImage = 2;

struct StepInputs {
  int tokens = 0, outputs = 0, mixed = 0;  // rows in use
  std::vector<int32_t> home_rows;          // [homes + 1]: which of all homes' rows are those of each
  std::vector<int32_t> ids;                // [max_tokens]
  std::vector<int32_t> positions;          // [axes, max_tokens]
  std::vector<int32_t> token_types;        // [max_tokens]
  std::vector<int32_t> output_rows;        // [max_outputs]: token rows whose output is wanted
  // [max_outputs]: where outputs are in parts (output_parts.h), of what is wanted instead of each; 0: the whole row
  std::vector<int32_t> summary_bytes;
  std::vector<GroupInputs> groups;
  std::vector<const float*> features;            // [max_tokens], where the plan takes features; null: none
  std::vector<std::vector<float>> own_features;  // what they point to, where they came in a message
  std::vector<const float*> states;              // [max_tokens], where the plan takes states; null: none
  Pass pass = Pass::first;                       // ops of the other kind are left out
  // Low-rank adapters: which one each row has, by its number in the AdapterTable (-1: none), of this home and (for
  // experts that homes share) of all; and the rows that have one, by adapter: those of a group are adapter_rows[first]
  // to adapter_rows[first + count - 1]. What follows adapter_of is made by RankedExecutor::begin().
  struct AdapterGroup {
    int adapter = 0, first = 0, count = 0;
  };
  std::vector<int32_t> adapter_of;  // [max_tokens]
  std::vector<int32_t> gathered_adapters, adapter_rows;
  std::vector<AdapterGroup> adapter_groups;
  std::vector<int32_t> ends;  // [max_tokens]: see SequenceView::ends; where the plan joins images
  // Cross attention: the keys that each row sees, and in its flags kHasImages and kSeesImage.
  GroupInputs cross;
  std::vector<int32_t> cross_starts, cross_ends;
  std::vector<uint8_t> row_flags;
  bool has_images = false;  // some row of the step
  // Vision towers.
  const float* pixels = nullptr;  // [tokens, cols]
  VisionIndices indices;
  MixTable mixes[2];
  std::vector<GroupInputs> local_groups;  // only first_row and rows of the sequences are the caller's to fill

  const GroupInputs& group(CacheRef ref) const {
    switch (ref.kind) {
      case CacheRef::Kind::paged: return groups[ref.group];
      case CacheRef::Kind::local: return local_groups[ref.group];
      case CacheRef::Kind::cross: return cross;
    }
    return groups[ref.group];
  }
  GroupInputs& group(CacheRef ref) { return const_cast<GroupInputs&>(std::as_const(*this).group(ref)); }
};

}  // namespace weft
