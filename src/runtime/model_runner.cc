#include "runtime/model_runner.h"

#include <cstring>

#include "base/check.h"
#include "comm/process_ranks.h"
#include "runtime/step_message.h"

namespace weft {

int64_t cache_block_bytes(const LayerGroup& group, DType dtype, int tokens_per_block) {
  CacheSpec spec = group.spec;
  spec.dtype = dtype;
  const int64_t bytes = static_cast<int64_t>(kernels::cache_layer_bytes(spec, tokens_per_block)) * group.layers;
  return (bytes + 4095) / 4096 * 4096;
}

namespace {

// From rank 0 to the others. False: it has closed.
bool share_options(ProcessRanks& processes, RunnerOptions& o) {
  if (processes.rank() == 0) {
    ByteWriter to;
    for (const int value : {o.max_batch_size, o.max_num_tokens, o.max_outputs, o.max_seq_len, o.tokens_per_block})
      to.put(value);
    to.put_all(o.max_blocks);
    to.put(o.most_drafts), to.put(o.draft_scores);
    processes.send(to.bytes());
    return true;
  }
  const auto message = processes.receive();
  if (!message) return false;
  ByteReader from(*message);
  for (int* value : {&o.max_batch_size, &o.max_num_tokens, &o.max_outputs, &o.max_seq_len, &o.tokens_per_block})
    *value = from.take<int>();
  o.max_blocks = from.take_all<int>();
  o.most_drafts = from.take<int>(), o.draft_scores = from.take<bool>();
  return true;
}

}  // namespace

ModelRunner::ModelRunner(Model model, const RankTeam& ranks, RunnerOptions options)
    : model_(std::move(model)), ranks_(ranks), options_(std::move(options)), cache_memory_(model_.shares.ranks.size()),
      block_bytes_(model_.shares.ranks.size()), homes_(options_.max_batch_size) {}

Result<std::unique_ptr<ModelRunner>> ModelRunner::create(Model model, std::optional<DraftModel> draft,
                                                         const RankTeam& ranks, const RankTeam& draft_ranks,
                                                         RunnerOptions options) {
  if (ranks.processes() && !share_options(*ranks.processes(), options)) return std::unique_ptr<ModelRunner>();
  std::unique_ptr<ModelRunner> runner(new ModelRunner(std::move(model), ranks, std::move(options)));
  Status ready = runner->allocate(std::move(draft), draft_ranks);
  if (ranks.processes()) ready = ranks.processes()->agree(ready);
  WEFT_RETURN_IF_ERROR(ready);
  return runner;
}

// Memory for the blocks of these groups (per rank), behind that of the groups before.
Result<std::vector<CacheMemory>> ModelRunner::reserve_groups(const std::vector<std::vector<LayerGroup>>& groups,
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
      cache_memory_[rank].push_back(std::move(memory));
    }
  }
  return caches;
}

// Memory for the keys of images, for every slot.
Status ModelRunner::reserve_cross(std::vector<CacheMemory>& caches) {
  if (!model_.plan().cross_group || !model_.vision) return {};
  cross_blocks_ = (kMaxCrossImages * model_.vision->most_keys + kCrossBlock - 1) / kCrossBlock;
  for (size_t rank = 0; rank < caches.size(); ++rank) {
    const LayerGroup& group = *model_.shares.ranks[rank].plan.cross_group;
    caches[rank].cross_stride_bytes = static_cast<size_t>(cache_block_bytes(group, model_.kv_dtype, kCrossBlock));
    WEFT_TRY(Memory memory,
             Memory::reserve(caches[rank].cross_stride_bytes * cross_blocks_ * options_.max_batch_size, true));
    caches[rank].cross_base = memory.data();
    cross_memory_.push_back(std::move(memory));
  }
  return {};
}

Status ModelRunner::allocate(std::optional<DraftModel> draft, const RankTeam& draft_ranks) {
  std::vector<std::vector<LayerGroup>> groups;
  for (const PlanShare& share : model_.shares.ranks) groups.push_back(share.plan.groups);
  WEFT_TRY(std::vector<CacheMemory> caches, reserve_groups(groups, model_.kv_dtype));
  for (CacheMemory& cache : caches) cache.local_dtype = model_.local_kv_dtype();
  WEFT_RETURN_IF_ERROR(reserve_cross(caches));
  executor_ = std::make_unique<RankedExecutor>(
      model_.shares, *model_.table, ranks_, std::move(caches),
      ExecutorLimits{options_.max_num_tokens, options_.max_outputs, options_.max_batch_size, options_.max_seq_len});
  table_blocks_ = (options_.max_seq_len + options_.tokens_per_block - 1) / options_.tokens_per_block;
  for (int home = 0; home < executor_->homes(); ++home)
    for (GroupInputs& group : executor_->inputs(home).groups)
      group.block_table.resize(static_cast<size_t>(options_.max_batch_size) * static_cast<size_t>(table_blocks_));
  if (draft) {
    WEFT_TRY(std::vector<CacheMemory> own, reserve_groups(ModelDrafter::groups_of(*draft), draft->kv_dtype));
    const DrafterLimits limits{options_.max_num_tokens, options_.max_batch_size, options_.max_seq_len,
                               options_.most_drafts, options_.draft_scores};
    WEFT_TRY(drafter_, ModelDrafter::create(std::move(*draft), model_, draft_ranks, std::move(own), limits));
  }
  if (options_.measure_ops) executor_->measure_ops();
  if (options_.trace) executor_->trace(*options_.trace);
  return {};
}

