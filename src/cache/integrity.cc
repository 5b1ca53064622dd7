// For tests: whether the cache's books agree with each other and with who holds blocks.
#include "base/check.h"
#include "cache/block_pool.h"
#include "cache/cache_manager.h"
#include "cache/prefix_index.h"

namespace weft {

void CacheManager::check_integrity(std::span<const CacheSequence* const> sequences) const {
  pool_->check_integrity();
  index_->check_integrity();
  for (int g = 0; g < groups(); ++g) {
    std::vector<int32_t> refs(pool_->known_blocks(g), 0);
    for (const CacheSequence* sequence : sequences) {
      const CacheSequence::Table& table = sequence->tables[g];
      WEFT_CHECK(table.sent >= 0 && table.sent <= table.first_block + table.held());
      for (size_t i = table.head; i < table.blocks.size(); ++i) ++refs[table.blocks[i]];
    }
    size_t evictable = 0;
    for (int32_t block = 0; block < pool_->known_blocks(g); ++block) {
      const BlockPool::Block& b = pool_->at(g, block);
      WEFT_CHECK(b.refs == refs[block]) << "group " << g << " block " << block << ": " << b.refs << " against "
                                        << refs[block];
      const bool expected = b.refs == 0 && b.node >= 0 && (!keeps_all(g) || index_->children(b.node) == 0);
      evictable += expected;
      WEFT_CHECK(pool_->evictable(g).contains(block) == expected) << "group " << g << " block " << block;
      WEFT_CHECK(b.node < 0 || (index_->is_block_node(b.node) && index_->block(b.node, g) == block));
    }
    WEFT_CHECK(pool_->evictable(g).size() == evictable);
    for (int32_t node = 0; node < index_->node_numbers(); ++node) {
      if (!index_->is_block_node(node)) continue;
      const int32_t block = index_->block(node, g), parent = index_->parent(node);
      WEFT_CHECK(block >= 0 || !keeps_all(g)) << "node " << node << " has no block in full group " << g;
      WEFT_CHECK(block < 0 || pool_->at(g, block).node == node);
      if (!keeps_all(g)) continue;
      WEFT_CHECK(parent >= 0) << "node " << node << " is an orphan in a model with full groups";
      if (!index_->is_block_node(parent)) continue;
      WEFT_CHECK(pool_->at(g, index_->block(parent, g)).refs >= pool_->at(g, block).refs) << "node " << node;
    }
  }
}

}  // namespace weft
