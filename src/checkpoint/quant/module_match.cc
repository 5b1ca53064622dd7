#include "checkpoint/quant/module_match.h"

#include <algorithm>
#include <map>
#include <regex>

namespace weft {

Result<bool> matches_regex(const std::string& pattern, const std::string& name) {
  thread_local std::map<std::string, std::regex> compiled;
  auto found = compiled.find(pattern);
  if (found == compiled.end()) {
    try {
      found = compiled.emplace(pattern, std::regex(pattern, std::regex::ECMAScript | std::regex::optimize)).first;
    } catch (const std::regex_error& error) {
      return fail(Code::unsupported, "the pattern ", json_quote(pattern),
                  " of quantised modules cannot be read: ", error.what());
    }
  }
  try {
    return std::regex_search(name, found->second, std::regex_constants::match_continuous);
  } catch (const std::regex_error& error) {
    return fail(Code::unsupported, "the pattern ", json_quote(pattern),
                " of quantised modules takes too long: ", error.what());
  }
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
