// Invariants that the code below leans on (check_integrity() knows them all):
//  - Who holds a block of the index holds, in full groups, the blocks of all its ancestors. So an unused node has
//    unused descendants only, and evicting leaves first never meets a used one.
//  - In a model with full groups every node has a block in each of them; a node goes when these go, with its window and
//    chunk blocks. In a model without, a node goes with its last block, and its children become orphans.
#include "cache/cache_manager.h"

#include <algorithm>
#include <new>

#include "base/check.h"
#include "base/make_room.h"
#include "cache/block_pool.h"
#include "cache/prefix_index.h"

namespace weft {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

uint64_t eviction_key(const BlockPool::Block& block) {
  return static_cast<uint64_t>(block.priority) << 56 | block.last_use;
}

// Entries before `head` have been released; they are erased once they are the larger part of the vector.
void compact(CacheSequence::Table& table) {
  if (table.head < 16 || table.head * 2 < table.blocks.size()) return;
  table.blocks.erase(table.blocks.begin(), table.blocks.begin() + static_cast<ptrdiff_t>(table.head));
  table.head = 0;
}

Status check_options(const CacheOptions& options) {
  if (options.tokens_per_block < 1) {
    return fail(Code::invalid_argument, "tokens_per_block is ", options.tokens_per_block, ", must be at least 1");
  }
  for (size_t i = 0; i < options.groups.size(); ++i) {
    const CacheGroup& group = options.groups[i];
    const bool spanned = group.kind == CacheSpec::Kind::window || group.kind == CacheSpec::Kind::chunk;
    if (group.kind == CacheSpec::Kind::cross)
      return fail(Code::unsupported, "cache group ", i, ": cross attention is not paged");
    if (spanned && group.span < 1)
      return fail(Code::invalid_argument, "cache group ", i, ": span ", group.span, " is not positive");
    if (group.block_bytes < 1) return fail(Code::invalid_argument, "cache group ", i, ": a block has no bytes");
    if (group.block_bytes > options.budget_bytes) {
      return fail(Code::resource_exhausted, "the KV cache budget of ", options.budget_bytes,
                  " bytes holds no block of group ", i, " (", group.block_bytes, " bytes for ",
                  options.tokens_per_block, " tokens)");
    }
  }
  return {};
}

}  // namespace

Result<CacheManager> CacheManager::create(CacheOptions options) {
  WEFT_RETURN_IF_ERROR(check_options(options));
  CacheManager manager(std::move(options));
  if (manager.max_sequence_tokens() < 1) {
    return fail(Code::resource_exhausted, "the KV cache budget of ", manager.options_.budget_bytes,
                " bytes holds no token in all groups (", manager.bytes_for(1, 1), " bytes for the first)");
  }
  return manager;
}

CacheManager::CacheManager(CacheOptions options)
    : options_(std::move(options)), pool_(std::make_unique<BlockPool>(options_)) {
  size_t most_blocks = 0;
  for (int g = 0; g < groups(); ++g) {
    has_full_group_ |= keeps_all(g);
    most_blocks = std::max<size_t>(most_blocks, max_blocks(g));
  }
  index_ =
      std::make_unique<PrefixIndex>(groups(), options_.tokens_per_block, options_.block_reuse ? 2 * most_blocks : 0);
}
CacheManager::CacheManager(CacheManager&&) = default;
CacheManager& CacheManager::operator=(CacheManager&&) = default;
CacheManager::~CacheManager() = default;

int CacheManager::max_blocks(int group) const { return pool_->max_blocks(group); }
int64_t CacheManager::available_bytes() const { return pool_->budget_bytes() - pool_->used_bytes(); }
int64_t CacheManager::resident_bytes() const { return pool_->resident_bytes(); }
CacheGauges CacheManager::gauges(int group) const { return pool_->gauges(group); }
void CacheManager::take_releases(std::vector<BlockRelease>& releases) noexcept { pool_->take_releases(releases); }

// Positions computed - span + 1 .. computed are held at once when steps are single tokens; at the worst alignment an
// interval of n positions touches ceil((n - 1) / B) + 1 blocks.
int64_t CacheManager::most_blocks(int group, int64_t tokens, int64_t whole) const {
  const int64_t all = ceil_div(tokens, options_.tokens_per_block);
  if (keeps_all(group)) return all;
  const int64_t held = options_.groups[group].span + options_.lookahead + options_.recomputed;
  const int64_t singly = ceil_div(held - 1, options_.tokens_per_block) + 1;
  return std::min(all, std::max(singly, ceil_div(whole + options_.lookahead, options_.tokens_per_block)));
}

