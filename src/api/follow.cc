// The life of a process that follows rank 0 in another one.
#include "api/follow.h"

#include <csignal>

#include "api/rank_loading.h"
#include "base/log.h"
#include "runtime/follower.h"

namespace weft {

namespace {

// An error is one that all ranks have been told.
Status follow_leader(const std::string& model, const EngineOptions& options) {
  WEFT_TRY(const std::shared_ptr<ProcessRanks> processes, take_processes(options));
  WEFT_RETURN_IF_ERROR(processes->agree(check_options(options)));
  WEFT_TRY(LoadedModel loaded, load_on_ranks(model, options, processes, {}));
  WEFT_TRY(const std::unique_ptr<ModelRunner> runner,
           ModelRunner::create(std::move(loaded.model), std::move(loaded.draft), *loaded.ranks,
                               loaded.draft_ranks ? *loaded.draft_ranks : *loaded.ranks, {}));
  if (runner) follow(*runner, *processes, loaded.speculation.one_model ? nullptr : loaded.draft_ranks.get());
  return {};
}

}  // namespace

bool launched_as_follower() { return launched_rank() > 0; }

bool ranks_are_processes() { return others_are_joined(); }

Result<std::optional<int>> follow_rank_0(const std::string& model, const EngineOptions& options) {
  WEFT_TRY(const bool follower, is_follower(options));
  if (!follower) return std::optional<int>();
  for (const int signal : {SIGINT, SIGTERM}) std::signal(signal, SIG_IGN);
  set_log_level(LogLevel::error);
  // Rank 0 says what went wrong and exits with the status of that. If this process did as well, and sooner, the
  // launcher might end rank 0 before it has spoken.
  (void)follow_leader(model, options);
  return std::optional(0);
}

bool leave_ranks(const Status& status) {
  const auto processes = take_processes({});
  if (!processes.ok() || !*processes) return true;
  (void)(*processes)->agree(status.ok() ? Error(Code::cancelled, "there was nothing to compute") : status.error());
  return (*processes)->rank() == 0;
}

}  // namespace weft
