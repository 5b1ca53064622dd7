#include "checkpoint/name_pattern.h"

#include "bridge.h"

namespace weft {
namespace {

Error take(WeftError& error) {
  const std::unique_ptr<WeftBytes, void (*)(WeftBytes*)> owner(&error.message,
                                                               [](WeftBytes* b) { weft_bytes_free(*b); });
  const Code code = error.code == WEFT_RESOURCE_EXHAUSTED ? Code::resource_exhausted
                    : error.code == WEFT_INTERNAL         ? Code::internal
                                                          : Code::unsupported;
  return Error(code, std::string(reinterpret_cast<const char*>(error.message.data), error.message.size));
}

}  // namespace

Result<NamePattern> NamePattern::compile(const std::string& expression, Match match) {
  if (expression.size() > kMostBytes)
    return fail(Code::unsupported, "an expression of ", expression.size(), " bytes; at most ", kMostBytes,
                " are supported");
  WeftError error{};
  WeftPattern* const made = weft_pattern_new(expression.data(), expression.size(), match == Match::whole, &error);
  if (!made) return take(error);
  return NamePattern(std::shared_ptr<const WeftPattern>(
      made, [](const WeftPattern* p) { weft_pattern_free(const_cast<WeftPattern*>(p)); }));
}

Result<bool> NamePattern::matches(const std::string& name) const {
  WeftError error{};
  bool found = false;
  if (!weft_pattern_matches(pattern_.get(), name.data(), name.size(), &found, &error)) return take(error);
  return found;
}

}  // namespace weft