int64_t CacheManager::bytes_for(int64_t tokens, int64_t whole) const {
  int64_t bytes = 0;
  for (int g = 0; g < groups(); ++g) bytes += most_blocks(g, tokens, whole) * options_.groups[g].block_bytes;
  return bytes;
}

int CacheManager::max_sequence_tokens() const {
  if (bytes_for(INT32_MAX, 1) <= options_.budget_bytes) return INT32_MAX;
  int64_t fits = 0, too_long = INT32_MAX;
  while (too_long - fits > 1) {
    const int64_t middle = (fits + too_long) / 2;
    (bytes_for(middle, 1) <= options_.budget_bytes ? fits : too_long) = middle;
  }
  return static_cast<int>(fits);
}

// The first block that a query at `position` reads.
int CacheManager::first_needed_block(int group, int64_t position) const {
  const CacheGroup& g = options_.groups[group];
  int64_t first = 0;
  if (g.kind == CacheSpec::Kind::window) first = std::max<int64_t>(0, position - g.span + 1);
  if (g.kind == CacheSpec::Kind::chunk) first = position / g.span * g.span;
  return static_cast<int>(first / options_.tokens_per_block);
}

void CacheManager::begin_step(int64_t now_us) {
  now_us_ = std::max(now_us_, now_us);
  for (int g = 0; g < groups(); ++g) {
    IndexedHeap& lapsing = pool_->lapsing(g);
    while (!lapsing.empty() && lapsing.top_key() <= static_cast<uint64_t>(now_us_)) {
      const int32_t block = lapsing.top();
      lapsing.erase(block);
      pool_->at(g, block).priority = kDefaultPriority;
      pool_->at(g, block).duration_us = 0;
      if (!pool_->evictable(g).contains(block)) continue;
      pool_->evictable(g).erase(block);
      pool_->evictable(g).push(block, eviction_key(pool_->at(g, block)));
    }
  }
}

void CacheManager::start(CacheSequence& sequence, CacheIdentity identity, int prompt_tokens,
                         int expected_tokens) const {
  sequence = CacheSequence{};
  sequence.root = root_key(identity.salt, identity.adapter);
  sequence.content = std::move(identity.content);
  sequence.retention = std::move(identity.retention);
  sequence.prompt_tokens = prompt_tokens;
  sequence.tables.resize(groups());
  const int64_t all = ceil_div(expected_tokens, options_.tokens_per_block);
  if (options_.block_reuse) {
    sequence.keys.reserve(all);
    if (identity.keys) sequence.keys.assign(identity.keys->begin(), identity.keys->end());
  }
  for (int g = 0; g < groups(); ++g) {
    sequence.tables[g].blocks.reserve(std::min(all, 2 * most_blocks(g, expected_tokens, 1) + 32));
  }
}

std::shared_ptr<const std::vector<BlockKey>> CacheManager::prompt_keys(std::span<const int32_t> prompt,
                                                                       const CacheIdentity& identity) const {
  if (!options_.block_reuse || groups() == 0 || prompt.size() < static_cast<size_t>(options_.tokens_per_block))
    return nullptr;
  CacheSequence made;
  made.root = root_key(identity.salt, identity.adapter), made.content = identity.content;
  extend_keys(made, prompt);
  return std::make_shared<const std::vector<BlockKey>>(std::move(made.keys));
}

void CacheManager::extend_keys(CacheSequence& sequence, std::span<const int32_t> known) const {
  if (!options_.block_reuse || groups() == 0) return;
  const size_t tokens = options_.tokens_per_block;
  while ((sequence.keys.size() + 1) * tokens <= known.size()) {
    const size_t first = sequence.keys.size() * tokens;
    const BlockKey& previous = sequence.keys.empty() ? sequence.root : sequence.keys.back();
    sequence.keys.push_back(
        next_key(previous, known.subspan(first, tokens), static_cast<int>(first), sequence.content));
  }
}

int64_t CacheManager::missing_bytes(const CacheSequence& sequence, int tokens) const {
  int64_t bytes = 0;
  for (int g = 0; g < groups(); ++g) {
    const CacheSequence::Table& table = sequence.tables[g];
    const int64_t have = keeps_all(g) ? table.first_block + table.held() : table.held();
    bytes += std::max<int64_t>(0, most_blocks(g, tokens, 1) - have) * options_.groups[g].block_bytes;
  }
  return bytes;
}

