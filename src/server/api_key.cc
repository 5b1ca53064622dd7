// See the header.
#include "server/api_key.h"

#include <algorithm>

#include "base/hmac.h"
#include "server/errors.h"
#include "server/http_answer.h"

namespace weft {

bool has_api_key(const HttpRequest& request, const std::string& key) {
  if (key.empty()) return true;
  const std::string* const bare = request.header("x-api-key");
  if (bare && same_secret(*bare, key)) return true;
  const std::string* const header = request.header("authorization");
  if (!header) return false;
  const std::string_view text = *header;
  const size_t space = std::min(text.find(' '), text.size());
  const size_t begin = std::min(text.find_first_not_of(' ', space), text.size());
  return lower_case(text.substr(0, space)) == "bearer" && same_secret(text.substr(begin), key);
}

HttpResponse api_key_wanted() {
  return error_response(401,
                        "this server needs an API key: send the header \"Authorization: Bearer KEY\" or \"x-api-key: "
                        "KEY\"",
                        {}, "invalid_api_key");
}

}  // namespace weft
