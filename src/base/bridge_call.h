// Turns what the bridge (bridge.h) hands over into C++ values and frees it. For the .cc files that call it.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/stop_flag.h"
#include "bridge.h"

namespace weft::bridge {

// Frees what the bridge has handed over, also where the copy finds no memory.
template <class Handed, void (*free)(Handed)>
struct Owner {
  Handed handed;
  ~Owner() { free(handed); }
};

inline std::string take(WeftBytes bytes) {
  const Owner<WeftBytes, weft_bytes_free> owner{bytes};
  return {reinterpret_cast<const char*>(bytes.data), bytes.size};
}

inline std::vector<int32_t> take(WeftIds ids) {
  const Owner<WeftIds, weft_ids_free> owner{ids};
  return {ids.data, ids.data + ids.size};
}

// The error that the bridge has just reported.
inline Error take(WeftError error) {
  Code code = Code::internal;
  switch (error.code) {
    case WEFT_INVALID_ARGUMENT: code = Code::invalid_argument; break;
    case WEFT_UNSUPPORTED: code = Code::unsupported; break;
    case WEFT_RESOURCE_EXHAUSTED: code = Code::resource_exhausted; break;
    case WEFT_TOO_LARGE: code = Code::too_large; break;
    case WEFT_STOPPED: code = Code::cancelled; break;
  }
  return Error(code, take(error.message));
}

// The same for work that was given `stop`: the flag says why it was stopped.
inline Error take(WeftError error, const StopFlag* stop) {
  const bool stopped = error.code == WEFT_STOPPED;
  Error taken = take(error);
  const Status why = check_stop(stop);
  return stopped && !why.ok() ? why.error() : std::move(taken);
}

inline const uint8_t* byte_of(const StopFlag* stop) { return stop ? stop->byte() : nullptr; }

}  // namespace weft::bridge
