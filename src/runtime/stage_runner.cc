#include "runtime/stage_runner.h"

#include <cstring>

#include "base/check.h"

namespace weft {

int64_t cache_block_bytes(const LayerGroup& group, DType dtype, int tokens_per_block) {
  CacheSpec spec = group.spec;
  spec.dtype = dtype;
  const int64_t bytes = static_cast<int64_t>(kernels::cache_layer_bytes(spec, tokens_per_block)) * group.layers;
  return (bytes + 4095) / 4096 * 4096;
}

StageRunner::StageRunner(const Model& model, const RankTeam& ranks, RankSpan these, const RunnerOptions& options)
    : model_(model), ranks_(ranks), these_(these), options_(options), groups_(static_cast<size_t>(these.count)),
      cache_memory_(static_cast<size_t>(these.count)), block_bytes_(static_cast<size_t>(these.count)),
      homes_(static_cast<size_t>(options.max_batch_size)) {}

Result<std::unique_ptr<StageRunner>> StageRunner::create(const Model& model, const RankTeam& ranks, RankSpan these,
                                                         const RunnerOptions& options,
                                                         std::span<const std::vector<LayerGroup>> draft_groups,
                                                         DType draft_dtype) {
  std::unique_ptr<StageRunner> stage(new StageRunner(model, ranks, these, options));
  WEFT_RETURN_IF_ERROR(stage->allocate(draft_groups, draft_dtype));
  return stage;
}

// Memory for the blocks of these groups (per rank), behind that of the groups before.
Result<std::vector<CacheMemory>> StageRunner::reserve_groups(const std::vector<std::vector<LayerGroup>>& groups,
                                                             DType dtype) {
  std::vector<CacheMemory> caches;
  for (size_t rank = 0; rank < groups.size(); ++rank) {
    CacheMemory& cache = caches.emplace_back();
    cache.tokens_per_block = options_.tokens_per_block;
    cache.dtype = dtype;
    for (const LayerGroup& group : groups[rank]) {
      const auto bytes = static_cast<size_t>(cache_block_bytes(group, dtype, options_.tokens_per_block));
      WEFT_TRY(Memory memory, Memory::reserve(bytes * options_.max_blocks[block_bytes_[rank].size()], true));
      cache.base.push_back(memory.data());
      cache.block_stride_bytes.push_back(bytes);
      block_bytes_[rank].push_back(bytes);
      groups_[rank].push_back({group, dtype});
      cache_memory_[rank].push_back(std::move(memory));
    }
  }
  return caches;
}

// Memory for the keys of images, for every slot.
Status StageRunner::reserve_cross(std::vector<CacheMemory>& caches) {
  if (!model_.plan().cross_group || !model_.vision) return {};
  cross_blocks_ = (kMaxCrossImages * model_.vision->most_keys + kCrossBlock - 1) / kCrossBlock;
  for (size_t rank = 0; rank < caches.size(); ++rank) {
    const LayerGroup& group = *plan(rank).cross_group;
    caches[rank].cross_stride_bytes = static_cast<size_t>(cache_block_bytes(group, model_.kv_dtype, kCrossBlock));
    WEFT_TRY(Memory memory,
             Memory::reserve(caches[rank].cross_stride_bytes * cross_blocks_ * options_.max_batch_size, true));
    caches[rank].cross_base = memory.data();
    cross_memory_.push_back(std::move(memory));
  }
  return {};
}

Status StageRunner::allocate(std::span<const std::vector<LayerGroup>> draft_groups, DType draft_dtype) {
  std::vector<std::vector<LayerGroup>> groups, drafts;
  for (size_t rank = 0; rank < cache_memory_.size(); ++rank) {
    groups.push_back(plan(rank).groups);
    if (!draft_groups.empty()) drafts.push_back(draft_groups[static_cast<size_t>(these_.first) + rank]);
  }
  WEFT_TRY(std::vector<CacheMemory> caches, reserve_groups(groups, model_.kv_dtype));
  for (CacheMemory& cache : caches) cache.local_dtype = model_.local_kv_dtype();
  WEFT_RETURN_IF_ERROR(reserve_cross(caches));
  executor_ = std::make_unique<RankedExecutor>(
      model_.shares, *model_.table, ranks_, these_, std::move(caches),
      ExecutorLimits{options_.max_num_tokens, options_.max_outputs, options_.max_batch_size, options_.max_seq_len},
      options_.steps_in_flight, model_.adapter_table.get());
  table_blocks_ = (options_.max_seq_len + options_.tokens_per_block - 1) / options_.tokens_per_block;
  for (int home = 0; home < executor_->homes(); ++home)
    for (GroupInputs& group : executor_->inputs(home).groups)
      group.block_table.resize(static_cast<size_t>(options_.max_batch_size) * static_cast<size_t>(table_blocks_));
  WEFT_TRY(draft_caches_, reserve_groups(drafts, draft_dtype));
  return {};
}

StageRunner::RankRange StageRunner::ranks_of(int home) const {
  const int homes = executor_->homes();
  if (homes == 1) return {0, cache_memory_.size()};
  const int place = home - (ranks_.first_rank() + these_.first) % homes;  // among the ranks that are here
  if (place < 0 || place >= these_.count) return {};
  return {static_cast<size_t>(place), static_cast<size_t>(place) + 1};
}

void StageRunner::open_slot(Slot slot, int home, const MediaPrompt* media) {
  homes_[slot] = home;
  if (cross_blocks_ > 0 && media) write_images(slot, *media);
}

void StageRunner::close_slot(Slot slot) {
  if (cross_blocks_ == 0) return;
  const RankRange ranks = ranks_of(homes_[slot]);
  for (size_t rank = ranks.first; rank < ranks.last; ++rank) {
    const size_t bytes = cross_slot_bytes(rank);
    cross_memory_[rank].release(slot * bytes, bytes);
  }
}

void StageRunner::copy_blocks(std::span<const BlockCopy> copies, std::span<const BlockRelease> releases) {
  for (const BlockCopy& copy : copies) {
    const RankRange ranks = ranks_of(copy.home);
    for (size_t rank = ranks.first; rank < ranks.last; ++rank) {
      std::byte* base = cache_memory_[rank][copy.group].data();
      const size_t bytes = block_bytes_[rank][copy.group];
      std::memcpy(base + copy.to * bytes, base + copy.from * bytes, bytes);
    }
  }
  for (const BlockRelease& release : releases) {
    const RankRange ranks = ranks_of(release.home);
    for (size_t rank = ranks.first; rank < ranks.last; ++rank) {
      const size_t bytes = block_bytes_[rank][release.group];
      cache_memory_[rank][release.group].release(release.block * bytes, bytes);
    }
  }
}

void StageRunner::read_block(int home, int group, int32_t block, const LayerGroup& whole, const BlockPart& part,
                             std::span<std::byte> content) const {
  const RankRange ranks = ranks_of(home);
  for (size_t rank = ranks.first; rank < ranks.last; ++rank) {
    const Group& own = groups_[rank][group];
    copy_block_out(cache_memory_[rank][group].data() + block * block_bytes_[rank][group], own.share, whole, own.dtype,
                   options_.tokens_per_block, part, content);
  }
}

void StageRunner::write_block(int home, int group, int32_t block, const LayerGroup& whole, const BlockPart& part,
                              std::span<const std::byte> content) {
  const RankRange ranks = ranks_of(home);
  for (size_t rank = ranks.first; rank < ranks.last; ++rank) {
    const Group& own = groups_[rank][group];
    copy_block_in(content, own.share, whole, own.dtype, options_.tokens_per_block, part,
                  cache_memory_[rank][group].data() + block * block_bytes_[rank][group]);
  }
}

void StageRunner::update_tables(std::span<const TableEntry> entries) {
  const int own = static_cast<int>(model_.plan().groups.size());
  for (const TableEntry& entry : entries) {
    WEFT_CHECK(entry.number < table_blocks_) << "slot " << entry.slot << " has a block number " << entry.number;
    if (entry.group >= own) continue;
    std::vector<int32_t>& table = executor_->inputs(homes_[entry.slot]).groups[entry.group].block_table;
    table[static_cast<size_t>(table_offset(entry.slot) + entry.number)] = entry.block;
  }
}

size_t StageRunner::cross_slot_bytes(size_t rank) const {
  return static_cast<size_t>(cross_blocks_) *
         static_cast<size_t>(cache_block_bytes(*plan(rank).cross_group, model_.kv_dtype, kCrossBlock));
}

// Writes the images' keys and values into the slot's own cross blocks, in the order that MediaPrompt::cross tells.
void StageRunner::write_images(Slot slot, const MediaPrompt& media) {
  std::vector<int32_t> blocks(cross_blocks_);
  for (int i = 0; i < cross_blocks_; ++i) blocks[i] = slot * cross_blocks_ + i;
  const LayerGroup& all = *model_.whole.cross_group;
  const int all_kv = all.spec.kv_heads * all.spec.k_dim;
  const RankRange ranks = ranks_of(homes_[slot]);
  ThreadTeam& team = ranks_.threads();
  int position = 0;
  const auto append = [&](const MediaFeatures& features, int first, int rows) {
    const kernels::SequenceView view{.rows = rows, .first_position = position};
    for (size_t rank = ranks.first; rank < ranks.last; ++rank)
      for (int layer = 0; rows > 0 && layer < plan(rank).cross_group->layers; ++layer) {
        const LayerGroup& own = *plan(rank).cross_group;
        const float* k = features.row(first) + static_cast<size_t>(own.first_layer + layer) * 2 * all_kv +
                         static_cast<size_t>(own.first_kv_head) * all.spec.k_dim;
        const kernels::AppendArgs args{
            k,
            k + all_kv,
            features.cols,
            features.cols,
            executor_->rank(static_cast<int>(rank)).cache_view({CacheRef::Kind::cross, 0, layer}),
            blocks.data(),
            &view,
            1};
        team.run([&](int thread) { model_.table->run(args, rows, {thread, team.size()}); });
      }
    position += rows;
  };
  for (size_t i = 0; i < media.features.size(); ++i) append(*media.features[i], 0, media.real_rows[i]);
  for (size_t i = 0; i < media.features.size(); ++i)
    append(*media.features[i], media.real_rows[i], media.features[i]->rows - media.real_rows[i]);
}

}  // namespace weft
