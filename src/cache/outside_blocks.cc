// Blocks that come from outside and go there.
#include "base/check.h"
#include "base/make_room.h"
#include "cache/block_pool.h"
#include "cache/cache_manager.h"
#include "cache/prefix_index.h"

namespace weft {

void CacheManager::start_like(CacheSequence& sequence, const CacheSequence& other) const {
  sequence = CacheSequence{};
  sequence.root = other.root, sequence.keys = other.keys;
  sequence.content = other.content, sequence.retention = other.retention, sequence.prompt_tokens = other.prompt_tokens;
  sequence.tables.resize(groups());
}

// Those of the index are held first: taking a block may evict others.
bool CacheManager::begin_import(CacheSequence& sequence, std::span<const int32_t> known, int blocks,
                                std::vector<Blank>& blanks) {
  extend_keys(sequence, known);
  int64_t bytes = 0;
  make_room(blanks, static_cast<size_t>(groups()) * static_cast<size_t>(blocks));
  for (CacheSequence::Table& table : sequence.tables) make_room(table.blocks, static_cast<size_t>(blocks));
  for (int g = 0; g < groups(); ++g) {
    CacheSequence::Table& table = sequence.tables[g];
    WEFT_CHECK(table.held() == 0) << "a sequence that holds blocks asks for more from outside";
    table.first_block = first_needed_block(g, first_query(blocks * options_.tokens_per_block));
    for (int number = table.first_block; number < blocks; ++number) {
      const int32_t node = index_->find(sequence.keys[number]);
      const int32_t block = node >= 0 ? index_->block(node, g) : -1;
      if (block >= 0) hold(g, block);
      else bytes += options_.groups[g].block_bytes;
      table.blocks.push_back(block);
    }
  }
  const auto give_up = [&] {
    for (CacheSequence::Table& table : sequence.tables) std::erase(table.blocks, -1);
    release(sequence);
    return false;
  };
  if (bytes > available_bytes()) return give_up();
  try {
    for (int g = 0; g < groups(); ++g) {
      CacheSequence::Table& table = sequence.tables[g];
      for (size_t i = 0; i < table.blocks.size(); ++i)
        if (table.blocks[i] < 0)
          blanks.push_back({g, table.first_block + static_cast<int>(i), table.blocks[i] = take_block(g)});
    }
  } catch (...) {
    give_up();
    throw;
  }
  return true;
}

void CacheManager::finish_import(CacheSequence& sequence, std::span<const int32_t> known, int blocks) {
  for (int number = 0; number < blocks; ++number) {
    const auto holds = [&](const CacheSequence::Table& table) { return number >= table.first_block; };
    if (std::any_of(sequence.tables.begin(), sequence.tables.end(), holds))
      publish_block(sequence, known, number, true);
  }
  sequence.published = blocks;
}

bool CacheManager::hold_indexed(CacheSequence& sequence, std::span<const int> first, int blocks,
                                std::vector<int>& indexed) {
  bool all = true;
  for (int g = 0; g < groups(); ++g) {
    CacheSequence::Table& table = sequence.tables[g];
    if (table.held() == 0) table.first_block = indexed[g] = keeps_all(g) ? 0 : first[g];
    make_room(table.blocks, static_cast<size_t>(std::max(0, blocks - table.first_block - table.held())));
    for (int& number = indexed[g]; number < blocks; ++number) {
      const int32_t node = index_->find(sequence.keys[number]);
      const int32_t block = node >= 0 ? index_->block(node, g) : -1;
      if (block < 0) break;
      const auto place = table.head + static_cast<size_t>(number - table.first_block);
      if (place == table.blocks.size()) {
        hold(g, block);
        table.blocks.push_back(block);
      } else if (table.blocks[place] != block) {  // held while it was computed, and the index got another one
        hold(g, block);
        let_go(g, table.blocks[place]);
        table.blocks[place] = block;
      }
    }
    all &= indexed[g] >= blocks;
  }
  return all;
}

void CacheManager::hold_computing(CacheSequence& sequence, const CacheSequence& other, int end) {
  for (int g = 0; g < groups(); ++g) {
    CacheSequence::Table& table = sequence.tables[g];
    const CacheSequence::Table& theirs = other.tables[g];
    make_room(table.blocks, static_cast<size_t>(std::max(0, end - table.first_block - table.held())));
    for (int number = table.first_block + table.held(); number < end; ++number) {
      const int place = number - theirs.first_block;
      if (place < 0 || place >= theirs.held()) break;
      const int32_t block = theirs.blocks[theirs.head + static_cast<size_t>(place)];
      hold(g, block);
      table.blocks.push_back(block);
    }
  }
}

}  // namespace weft
