// Base64 as JSON forms of binary protocols have it: the alphabet with + and /, padded, no white space (RFC 4648,
// section 4).
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace weft {

std::string encode_base64(std::string_view bytes);
Result<std::string> decode_base64(std::string_view text);

}  // namespace weft
