// The headers by which the front of a deployment names servers that may compute a request's prompt. A server connects
// to the addresses, so it takes them from those alone who know its secret, or, without one, only addresses of its
// machine.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/http.h"

namespace weft {

constexpr char kContextServersHeader[] = "Weft-Context-Servers";  // HOST:PORT[,HOST:PORT...], the best first
constexpr char kContextProofHeader[] = "Weft-Context-Proof";      // context_proof() of the other's value
constexpr size_t kMostContextServers = 8;

// Whoever has the secret says that the header's value is theirs: 64 hexadecimal digits.
std::string context_proof(const std::string& secret, const std::string& value);

// Fills `servers` with the addresses that the request names, none if it has no such header; or returns the answer that
// refuses them: 400 for what are no addresses, 403 for what was not to be taken.
std::optional<HttpResponse> read_context_servers(const HttpRequest& request, const std::string& secret,
                                                 std::vector<std::string>& servers);

}  // namespace weft
