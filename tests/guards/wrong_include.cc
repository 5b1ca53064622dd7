// Compiled with the include path of src/server by a test that wants it to fail at the second line: server/ may include
// api/, and may not include what api/ includes.
#include "api/engine.h"
#include "runtime/engine_core.h"
