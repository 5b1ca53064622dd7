// The life of a process that follows rank 0 in another one.
#include "api/follow.h"

#include <cstdio>

#include "api/rank_loading.h"
#include "base/log.h"
#include "runtime/follower.h"

namespace weft {

namespace {

Status follow_leader(const std::string& model, const EngineOptions& options) {
  WEFT_TRY(const std::shared_ptr<ProcessRanks> processes, take_processes());
  WEFT_RETURN_IF_ERROR(processes->agree(check_options(options)));
  WEFT_TRY(LoadedModel loaded, load_on_ranks(model, options, processes, {}));
  WEFT_TRY(const std::unique_ptr<ModelRunner> runner,
           ModelRunner::create(std::move(loaded.model), std::move(loaded.draft), *loaded.ranks,
                               loaded.draft_ranks ? *loaded.draft_ranks : *loaded.ranks, {}));
  if (runner) follow(*runner, *processes, loaded.speculation.one_model ? nullptr : loaded.draft_ranks.get());
  return {};
}

}  // namespace

Result<std::optional<int>> follow_rank_0(const std::string& model, const EngineOptions& options) {
  WEFT_TRY(const bool follower, is_follower());
  if (!follower) return std::optional<int>();
  // Rank 0 says what is wrong.
  return std::optional(follow_leader(model, options).ok() ? 0 : 1);
}

void leave_rank_0(const Status& status) {
  auto processes = take_processes();
  if (processes.ok() && *processes)
    (void)(*processes)->agree(status.ok() ? Error(Code::cancelled, "there was nothing to compute") : status.error());
}

}  // namespace weft
