#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace weft {

CheckFailure::CheckFailure(const char* file, int line, const char* condition) {
  facts_ << file << ":" << line << ": check failed: " << condition << " ";
}

CheckFailure::~CheckFailure() {
  std::fprintf(stderr, "%s\n", facts_.str().c_str());
  std::abort();
}

}  // namespace weft