bool CacheManager::reserve(CacheSequence& sequence, int end) { return reserve_where(sequence, end, false); }
bool CacheManager::reserve_full_groups(CacheSequence& sequence, int end) { return reserve_where(sequence, end, true); }

bool CacheManager::reserve_where(CacheSequence& sequence, int end, bool full_groups_only) {
  const int until = static_cast<int>(ceil_div(end, options_.tokens_per_block));
  int64_t bytes = 0;
  for (int g = 0; g < groups(); ++g) {
    if (full_groups_only && !keeps_all(g)) continue;
    const CacheSequence::Table& table = sequence.tables[g];
    bytes += std::max<int64_t>(0, until - table.first_block - table.held()) * options_.groups[g].block_bytes;
  }
  if (bytes > available_bytes()) return false;
  for (int g = 0; bytes > 0 && g < groups(); ++g) {
    if (full_groups_only && !keeps_all(g)) continue;
    take_blocks(sequence, g, until);
  }
  return true;
}

void CacheManager::take_blocks(CacheSequence& sequence, int group, int until_block) {
  CacheSequence::Table& table = sequence.tables[group];
  const int missing = until_block - table.first_block - table.held();
  if (missing <= 0) return;
  make_room(table.blocks, static_cast<size_t>(missing));
  for (int i = 0; i < missing; ++i) table.blocks.push_back(take_block(group));
}

// The caller has made sure that enough bytes are available, that is, unused.
int32_t CacheManager::take_block(int group) {
  int32_t block = pool_->take(group);
  while (block < 0) {
    evict_one();
    block = pool_->take(group);
  }
  BlockPool::Block& b = pool_->at(group, block);
  b.priority = kDefaultPriority, b.duration_us = 0, b.refs = 1;
  pool_->count_used(group, 1);
  return block;
}

void CacheManager::hold(int group, int32_t block) noexcept {
  if (pool_->at(group, block).refs++ > 0) return;
  pool_->count_used(group, 1);
  pool_->evictable(group).erase(block);
  pool_->lapsing(group).erase(block);
}

void CacheManager::let_go(int group, int32_t block) noexcept {
  BlockPool::Block& b = pool_->at(group, block);
  WEFT_CHECK(b.refs > 0) << "group " << group << " block " << block;
  if (--b.refs > 0) return;
  ++version_;
  pool_->count_used(group, -1);
  if (b.node < 0) return pool_->put_back(group, block);
  b.last_use = ++use_clock_;
  if (b.duration_us > 0) pool_->lapsing(group).push(block, static_cast<uint64_t>(now_us_ + b.duration_us));
  make_evictable(group, block);
}

void CacheManager::make_evictable(int group, int32_t block) noexcept {
  const BlockPool::Block& b = pool_->at(group, block);
  if (keeps_all(group) && index_->children(b.node) > 0) return;  // it is removed with its last child
  pool_->evictable(group).push(block, eviction_key(b));
}

// Takes an unused block out of the index.
void CacheManager::uncache(int group, int32_t block) noexcept {
  BlockPool::Block& b = pool_->at(group, block);
  WEFT_CHECK(b.refs == 0) << "group " << group << " block " << block << " is evicted but held";
  pool_->evictable(group).erase(block);
  pool_->lapsing(group).erase(block);
  add_event(CacheEvent::Kind::removed, group, index_->key(b.node));
  index_->set_block(b.node, group, -1);
  b.node = -1;
  pool_->count_cached(group, -1);
  pool_->put_back(group, block);
}

void CacheManager::evict_one() noexcept {
  int group = -1;
  for (int g = 0; g < groups(); ++g) {
    const IndexedHeap& heap = pool_->evictable(g);
    if (!heap.empty() && (group < 0 || heap.top_key() < pool_->evictable(group).top_key())) group = g;
  }
  WEFT_CHECK(group >= 0) << "nothing is evictable though bytes are available";
  const int32_t block = pool_->evictable(group).top();
  const int32_t node = pool_->at(group, block).node;
  if (!keeps_all(group)) {
    uncache(group, block);
    if (!index_->has_blocks(node)) index_->remove(node);
    return;
  }
  for (int g = 0; g < groups(); ++g) {
    if (index_->block(node, g) >= 0) uncache(g, index_->block(node, g));
  }
  const int32_t parent = index_->remove(node);
  if (parent < 0 || index_->children(parent) > 0) return;
  for (int g = 0; g < groups(); ++g) {
    const int32_t parents_block = index_->block(parent, g);
    if (keeps_all(g) && pool_->at(g, parents_block).refs == 0) make_evictable(g, parents_block);
  }
}

