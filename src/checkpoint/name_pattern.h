// Regular expressions for names of modules, as settings of checkpoints and adapters have them, in Python's syntax.
// Files are not trusted: expressions are of bounded size, and a match takes a bounded number of steps.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"

struct WeftPattern;

namespace weft {

// Immutable; any thread.
class NamePattern {
 public:
  // start: from the name's start on (Python's re.match); whole: the whole name (re.fullmatch).
  enum class Match : uint8_t { start, whole };
  static constexpr size_t kMostBytes = 4096;
  // Errors: not an expression, or a large one.
  static Result<NamePattern> compile(const std::string& expression, Match match);
  // Errors: it takes too many steps.
  Result<bool> matches(const std::string& name) const;

 private:
  explicit NamePattern(std::shared_ptr<const WeftPattern> pattern) : pattern_(std::move(pattern)) {}
  std::shared_ptr<const WeftPattern> pattern_;
};

}  // namespace weft
