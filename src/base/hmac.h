// HMAC-SHA256 (RFC 2104): proves that a message comes from somebody who knows the key. And how secrets are compared.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/sha256.h"

namespace weft {

Digest hmac_sha256(std::string_view key, std::string_view message);

// Whether the texts are equal; takes the same time wherever they differ.
bool same_secret(std::string_view given, std::string_view wanted);

}  // namespace weft
