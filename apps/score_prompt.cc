#include "score_prompt.h"

#include <future>

namespace weft {

Result<ScoreResult> score_prompt(Engine& engine, Request request) {
  std::promise<Result<ScoreResult>> arrived;
  const auto id = engine.submit_score(std::move(request),
                                      [&](Result<ScoreResult> result) { arrived.set_value(std::move(result)); });
  if (!id.ok()) return id.error();
  return arrived.get_future().get();
}

}  // namespace weft
