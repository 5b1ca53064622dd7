// The key that a server may want with requests.
#pragma once

#include <string>

#include "server/http.h"

namespace weft {

// Whether the request has the key: "Authorization: Bearer KEY", the scheme in any case, or "x-api-key: KEY". An empty
// key is none: every request has it.
bool has_api_key(const HttpRequest& request, const std::string& key);

// The answer to a request without.
HttpResponse api_key_wanted();

}  // namespace weft
