// A home (core/step.h) as the scheduler sees it, and the level to which a step fills all homes.
#pragma once

#include <cstdint>
#include <span>
#include <utility>

#include "cache/cache_manager.h"

namespace weft {

struct Home {
  explicit Home(CacheManager manager) : cache(std::move(manager)) {}

  CacheManager cache;
  uint64_t prompt_tokens = 0;  // computed here since the start

  // The rest belongs to the step being filled. Positions, drafts included:
  int load = 0;      // of the rows that it has
  int depth = 0;     // of these and of the decode rows that are ready
  int demand = 0;    // of prompts that want to go on or to begin, as far as a step could take them
  int share = 0;     // of prompts that it may take still
  int turns = 0;     // decode rows that it may take still
  int64_t work = 0;  // of all that its sequences have to compute yet, see Scheduler::work_left
  bool has_prompt_row = false;
  bool served = false;  // add_prompts gave it a row
  bool closed = false;  // to new sequences: there is no room, or one that is there goes first
};

inline int divide_up(int value, int parts) { return (value + parts - 1) / parts; }

// The least level at which homes that are filled from `depth` up to it, each by its demand at most, take `tokens`
// together (or all that they want).
int fill_level(std::span<const Home> homes, int tokens);

}  // namespace weft