// The largest number of whole blocks that every group can serve; leaves their nodes in `nodes`.
int CacheManager::longest_match(const CacheSequence& sequence, int limit_blocks, std::vector<int32_t>& nodes) const {
  const int blocks = std::min(limit_blocks, static_cast<int>(sequence.keys.size()));
  nodes.clear();
  for (int b = 0; b < blocks; ++b) {
    const int32_t node = index_->find(sequence.keys[b]);
    if (node < 0 && has_full_group_) break;
    nodes.push_back(node);
  }
  return longest_served(static_cast<int>(nodes.size()),
                        [&](int g, int b) { return nodes[b] >= 0 && index_->block(nodes[b], g) >= 0; });
}

// The most of `blocks` whole blocks that every group can serve; has(group, number) says which are there. Forwards over
// the candidate lengths: a window group serves length h if the blocks from the first needed one to h - 1 are all there,
// i.e. if the last absent block lies before them.
template <class Has>
int CacheManager::longest_served(int blocks, Has has) const {
  int best = 0;
  std::vector<int> last_absent(groups(), -1);
  for (int h = 1; h <= blocks; ++h) {
    bool serves = true, more = true;
    for (int g = 0; g < groups(); ++g) {
      if (!has(g, h - 1)) last_absent[g] = h - 1, more &= !keeps_all(g);
      serves &= last_absent[g] < first_needed_block(g, first_query(h * options_.tokens_per_block));
    }
    if (serves) best = h;
    if (!more) break;  // a full group needs all
  }
  return best;
}

CacheManager::Prospect CacheManager::look_up(CacheSequence& sequence, std::span<const int32_t> known, int limit,
                                             int end) const {
  std::vector<int32_t> nodes;
  int whole = 0;
  if (options_.block_reuse && groups() > 0 && limit > 0) {
    extend_keys(sequence, known);
    whole = longest_match(sequence, limit / options_.tokens_per_block, nodes);
  }
  Prospect prospect{whole * options_.tokens_per_block, 0};
  for (int g = 0; g < groups(); ++g) {
    const int first = first_needed_block(g, first_query(prospect.cached));
    int64_t blocks = std::max<int64_t>(0, most_blocks(g, end, 1) - (keeps_all(g) ? whole : whole - first));
    for (int b = first; b < whole; ++b) blocks += pool_->at(g, index_->block(nodes[b], g)).refs == 0;
    prospect.bytes += blocks * options_.groups[g].block_bytes;
  }
  return prospect;
}

int CacheManager::acquire_prefix(CacheSequence& sequence, std::span<const int32_t> known, int limit) {
  if (!options_.block_reuse || groups() == 0 || limit <= 0) return 0;
  extend_keys(sequence, known);
  const int whole = longest_match(sequence, limit / options_.tokens_per_block, matched_);
  for (CacheSequence::Table& table : sequence.tables) make_room(table.blocks, static_cast<size_t>(whole));
  for (int g = 0; g < groups(); ++g) {
    CacheSequence::Table& table = sequence.tables[g];
    WEFT_CHECK(table.held() == 0) << "a sequence that holds blocks asks for a prefix";
    table.first_block = first_needed_block(g, first_query(whole * options_.tokens_per_block));
    for (int b = table.first_block; b < whole; ++b) {
      const int32_t block = index_->block(matched_[b], g);
      hold(g, block);
      set_priority(sequence, g, block, b);
      table.blocks.push_back(block);
    }
  }
  sequence.published = whole;
  return whole * options_.tokens_per_block;
}

