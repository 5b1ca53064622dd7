#include "base/result.h"

namespace weft {

const char* name(Code code) {
  switch (code) {
    case Code::invalid_argument: return "invalid_argument";
    case Code::not_found: return "not_found";
    case Code::unsupported: return "unsupported";
    case Code::resource_exhausted: return "resource_exhausted";
    case Code::data_corrupt: return "data_corrupt";
    case Code::cancelled: return "cancelled";
    case Code::deadline_exceeded: return "deadline_exceeded";
    case Code::too_large: return "too_large";
    case Code::internal: return "internal";
    case Code::context_overflow: return "context_length_exceeded";
    case Code::unavailable: return "unavailable";
  }
  return "unknown";
}

std::string Error::message() const { return contexts_.empty() ? message_ : message_ + " (" + contexts_ + ")"; }

std::string Error::to_string() const { return std::string(name(code_)) + ": " + message(); }

}  // namespace weft
