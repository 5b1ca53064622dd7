// See the header.
#include "base/short_id.h"

#include <algorithm>
#include <cstdint>

namespace weft {

namespace {

constexpr std::string_view kLetters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

}  // namespace

std::string short_id(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const unsigned char byte : text) hash = (hash ^ byte) * 0x100000001b3u;
  // Texts that differ in their last byte alone must differ in all letters: mixed as splitmix64 does.
  hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9u;
  hash = (hash ^ (hash >> 27)) * 0x94d049bb133111ebu;
  hash ^= hash >> 31;
  std::string id(kShortIdLength, '0');
  for (char& letter : id) {
    letter = kLetters[hash % kLetters.size()];
    hash /= kLetters.size();
  }
  return id;
}

bool is_short_id(std::string_view id) {
  return id.size() == kShortIdLength &&
         std::ranges::all_of(id, [](char c) { return kLetters.find(c) != std::string_view::npos; });
}

}  // namespace weft