int CacheManager::copy_partial_block(CacheSequence& sequence, std::span<const int32_t> known, int limit,
                                     std::vector<BlockCopy>& copies) {
  const int whole = sequence.published, first = whole * options_.tokens_per_block;
  const int most = std::min(limit - first, options_.tokens_per_block);
  if (!options_.block_reuse || !options_.partial_reuse || groups() == 0 || most <= 0) return 0;
  for (const ContentSpan& span : sequence.content) {
    if (span.first < first + most && span.first + span.tokens > first) return 0;  // token ids are not all its content
  }
  int64_t bytes = 0;
  for (const CacheGroup& group : options_.groups) bytes += group.block_bytes;
  const PrefixIndex::PartialMatch match = index_->best_child(whole == 0 ? sequence.root : sequence.keys[whole - 1],
                                                             known.subspan(first, most), [&](int32_t node) {
                                                               for (int g = 0; g < groups(); ++g) {
                                                                 if (index_->block(node, g) < 0) return false;
                                                               }
                                                               return true;
                                                             });
  if (match.node < 0) return 0;
  make_room(copies, static_cast<size_t>(groups()));
  for (int g = 0; g < groups(); ++g) hold(g, index_->block(match.node, g));  // else taking a block could evict it
  const auto let_all_go = [&] {
    for (int g = groups() - 1; g >= 0; --g) let_go(g, index_->block(match.node, g));
  };
  const bool fits = bytes <= available_bytes();
  try {
    for (int g = 0; fits && g < groups(); ++g) {
      CacheSequence::Table& table = sequence.tables[g];
      take_blocks(sequence, g, table.first_block + table.held() + 1);
      copies.push_back({g, index_->block(match.node, g), table.blocks.back(), match.tokens});
    }
  } catch (...) {
    let_all_go();
    throw;
  }
  let_all_go();
  if (!fits) return 0;
  for (int g = 0; g < groups(); ++g) drop_front(sequence, g, first_needed_block(g, first_query(first + match.tokens)));
  return match.tokens;
}

void CacheManager::commit(CacheSequence& sequence, std::span<const int32_t> known, int computed) {
  if (options_.block_reuse && groups() > 0) {
    extend_keys(sequence, known);
    for (const int whole = computed / options_.tokens_per_block; sequence.published < whole; ++sequence.published) {
      publish_block(sequence, known, sequence.published);
    }
  }
  for (int g = 0; g < groups(); ++g) drop_front(sequence, g, first_needed_block(g, computed));
}

void CacheManager::publish_block(CacheSequence& sequence, std::span<const int32_t> known, int number, bool imported) {
  const int tokens_per_block = options_.tokens_per_block, first = number * tokens_per_block;
  const std::span<const int32_t> tokens = known.subspan(first, tokens_per_block);
  const BlockKey& parent = number == 0 ? sequence.root : sequence.keys[number - 1];
  int32_t node = index_->find(sequence.keys[number]);
  if (node < 0) {
    bool plain = true;
    for (const ContentSpan& span : sequence.content) {
      plain &= span.first >= first + tokens_per_block || span.first + span.tokens <= first;
    }
    node = index_->insert(sequence.keys[number], parent, number == 0, tokens, plain);
  }
  for (int g = 0; g < groups(); ++g) {
    CacheSequence::Table& table = sequence.tables[g];
    const int place = number - table.first_block;
    if (imported && place < 0) continue;  // in front of what a window needs
    WEFT_CHECK(place >= 0 && place < table.held())
        << "block " << number << " of group " << g << " was given up unpublished";
    int32_t& mine = table.blocks[table.head + place];
    const int32_t theirs = index_->block(node, g);
    if (theirs < 0) {
      enter(g, mine, node, parent, tokens);
    } else if (theirs != mine) {
      hold(g, theirs);
      let_go(g, mine);
      mine = theirs;
      table.sent = std::min(table.sent, number);
    }
    set_priority(sequence, g, mine, number);
  }
  ++version_;
}

int CacheManager::longest_import(const CacheSequence& sequence, int limit,
                                 const std::function<bool(int group, int number)>& stored) const {
  std::vector<int32_t> nodes;
  const int blocks = std::min(limit, static_cast<int>(sequence.keys.size()));
  for (int b = 0; b < blocks; ++b) nodes.push_back(index_->find(sequence.keys[b]));
  return longest_served(
      blocks, [&](int g, int b) { return (nodes[b] >= 0 && index_->block(nodes[b], g) >= 0) || stored(g, b); });
}

void CacheManager::enter(int group, int32_t block, int32_t node, const BlockKey& parent,
                         std::span<const int32_t> tokens) noexcept {
  index_->set_block(node, group, block);
  pool_->at(group, block).node = node;
  pool_->count_cached(group, 1);
  add_event(CacheEvent::Kind::stored, group, index_->key(node), parent, tokens);
}

