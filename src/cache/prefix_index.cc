#include "cache/prefix_index.h"

#include <algorithm>
#include <bit>

#include "base/check.h"
#include "base/make_room.h"

namespace weft {
namespace {

constexpr size_t kMostReservedNodes = size_t{1} << 20;

}  // namespace

PrefixIndex::PrefixIndex(int groups, int tokens_per_block, size_t expected_nodes)
    : groups_(groups), tokens_per_block_(tokens_per_block) {
  const size_t room = std::min(std::max<size_t>(expected_nodes, 16), kMostReservedNodes);
  nodes_.reserve(room), unused_.reserve(room);
  tokens_.reserve(room * tokens_per_block), blocks_.reserve(room * groups);
  table_.assign(std::bit_ceil(2 * room), -1);
}

int32_t PrefixIndex::find(const BlockKey& key) const {
  for (size_t i = home(key); table_[i] >= 0; i = (i + 1) & (table_.size() - 1)) {
    if (nodes_[table_[i]].key == key) return table_[i];
  }
  return -1;
}

int32_t PrefixIndex::insert(const BlockKey& key, const BlockKey& parent_key, bool parent_is_root,
                            std::span<const int32_t> tokens, bool plain) {
  make_room_for_nodes(2);
  int32_t parent = find(parent_key);
  if (parent < 0 && parent_is_root) parent = add_node(parent_key, State::root);
  const int32_t node = add_node(key, State::block);
  nodes_[node].plain = plain;
  std::copy(tokens.begin(), tokens.end(), tokens_.begin() + static_cast<ptrdiff_t>(node) * tokens_per_block_);
  if (parent >= 0) link(node, parent);
  return node;
}

int32_t PrefixIndex::remove(int32_t node) {
  while (nodes_[node].first_child >= 0) unlink(nodes_[node].first_child);
  const int32_t parent = nodes_[node].parent;
  if (parent >= 0) unlink(node);
  drop_node(node);
  if (parent < 0 || nodes_[parent].state == State::block) return parent;
  if (nodes_[parent].children == 0) drop_node(parent);
  return -1;
}

bool PrefixIndex::has_blocks(int32_t node) const {
  for (int g = 0; g < groups_; ++g) {
    if (block(node, g) >= 0) return true;
  }
  return false;
}

// All that so many new nodes, and their going, may need.
void PrefixIndex::make_room_for_nodes(size_t count) {
  while (2 * (used_ + count) > table_.size()) grow_table();
  if (unused_.size() >= count) return;
  make_room(nodes_, count);
  make_room(tokens_, count * static_cast<size_t>(tokens_per_block_));
  make_room(blocks_, count * static_cast<size_t>(groups_));
  make_room(unused_, nodes_.size() + count - unused_.size());
}

// There is room.
int32_t PrefixIndex::add_node(const BlockKey& key, State state) {
  int32_t node = node_numbers();
  if (!unused_.empty()) {
    node = unused_.back();
    unused_.pop_back();
  } else {
    nodes_.emplace_back();
    tokens_.resize(tokens_.size() + tokens_per_block_);
    blocks_.resize(blocks_.size() + groups_);
  }
  nodes_[node] = Node{};
  nodes_[node].key = key;
  nodes_[node].state = state;
  std::fill_n(blocks_.begin() + static_cast<ptrdiff_t>(node) * groups_, groups_, -1);
  table_insert(node);
  ++used_;
  return node;
}

void PrefixIndex::drop_node(int32_t node) {
  table_erase(node);
  nodes_[node].state = State::unused;
  unused_.push_back(node);
  --used_;
}

void PrefixIndex::link(int32_t node, int32_t parent) {
  Node& n = nodes_[node];
  Node& p = nodes_[parent];
  n.parent = parent, n.previous = -1, n.next = p.first_child;
  if (n.next >= 0) nodes_[n.next].previous = node;
  p.first_child = node;
  ++p.children;
}

void PrefixIndex::unlink(int32_t node) {
  Node& n = nodes_[node];
  Node& p = nodes_[n.parent];
  if (n.previous >= 0) nodes_[n.previous].next = n.next;
  else p.first_child = n.next;
  if (n.next >= 0) nodes_[n.next].previous = n.previous;
  --p.children;
  n.parent = n.next = n.previous = -1;
}

int PrefixIndex::common_prefix(int32_t node, std::span<const int32_t> tokens) const {
  const int32_t* own = tokens_.data() + static_cast<ptrdiff_t>(node) * tokens_per_block_;
  const int most = std::min(tokens_per_block_, static_cast<int>(tokens.size()));
  int same = 0;
  while (same < most && own[same] == tokens[same]) ++same;
  return same;
}

void PrefixIndex::table_insert(int32_t node) {
  size_t i = home(nodes_[node].key);
  while (table_[i] >= 0) i = (i + 1) & (table_.size() - 1);
  table_[i] = node;
}

// Closes the gap by moving later entries of the same run forward, so that probing needs no tombstones.
void PrefixIndex::table_erase(int32_t node) {
  const size_t mask = table_.size() - 1;
  size_t gap = home(nodes_[node].key);
  while (table_[gap] != node) gap = (gap + 1) & mask;
  for (size_t i = (gap + 1) & mask; table_[i] >= 0; i = (i + 1) & mask) {
    const size_t start = home(nodes_[table_[i]].key);
    if (((i - start) & mask) < ((i - gap) & mask)) continue;  // the entry's run begins behind the gap
    table_[gap] = table_[i];
    gap = i;
  }
  table_[gap] = -1;
}

void PrefixIndex::grow_table() {
  table_.assign(2 * table_.size(), -1);
  for (int32_t node = 0; node < node_numbers(); ++node) {
    if (nodes_[node].state != State::unused) table_insert(node);
  }
}

void PrefixIndex::check_integrity() const {
  size_t used = 0;
  for (int32_t node = 0; node < node_numbers(); ++node) {
    const Node& n = nodes_[node];
    if (n.state == State::unused) continue;
    ++used;
    WEFT_CHECK(find(n.key) == node) << "node " << node << " is not found by its key";
    WEFT_CHECK(n.state == State::block ? has_blocks(node) : n.children > 0) << "node " << node << " serves nothing";
    int children = 0;
    for (int32_t child = n.first_child; child >= 0; child = nodes_[child].next) {
      ++children;
      WEFT_CHECK(nodes_[child].parent == node && nodes_[child].state == State::block);
    }
    WEFT_CHECK(children == n.children);
  }
  WEFT_CHECK(used == used_ && used + unused_.size() == nodes_.size());
}

}  // namespace weft
