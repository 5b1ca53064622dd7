#include "base/socket_address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>

#include <charconv>
#include <cstring>
#include <system_error>
#include <thread>
#include <utility>

#include "base/keep_going.h"

namespace weft {

namespace {

Result<std::vector<SocketAddress>> look_up(const HostPort& place, int flags) {
  addrinfo wanted{};
  wanted.ai_family = AF_UNSPEC;
  wanted.ai_socktype = SOCK_STREAM;
  wanted.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(place.host.c_str(), std::to_string(place.port).c_str(), &wanted, &found);
  if (error) return fail(Code::not_found, "host ", place.host, " has no address: ", ::gai_strerror(error));
  std::vector<SocketAddress> addresses;
  for (const addrinfo* one = found; one; one = one->ai_next) {
    SocketAddress address;
    address.size = static_cast<socklen_t>(one->ai_addrlen);
    std::memcpy(&address.storage, one->ai_addr, one->ai_addrlen);
    addresses.push_back(address);
  }
  ::freeaddrinfo(found);
  return addresses;
}

}  // namespace

Result<HostPort> parse_host_port(std::string_view text) {
  const auto wrong = [&](const char* what) {
    return fail(Code::invalid_argument, "\"", std::string(text), "\" is not an address HOST:PORT: ", what);
  };
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || text.ends_with(']')) return wrong("the port is missing");
  std::string_view host = text.substr(0, colon);
  const std::string_view digits = text.substr(colon + 1);
  if (host.starts_with('[') && host.ends_with(']')) {
    host = host.substr(1, host.size() - 2);
    in6_addr ignored;
    const std::string address(host.substr(0, host.find('%')));  // fe80::1%eth0
    if (::inet_pton(AF_INET6, address.c_str(), &ignored) != 1) return wrong("what is in brackets must be IPv6");
  } else if (host.find(':') != std::string_view::npos) {
    return wrong("an IPv6 host stands in brackets");
  }
  if (host.empty()) return wrong("the host is missing");
  HostPort place{std::string(host), 0};
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), place.port);
  if (error != std::errc{} || end != digits.data() + digits.size()) return wrong("the port must be 0 to 65535");
  return place;
}

std::string SocketAddress::text() const {
  char host[NI_MAXHOST] = {}, port[NI_MAXSERV] = {};
  const int error = ::getnameinfo(data(), size, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV);
  if (error) return "unknown address";
  return storage.ss_family == AF_INET6 ? std::string("[") + host + "]:" + port : std::string(host) + ":" + port;
}

bool SocketAddress::loopback() const {
  if (storage.ss_family == AF_INET)
    return ntohl(reinterpret_cast<const sockaddr_in*>(&storage)->sin_addr.s_addr) >> 24 == 127;
  return storage.ss_family == AF_INET6 &&
         IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6*>(&storage)->sin6_addr);
}

Result<std::vector<SocketAddress>> resolve(const HostPort& place) { return look_up(place, 0); }

void resolve_later(const HostPort& place, std::function<void(Result<std::vector<SocketAddress>>)> done) {
  if (auto numeric = look_up(place, AI_NUMERICHOST); numeric.ok()) return done(std::move(numeric));
  try {
    std::thread([place, done] { keep_going("the look-up of an address", [&] { done(resolve(place)); }); }).detach();
  } catch (const std::system_error& thrown) {
    done(fail(Code::resource_exhausted, "cannot look up ", place.host, ": ", thrown.what()));
  }
}

}  // namespace weft
