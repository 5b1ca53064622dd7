// One prompt through an engine's scoring, waited for.
#pragma once

#include "api/engine.h"

namespace weft {

// Blocks until the engine has read the prompt of `request`.
Result<ScoreResult> score_prompt(Engine& engine, Request request);

}  // namespace weft
