// Turns what the bridge hands over into C++ values and frees it. For the .cc files of this folder.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "bridge.h"

namespace weft::bridge {

inline std::string take(WeftBytes bytes) {
  std::string text(reinterpret_cast<const char*>(bytes.data), bytes.size);
  weft_bytes_free(bytes);
  return text;
}

inline std::vector<int32_t> take(WeftIds ids) {
  std::vector<int32_t> out(ids.data, ids.data + ids.size);
  weft_ids_free(ids);
  return out;
}

// The error that the bridge has just reported.
inline Error take(WeftError error) {
  Code code = Code::internal;
  switch (error.code) {
    case WEFT_INVALID_ARGUMENT: code = Code::invalid_argument; break;
    case WEFT_UNSUPPORTED: code = Code::unsupported; break;
    case WEFT_RESOURCE_EXHAUSTED: code = Code::resource_exhausted; break;
  }
  return Error(code, take(error.message));
}

}  // namespace weft::bridge
