// Stop strings against a search by their definition, whatever the pieces of the text. The input: stop strings with '|'
// between them, a byte 255, and the text.
#include <algorithm>
#include <memory>

#include "target.h"
#include "text/stop_strings.h"

using namespace weft;

namespace {

struct Found {
  std::string text;
  bool matched = false;
  bool operator==(const Found&) const = default;
};

// In pieces of `length` bytes.
Found stream(const std::vector<std::string>& stops, bool include, std::string_view text, size_t length) {
  StopStrings state(std::make_shared<const StopSet>(stops), include);
  Found found;
  for (size_t at = 0; at < text.size() && !found.matched; at += length) {
    auto out = state.push(text.substr(at, length));
    found.text += out.text, found.matched = out.matched.has_value();
    if (out.matched) require(*out.matched < stops.size(), "the match is one of the stop strings");
  }
  if (found.matched) require(state.push("more").text.empty(), "nothing follows a match");
  else found.text += state.finish();
  return found;
}

// The match that ends first counts; of several that end at the same byte, the longest.
Found by_definition(const std::vector<std::string>& stops, bool include, const std::string& text) {
  size_t end = std::string::npos, longest = 0;
  for (const std::string& stop : stops) {
    const size_t at = stop.empty() ? std::string::npos : text.find(stop);
    if (at == std::string::npos) continue;
    if (at + stop.size() < end) end = at + stop.size(), longest = 0;
    if (at + stop.size() == end) longest = std::max(longest, stop.size());
  }
  if (end == std::string::npos) return {text, false};
  return {text.substr(0, include ? end : end - longest), true};
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  return {"ab|abc|b\xffxxabxxabcx",
          "\n\n|END\xff"
          "text\nEND",
          "aaaa|aa\xff"
          "aabaaa",
          "\xc3\xbc|\xbc\xffx\xc3\xbcy",
          "|\xff",
          "abcabcabd\xff"
          "abcabcabcabd"};
}
std::vector<std::string> fuzz_words() { return {"|", "\xff", "a", "ab", "aaaaaaaa", "\n"}; }
void mend(std::string&) {}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string input = copy_of(data, size);
  const size_t mark = input.find('\xff');
  if (mark == std::string::npos) return 0;
  std::vector<std::string> stops;
  for (size_t at = 0; at <= mark;) {
    const size_t end = std::min(input.find('|', at), mark);
    stops.push_back(input.substr(at, end - at));
    at = end + 1;
  }
  const std::string text = input.substr(mark + 1);
  for (const bool include : {false, true}) {
    const Found expected = by_definition(stops, include, text);
    for (const size_t length : {size_t{1}, size_t{3}, text.size() + 1})
      require(stream(stops, include, text, length) == expected, "what is found is what the definition says");
  }
  return 0;
}