ModelRunner::RankRange ModelRunner::ranks_of(int home) const {
  const bool here = ranks_.processes() == nullptr;
  if (executor_->homes() == 1) return {0, cache_memory_.size(), 1};
  if (!here) return {0, static_cast<size_t>(ranks_.first_rank() % executor_->homes() == home), 1};
  return {static_cast<size_t>(home), cache_memory_.size(), static_cast<size_t>(executor_->homes())};
}

void ModelRunner::open_slot(Slot slot, int home, const MediaPrompt* media) {
  homes_[slot] = home;
  if (drafter_) drafter_->open(slot, home);
  if (cross_blocks_ > 0 && media) write_images(slot, *media);
}

void ModelRunner::close_slot(Slot slot) {
  if (cross_blocks_ == 0) return;
  const RankRange ranks = ranks_of(homes_[slot]);
  for (size_t rank = ranks.first; rank < ranks.last; rank += ranks.step) {
    const size_t bytes = cross_slot_bytes(rank);
    cross_memory_[rank].release(slot * bytes, bytes);
  }
}

void ModelRunner::copy_blocks(std::span<const BlockCopy> copies, std::span<const BlockRelease> releases) {
  for (const BlockCopy& copy : copies) {
    const RankRange ranks = ranks_of(copy.home);
    for (size_t rank = ranks.first; rank < ranks.last; rank += ranks.step) {
      std::byte* base = cache_memory_[rank][copy.group].data();
      const size_t bytes = block_bytes_[rank][copy.group];
      std::memcpy(base + copy.to * bytes, base + copy.from * bytes, bytes);
    }
  }
  for (const BlockRelease& release : releases) {
    const RankRange ranks = ranks_of(release.home);
    for (size_t rank = ranks.first; rank < ranks.last; rank += ranks.step) {
      const size_t bytes = block_bytes_[rank][release.group];
      cache_memory_[rank][release.group].release(release.block * bytes, bytes);
    }
  }
}

const Taps& ModelRunner::taps() {
  const bool reads = drafter_ && drafter_->model().reads_states();
  taps_.ld = executor_->taps_ld();
  taps_.of_home.clear();
  for (int home = 0; home < executor_->homes(); ++home)
    taps_.of_home.push_back(reads ? executor_->taps(home) : nullptr);
  return taps_;
}

void ModelRunner::announce(const StepBatch& batch, bool replay) {
  if (!ranks_.processes()) return;
  message_.clear();
  write_changes(batch, message_);
  write_inputs(*this, replay, message_);
  ranks_.processes()->send(message_.bytes());
}

void ModelRunner::announce_drafts(std::span<const DraftRow> rows) {
  if (!ranks_.processes()) return;
  message_.clear();
  write_draft_rows(rows, message_);
  ranks_.processes()->send(message_.bytes());
}

void ModelRunner::update_tables(std::span<const TableEntry> entries) {
  const int own = static_cast<int>(model_.plan().groups.size());
  for (const TableEntry& entry : entries) {
    WEFT_CHECK(entry.number < table_blocks_) << "slot " << entry.slot << " has a block number " << entry.number;
    const int home = homes_[entry.slot];
    std::vector<int32_t>& table = entry.group < own ? executor_->inputs(home).groups[entry.group].block_table
                                                    : drafter_->block_table(entry.group - own, home);
    table[static_cast<size_t>(table_offset(entry.slot) + entry.number)] = entry.block;
  }
}

size_t ModelRunner::cross_slot_bytes(size_t rank) const {
  const LayerGroup& group = *model_.shares.ranks[rank].plan.cross_group;
  return static_cast<size_t>(cross_blocks_) *
         static_cast<size_t>(cache_block_bytes(group, model_.kv_dtype, kCrossBlock));
}

// Writes the images' keys and values into the slot's own cross blocks, in the order that MediaPrompt::cross tells.
void ModelRunner::write_images(Slot slot, const MediaPrompt& media) {
  std::vector<int32_t> blocks(cross_blocks_);
  for (int i = 0; i < cross_blocks_; ++i) blocks[i] = slot * cross_blocks_ + i;
  const LayerGroup& all = *model_.whole.cross_group;
  const int all_kv = all.spec.kv_heads * all.spec.k_dim;
  const RankRange ranks = ranks_of(homes_[slot]);
  ThreadTeam& team = threads();
  int position = 0;
  const auto append = [&](const MediaFeatures& features, int first, int rows) {
    const kernels::SequenceView view{.rows = rows, .first_position = position};
    for (size_t rank = ranks.first; rank < ranks.last; rank += ranks.step)
      for (int layer = 0; rows > 0 && layer < model_.shares.ranks[rank].plan.cross_group->layers; ++layer) {
        const LayerGroup& own = *model_.shares.ranks[rank].plan.cross_group;
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
