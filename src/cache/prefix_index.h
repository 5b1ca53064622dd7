// The index of reusable prefixes: one node per distinct prefix of whole blocks, found by its key, with at most one
// block per group. Nodes know their parent and children, which serves the eviction of leaves and the search for a block
// that matches in part. Only structure lives here; CacheManager decides what enters and leaves.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cache/block_key.h"

namespace weft {

class PrefixIndex {
 public:
  // `expected_nodes` reserves room; more are possible.
  PrefixIndex(int groups, int tokens_per_block, size_t expected_nodes);

  // -1: none.
  int32_t find(const BlockKey& key) const;
  // A new node without blocks. `parent_key` may be a root that does not exist yet (`parent_is_root`) or a node that is
  // gone; in the latter case the new node is an orphan: found by key, but nobody's child. `plain`: token ids say all
  // about the block. The only one here that may run out of memory (std::bad_alloc); nothing is changed then.
  int32_t insert(const BlockKey& key, const BlockKey& parent_key, bool parent_is_root, std::span<const int32_t> tokens,
                 bool plain);
  // Takes the node out; its children become orphans. A root that loses its last child goes too. Returns the parent if
  // that is a block node (not a root), else -1.
  int32_t remove(int32_t node);

  const BlockKey& key(int32_t node) const { return nodes_[node].key; }
  int children(int32_t node) const { return nodes_[node].children; }
  int32_t parent(int32_t node) const { return nodes_[node].parent; }
  int32_t block(int32_t node, int group) const { return blocks_[static_cast<size_t>(node) * groups_ + group]; }
  void set_block(int32_t node, int group, int32_t block) {
    blocks_[static_cast<size_t>(node) * groups_ + group] = block;
  }
  bool has_blocks(int32_t node) const;
  bool is_block_node(int32_t node) const { return nodes_[node].state == State::block; }
  int32_t node_numbers() const { return static_cast<int32_t>(nodes_.size()); }  // nodes are numbered below this

  struct PartialMatch {
    int32_t node = -1;
    int tokens = 0;
  };
  // The child of `parent` (a key of a node or root) whose tokens agree longest with the beginning of `tokens`, one
  // token at least. Looks at the newest children only (there may be thousands below a root). `usable(node)` filters.
  template <class Usable>
  PartialMatch best_child(const BlockKey& parent, std::span<const int32_t> tokens, Usable usable) const {
    PartialMatch best;
    const int32_t node = find(parent);
    if (node < 0) return best;
    int looked_at = 0;
    for (int32_t child = nodes_[node].first_child; child >= 0 && looked_at < kMaxChildrenSearched;
         child = nodes_[child].next) {
      ++looked_at;
      if (!nodes_[child].plain) continue;
      const int same = common_prefix(child, tokens);
      if (same > best.tokens && usable(child)) best = {child, same};
    }
    return best;
  }

  void check_integrity() const;

 private:
  static constexpr int kMaxChildrenSearched = 256;
  enum class State : uint8_t { unused, root, block };
  struct Node {
    BlockKey key;
    int32_t parent = -1, first_child = -1, next = -1, previous = -1;
    int32_t children = 0;
    State state = State::unused;
    bool plain = true;
  };
  void make_room_for_nodes(size_t count);
  int32_t add_node(const BlockKey& key, State state);
  void drop_node(int32_t node);
  void link(int32_t node, int32_t parent);
  void unlink(int32_t node);
  int common_prefix(int32_t node, std::span<const int32_t> tokens) const;
  size_t home(const BlockKey& key) const { return key.words[0] & (table_.size() - 1); }
  void table_insert(int32_t node);
  void table_erase(int32_t node);
  void grow_table();

  int groups_, tokens_per_block_;
  std::vector<Node> nodes_;
  std::vector<int32_t> unused_;  // node numbers
  std::vector<int32_t> tokens_;  // [node, tokens_per_block]
  std::vector<int32_t> blocks_;  // [node, group], -1: none
  std::vector<int32_t> table_;   // open addressing, linear probing; -1: empty; at most half full
  size_t used_ = 0;
};

}  // namespace weft
