#include "base/hmac.h"

#include <algorithm>

namespace weft {

Digest hmac_sha256(std::string_view key, std::string_view message) {
  std::array<uint8_t, 64> block{};  // the key, as long as a block of the hash
  if (key.size() > block.size()) {
    const Digest shorter = sha256(std::as_bytes(std::span(key)));
    std::ranges::copy(shorter, block.begin());
  } else {
    std::ranges::copy(key, block.begin());
  }
  const auto pad_with = [&](uint8_t value) {
    std::array<uint8_t, 64> padded = block;
    for (uint8_t& byte : padded) byte ^= value;
    return padded;
  };
  const auto inner_pad = pad_with(0x36), outer_pad = pad_with(0x5c);
  Sha256 inner, outer;
  inner.update(inner_pad.data(), inner_pad.size());
  inner.update(message.data(), message.size());
  const Digest digest = inner.digest();
  outer.update(outer_pad.data(), outer_pad.size());
  outer.update(digest.data(), digest.size());
  return outer.digest();
}

bool same_secret(std::string_view given, std::string_view wanted) {
  unsigned char differ = given.size() == wanted.size() ? 0 : 1;
  for (size_t i = 0; i < wanted.size(); ++i)
    differ |= static_cast<unsigned char>(wanted[i] ^ (i < given.size() ? given[i] : 0));
  return differ == 0;
}

}  // namespace weft
