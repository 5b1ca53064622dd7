// `weft batch --url`: the requests of a file through a running server. The lines are those that `weft batch --model`
// writes.
#pragma once

#include "arguments.h"
#include "base/result.h"

namespace weft {

// Errors are what concerns all lines: no server, no key, no disk. A server that goes away in between is an error of
// each line that it had not answered.
Status batch_over_url(const Arguments& arguments);

}  // namespace weft
