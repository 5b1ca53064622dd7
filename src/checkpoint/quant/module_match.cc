#include "checkpoint/quant/module_match.h"

#include <algorithm>
#include <map>

#include "checkpoint/name_pattern.h"

namespace weft {

Result<bool> matches_regex(const std::string& pattern, const std::string& name) {
  constexpr size_t kMostKept = 1024;
  thread_local std::map<std::string, NamePattern> compiled;  // the same few are asked for every module
  const auto named = [&](const Error& error) {
    return fail(Code::unsupported, "the pattern ", json_quote(pattern.substr(0, 200)),
                " of quantised modules: ", error.message());
  };
  auto found = compiled.find(pattern);
  if (found == compiled.end()) {
    auto made = NamePattern::compile(pattern, NamePattern::Match::start);
    if (!made.ok()) return named(made.error());
    if (compiled.size() >= kMostKept) compiled.clear();
    found = compiled.emplace(pattern, std::move(made).value()).first;
  }
  const auto matches = found->second.matches(name);
  if (!matches.ok()) return named(matches.error());
  return *matches;
}

Result<Closeness> closeness(const Json* list, const std::string& module) {
  Closeness best = Closeness::none;
  if (!list || list->is_null()) return Closeness::kind;
  if (!list->is_array()) return best;
  for (const Json& item : list->items()) {
    if (!item.is_string()) continue;
    const std::string& target = item.as_string();
    if (target.starts_with("re:")) {
      WEFT_TRY(const bool matches, matches_regex(target.substr(3), module));
      if (matches) best = std::max(best, Closeness::pattern);
    } else if (target == module) {
      return Closeness::name;
    } else if (target == "Linear") {
      best = std::max(best, Closeness::kind);
    }
  }
  return best;
}

}  // namespace weft
