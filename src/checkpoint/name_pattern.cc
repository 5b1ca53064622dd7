#include "checkpoint/name_pattern.h"

#include "base/bridge_call.h"

namespace weft {

Result<NamePattern> NamePattern::compile(const std::string& expression, Match match) {
  if (expression.size() > kMostBytes)
    return fail(Code::unsupported, "an expression of ", expression.size(), " bytes; at most ", kMostBytes,
                " are supported");
  WeftError error{};
  WeftPattern* const made = weft_pattern_new(expression.data(), expression.size(), match == Match::whole, &error);
  if (!made) return bridge::take(error);
  return NamePattern(std::shared_ptr<const WeftPattern>(
      made, [](const WeftPattern* p) { weft_pattern_free(const_cast<WeftPattern*>(p)); }));
}

Result<bool> NamePattern::matches(const std::string& name) const {
  WeftError error{};
  bool found = false;
  if (!weft_pattern_matches(pattern_.get(), name.data(), name.size(), &found, &error)) return bridge::take(error);
  return found;
}

}  // namespace weft
