// Ranks: which there are, where they run, and a model loaded on those of this process.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "api/engine.h"
#include "comm/process_ranks.h"
#include "runtime/draft_model.h"
#include "runtime/model.h"

namespace weft {

// The processes that an MPI launcher has started with this one; null: there are none. They are joined once: the first
// caller of take_processes() has them for good, and later ones get an error. The first call's options count.
Result<std::shared_ptr<ProcessRanks>> take_processes(const EngineOptions& options);
// Whether there are other processes, which have been joined.
bool others_are_joined();
// Whether this process is to follow rank 0 in another one. Joins the processes.
Result<bool> is_follower(const EngineOptions& options);

// Of the configuration, and of every tensor's name, type, shape and some of its bytes; reading all of them would take
// too long. An error's message where there is none.
std::string checkpoint_digest(const std::string& path, const EngineOptions& options);

struct LoadedModel {
  std::unique_ptr<RankTeam> ranks, draft_ranks;  // draft_ranks: where the draft has threads of its own
  Model model;
  std::optional<DraftModel> draft;
  SpeculationOptions speculation;  // as they are in force
};

// Loads what the ranks of this process have. With processes all call it together, and get an error if one of them has
// one, or if they differ in program, instruction set, checkpoint or options.
Result<LoadedModel> load_on_ranks(const std::string& path, const EngineOptions& options,
                                  const std::shared_ptr<ProcessRanks>& processes, const Progress& progress);

}  // namespace weft
