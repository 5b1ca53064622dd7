// What a web page in somebody's browser may ask of this server. A page can send requests to any address its reader
// reaches: to a name of its own that turns out to be this machine's address (DNS rebinding), or across origins without
// reading the answer (drive-by posts).
//
// - Host: without an API key, a server that listens on this machine alone is called by names that no stranger can give
//   an address: IP addresses, names without a dot, those below .localhost, .local, .internal and .home.arpa, and the
//   host it was told to listen on. Elsewhere every name is taken, except from pages (with an Origin).
//   --allowed-hosts names the only other ones.
// - Origin: a page's, which is allowed if --cors-origins names it, or if it is this server's own under a host as above.
// - POST from a page must say that it is JSON: a page cannot do so without the browser asking first (a preflight).
//
// With an API key, and no list, Host and Origin are not looked at: a page does not know the key.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "server/http.h"

namespace weft {

struct OriginRules {
  std::string host;                        // that the server was told to listen on
  bool has_key = false;                    // requests need an API key
  std::vector<std::string> allowed_hosts;  // names, "*.example.org" for those below, "*" for all; empty: as above
  std::vector<std::string> cors_origins;   // "https://example.org", "*" for all
};

// The verdict, the answer to a preflight (OPTIONS), and the headers that let an allowed page read the answer.
HttpAdmission check_origin(const HttpRequest& head, const OriginRules& rules);

// "application/json", "application/problem+json"; with no charset but UTF-8.
bool is_json_type(std::string type);

// What is wrong with an entry of OriginRules' lists; empty: nothing.
std::string fault_of_allowed_host(const std::string& host);
std::string fault_of_origin(const std::string& origin);

}  // namespace weft