// The block is held, so it is in no heap now. A sequence without retention settings leaves the priority that another
// sequence set.
void CacheManager::set_priority(const CacheSequence& sequence, int group, int32_t block, int number) {
  if (sequence.retention.is_default()) return;
  const int first = number * options_.tokens_per_block;
  int priority = kDefaultPriority;
  int64_t duration_us = 0;
  if (first >= sequence.prompt_tokens) {
    priority = sequence.retention.decode_priority, duration_us = sequence.retention.decode_duration_us;
  } else {
    const auto& ranges = sequence.retention.ranges;
    const auto range = std::find_if(ranges.begin(), ranges.end(),
                                    [&](const auto& r) { return first >= r.first && (r.end < 0 || first < r.end); });
    if (range == ranges.end()) return;
    priority = range->priority, duration_us = range->duration_us;
  }
  BlockPool::Block& b = pool_->at(group, block);
  b.priority = static_cast<uint8_t>(std::clamp(priority, 0, 100));
  b.duration_us = std::max<int64_t>(0, duration_us);
}

void CacheManager::drop_front(CacheSequence& sequence, int group, int until_block) {
  CacheSequence::Table& table = sequence.tables[group];
  for (; table.first_block < until_block && table.held() > 0; ++table.first_block)
    let_go(group, table.blocks[table.head++]);
  if (table.held() == 0)
    table.blocks.clear(), table.head = 0, table.first_block = std::max(table.first_block, until_block);
  compact(table);
}

// In reverse order, so that of blocks with the same last use the later ones are evicted first.
void CacheManager::release(CacheSequence& sequence) noexcept {
  for (int g = 0; g < static_cast<int>(sequence.tables.size()); ++g) {  // none before start()
    CacheSequence::Table& table = sequence.tables[g];
    for (size_t i = table.blocks.size(); i > table.head; --i) let_go(g, table.blocks[i - 1]);
    table.blocks.clear(), table.head = 0, table.first_block = 0, table.sent = 0;
  }
  sequence.published = 0;
  ++version_;
}

void CacheManager::undo_acquire(CacheSequence& sequence) noexcept {
  const uint64_t version = version_;
  release(sequence);
  version_ = version;
}

void CacheManager::send_entries(CacheSequence& sequence, Slot slot, int first, int end,
                                std::vector<TableEntry>& entries) const {
  const int until = static_cast<int>(ceil_div(end, options_.tokens_per_block));
  for (int g = 0; g < groups(); ++g) {
    CacheSequence::Table& table = sequence.tables[g];
    const int needed = first_needed_block(g, first);
    WEFT_CHECK(table.first_block <= needed && until <= table.first_block + table.held())
        << "positions " << first << " to " << end << " are not reserved in group " << g;
    for (int number = std::max(table.sent, needed); number < until; ++number)
      entries.push_back({g, slot, number, table.blocks[table.head + static_cast<size_t>(number - table.first_block)]});
    table.sent = std::max(table.sent, until);
  }
}

// Ids of events that are kept have no gaps: one that finds no memory takes those before it with it.
void CacheManager::add_event(CacheEvent::Kind kind, int group, const BlockKey& key, const BlockKey& parent,
                             std::span<const int32_t> tokens) noexcept {
  if (options_.event_capacity <= 0) return;
  if (static_cast<int>(events_.size()) >= options_.event_capacity) events_.pop_front();
  const uint64_t id = next_event_++;
  try {
    CacheEvent event;
    event.id = id, event.kind = kind, event.group = group, event.key = key, event.parent = parent;
    event.tokens.assign(tokens.begin(), tokens.end());
    events_.push_back(std::move(event));
  } catch (const std::bad_alloc&) {
    events_.clear();
  }
}

std::vector<CacheEvent> CacheManager::take_events() {
  std::vector<CacheEvent> events(std::make_move_iterator(events_.begin()), std::make_move_iterator(events_.end()));
  events_.clear();
  return events;
}

std::vector<std::pair<int, BlockKey>> CacheManager::index() const {
  std::vector<std::pair<int, BlockKey>> all;
  for (int g = 0; g < groups(); ++g) {
    for (int32_t block = 0; block < pool_->known_blocks(g); ++block) {
      if (pool_->at(g, block).node >= 0) all.emplace_back(g, index_->key(pool_->at(g, block).node));
    }
  }
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) {
    return std::pair(a.first, a.second.words) < std::pair(b.first, b.second.words);
  });
  return all;
}

void CacheManager::drop_cached() {
  auto any = [&] {
    for (int g = 0; g < groups(); ++g) {
      if (!pool_->evictable(g).empty()) return true;
    }
    return false;
  };
  while (any()) evict_one();
}

}  // namespace weft
