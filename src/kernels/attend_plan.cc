// Cuts a step's attention into items for the threads, and the sizes that go with the cache's layout.
//
// Items are contiguous per thread and ordered by sequence, kv head and row, so that one thread reads the same keys
// again and again. Only when whole items cannot be balanced (few sequences of one row, few kv heads) the keys of
// one-row sequences are spread by splits. Neither choice changes a bit of the result.
#include <algorithm>

#include "base/check.h"
#include "kernels/kernels.h"
#include "kernels/layout.h"

namespace weft::kernels {
namespace {

constexpr int kMaxPartials = 2048;

struct Planner {
  std::span<const SequenceView> sequences;
  int kv_heads, rows_per_item, threads;
  Mask mask;
  int window, chunk;

  Range keys(const SequenceView& s, int first_row, int rows) const {
    return keys_of_rows(s, first_row, rows, mask, window, chunk);
  }
  // What an item costs, in key visits; the constant stands for the item's own overhead.
  int64_t cost(const AttendItem& item) const {
    const SequenceView& s = sequences[item.sequence];
    const Range range = keys(s, item.first_row, item.rows);
    if (item.partial < 0) return item.rows * (range.last - range.first + kStepTokens);
    const int64_t first = std::max<int64_t>(range.first, static_cast<int64_t>(item.first_split) * kSplitTokens);
    const int64_t last =
        std::min<int64_t>(range.last, static_cast<int64_t>(item.first_split + item.splits) * kSplitTokens);
    return item.rows * (last - first + kStepTokens);
  }
};

void whole_items(const Planner& planner, int sequence, int kv_head, AttendPlan& plan) {
  const int rows = planner.sequences[sequence].rows;
  for (int row = 0; row < rows; row += planner.rows_per_item) {
    plan.items.push_back({.sequence = sequence,
                          .first_row = row,
                          .rows = std::min(planner.rows_per_item, rows - row),
                          .kv_head = kv_head});
  }
}

// Spreads the keys of a one-row sequence; false when the partial buffer is full.
bool spread_items(const Planner& planner, int sequence, int kv_head, AttendPlan& plan) {
  const Range range = planner.keys(planner.sequences[sequence], 0, 1);
  const int first = static_cast<int>(range.first / kSplitTokens);
  const int splits = static_cast<int>((range.last + kSplitTokens - 1) / kSplitTokens) - first;
  if (splits < 2 || plan.partial_count + splits > kMaxPartials) return false;
  for (int i = 0; i < splits; ++i) {
    plan.items.push_back({.sequence = sequence,
                          .rows = 1,
                          .kv_head = kv_head,
                          .partial = plan.partial_count + i,
                          .first_split = first + i,
                          .splits = 1});
  }
  plan.combines.push_back({.sequence = sequence,
                           .kv_head = kv_head,
                           .partial = plan.partial_count,
                           .first_split = first,
                           .splits = splits});
  plan.partial_count += splits;
  return true;
}

void make_items(const Planner& planner, bool spread, AttendPlan& plan) {
  plan.items.clear();
  plan.combines.clear();
  plan.partial_count = 0;
  for (int sequence = 0; sequence < static_cast<int>(planner.sequences.size()); ++sequence) {
    const int rows = planner.sequences[sequence].rows;
    for (int kv_head = 0; kv_head < planner.kv_heads && rows > 0; ++kv_head) {
      if (!spread || rows != 1 || !spread_items(planner, sequence, kv_head, plan))
        whole_items(planner, sequence, kv_head, plan);
    }
  }
}

// Cuts the items at equal shares of the cost, each boundary at the nearest item. Returns the largest thread's cost over
// the mean, in percent.
int64_t assign(const Planner& planner, AttendPlan& plan) {
  int64_t total = 0, done = 0, before = 0, worst = 0;
  for (const AttendItem& item : plan.items) total += planner.cost(item);
  plan.begin.assign(static_cast<size_t>(planner.threads) + 1, static_cast<int>(plan.items.size()));
  plan.begin[0] = 0;
  int thread = 1;
  for (int i = 0; i < static_cast<int>(plan.items.size()); ++i) {
    const int64_t cost = planner.cost(plan.items[i]);
    while (thread < planner.threads && (2 * done + cost) * planner.threads > 2 * total * thread) {
      plan.begin[thread++] = i;
      worst = std::max(worst, done - before);
      before = done;
    }
    done += cost;
  }
  worst = std::max(worst, done - before);
  return total == 0 ? 100 : worst * planner.threads * 100 / total;
}

}  // namespace

void plan_attention(std::span<const SequenceView> sequences, const CacheView& cache, int heads, Mask mask, int window,
                    int chunk, int threads, AttendPlan& plan) {
  WEFT_CHECK(threads > 0 && cache.kv_heads > 0 && heads % cache.kv_heads == 0)
      << threads << " threads, " << heads << " heads, " << cache.kv_heads;
  const int group = heads / cache.kv_heads;
  const Planner planner{sequences, cache.kv_heads, std::max(1, kItemQueries / group), threads, mask, window, chunk};
  make_items(planner, false, plan);
  if (assign(planner, plan) <= 115) return;
  make_items(planner, true, plan);
  assign(planner, plan);
}

size_t partial_floats(int heads, const CacheView& cache) {
  const size_t group = static_cast<size_t>(heads / cache.kv_heads);
  return (group * (static_cast<size_t>(cache.v_dim) + 2) + 15) / 16 * 16;
}

int max_partials(int max_sequences, int max_position, int kv_heads) {
  const int64_t splits = (static_cast<int64_t>(max_position) + kSplitTokens) / kSplitTokens;
  return static_cast<int>(std::min<int64_t>(kMaxPartials, splits * max_sequences * kv_heads));
}

CacheHeadRuns cache_head_runs(const CacheSpec& spec, int tokens_per_block) {
  const CacheView view{.tokens_per_block = tokens_per_block,
                       .dtype = spec.dtype,
                       .kv_heads = spec.kv_heads,
                       .k_dim = spec.k_dim,
                       .v_dim = spec.v_dim,
                       .latent = spec.kind == CacheSpec::Kind::latent};
  const auto tiles = static_cast<size_t>(tiles_per_block(tokens_per_block));
  return {tiles * key_tile_bytes(view), tiles * value_tile_bytes(view), values_offset(view)};
}

size_t cache_layer_bytes(const CacheSpec& spec, int tokens_per_block) {
  const CacheHeadRuns runs = cache_head_runs(spec, tokens_per_block);
  return (runs.values_at + static_cast<size_t>(spec.kv_heads) * runs.value_bytes + 63) / 64 * 64;
}

}  // namespace weft::kernels
