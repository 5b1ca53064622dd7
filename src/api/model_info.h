// What a loaded model is, in numbers.
#pragma once

#include "api/engine.h"
#include "runtime/model.h"

namespace weft {

// Everything of ModelInfo that follows from the model alone; names, limits of the engine and what its text side has are
// the caller's.
ModelInfo describe(const Model& model);

}  // namespace weft
