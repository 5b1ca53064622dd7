// See the header.
#include "server/context_servers.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cctype>
#include <charconv>

#include "base/hmac.h"
#include "base/json.h"
#include "server/errors.h"
#include "server/http_answer.h"

namespace weft {

namespace {

bool is_host(std::string_view host) {
  if (host.starts_with('[')) {
    in6_addr ignored{};
    return host.ends_with(']') &&
           ::inet_pton(AF_INET6, std::string(host.substr(1, host.size() - 2)).c_str(), &ignored) == 1;
  }
  return !host.empty() &&
         std::ranges::all_of(host, [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '.' || c == '_'; });
}

bool is_address(std::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || !is_host(text.substr(0, colon))) return false;
  int port = 0;
  const char* const end = text.data() + text.size();
  const auto read = std::from_chars(text.data() + colon + 1, end, port);
  return read.ec == std::errc() && read.ptr == end && port >= 1 && port <= 65535;
}

bool is_loopback(std::string_view address) {
  const std::string host(address.substr(0, address.rfind(':')));
  in_addr four{};
  if (::inet_pton(AF_INET, host.c_str(), &four) == 1) return ntohl(four.s_addr) >> 24 == 127;
  return host == "[::1]" || lower_case(host) == "localhost";
}

HttpResponse refuse(int status, const std::string& why) {
  return error_response(status, std::string("the header ") + kContextServersHeader + " " + why);
}

}  // namespace

std::string context_proof(const std::string& secret, const std::string& value) {
  return hex_of(hmac_sha256(secret, "weft-context-servers\n" + value));
}

std::optional<HttpResponse> read_context_servers(const HttpRequest& request, const std::string& secret,
                                                 std::vector<std::string>& servers) {
  const std::string* const value = request.header(lower_case(kContextServersHeader));
  if (!value) return std::nullopt;
  if (!secret.empty()) {
    const std::string* const proof = request.header(lower_case(kContextProofHeader));
    if (!proof || !same_secret(*proof, context_proof(secret, *value)))
      return refuse(403, proof ? "is not proved by this server's transfer secret"
                               : std::string("needs its proof in ") + kContextProofHeader);
  }
  for (size_t begin = 0; begin <= value->size();) {
    const size_t end = std::min(value->find(',', begin), value->size());
    std::string_view address = std::string_view(*value).substr(begin, end - begin);
    while (address.starts_with(' ')) address.remove_prefix(1);
    while (address.ends_with(' ')) address.remove_suffix(1);
    begin = end + 1;
    if (!is_address(address)) return refuse(400, "holds " + json_quote(address) + ", which is no HOST:PORT");
    if (secret.empty() && !is_loopback(address))
      return refuse(403, "names " + std::string(address) +
                             ": without a transfer secret only addresses of this machine "
                             "are taken (127.0.0.0/8, [::1], localhost)");
    servers.emplace_back(address);
  }
  if (servers.size() > kMostContextServers)
    return refuse(400, "names " + std::to_string(servers.size()) + " servers; at most " +
                           std::to_string(kMostContextServers) + " are taken");
  return std::nullopt;
}

}  // namespace weft
