// See the header.
#include "server/request_origin.h"

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "base/json.h"
#include "server/errors.h"
#include "server/http_answer.h"

namespace weft {

namespace {

constexpr const char* kOptionHosts = "--allowed-hosts";
constexpr const char* kOptionOrigins = "--cors-origins";

// Names of the public DNS do not end so, and those without a dot are no names of it either.
constexpr std::array<std::string_view, 4> kPrivate = {".localhost", ".local", ".internal", ".home.arpa"};

// The name in "name:port" or "[address]:port", in lower case and without a dot at its end.
std::string name_of_host(std::string_view host) {
  if (host.starts_with('[')) return lower_case(host.substr(1, host.find(']') - 1));
  std::string name = lower_case(host.substr(0, host.find(':')));
  if (name.ends_with('.')) name.pop_back();
  return name;
}

bool is_address(const std::string& name) {
  in6_addr ignored{};
  const std::string bare = name.substr(0, name.find('%'));
  return ::inet_pton(AF_INET, bare.c_str(), &ignored) == 1 || ::inet_pton(AF_INET6, bare.c_str(), &ignored) == 1;
}

bool is_this_machine(const std::string& host) {
  const std::string name = name_of_host(host.find("::") == std::string::npos ? host : "[" + host + "]");
  return name == "localhost" || name == "::1" || (is_address(name) && name.starts_with("127."));
}

bool matches(const std::string& name, const std::string& pattern) {
  if (pattern == "*") return true;
  const std::string wanted = lower_case(pattern);
  return wanted.starts_with("*.") ? name.size() > wanted.size() - 1 && name.ends_with(wanted.substr(1))
                                  : name == name_of_host(wanted);
}

// Nobody but this machine's owner decides where the name leads.
bool is_private(const std::string& name) {
  return is_address(name) || name.find('.') == std::string::npos ||
         std::ranges::any_of(kPrivate, [&](std::string_view end) { return name.ends_with(end); });
}

bool is_trusted_host(const std::string& name, const OriginRules& rules) {
  if (!rules.allowed_hosts.empty())
    return is_address(name) || name == "localhost" ||
           std::ranges::any_of(rules.allowed_hosts, [&](const std::string& one) { return matches(name, one); });
  return is_private(name) || name == lower_case(rules.host);
}

std::optional<HttpResponse> check_host(const std::string& host, bool page, const OriginRules& rules) {
  const bool lenient = rules.allowed_hosts.empty() && (rules.has_key || (!is_this_machine(rules.host) && !page));
  if (host.empty() || lenient || is_trusted_host(name_of_host(host), rules)) return std::nullopt;
  return error_response(403,
                        "this server does not answer to the name " + json_quote(name_of_host(host)) +
                            " in the Host header; if it is a name of this server, start it with " + kOptionHosts + " " +
                            name_of_host(host),
                        {}, "host_not_allowed");
}

// The origin's host and port are those that the request was sent to.
bool is_own_origin(const std::string& origin, const std::string& host) {
  const size_t scheme = origin.find("://");
  return scheme != std::string::npos && !host.empty() && lower_case(origin.substr(scheme + 3)) == lower_case(host);
}

std::string words_only(const std::string& list) {
  std::string kept;
  for (const char c : list)
    if (std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == ',' || c == ' ') kept += c;
  return kept.substr(0, 1024);
}

// The browser asks before it sends a page's request.
HttpResponse preflight(const HttpRequest& head) {
  HttpResponse response{204, "", "", {}};
  response.headers.emplace_back("Access-Control-Allow-Methods", "GET, POST, OPTIONS");
  if (const std::string* wanted = head.header("access-control-request-headers"))
    response.headers.emplace_back("Access-Control-Allow-Headers", words_only(*wanted));
  if (head.header("access-control-request-private-network"))
    response.headers.emplace_back("Access-Control-Allow-Private-Network", "true");
  response.headers.emplace_back("Access-Control-Max-Age", "600");
  return response;
}

}  // namespace

bool is_json_type(std::string type) {
  type = lower_case(type);
  std::erase_if(type, [](char c) { return c == ' ' || c == '\t' || c == '"'; });
  const std::string kind = type.substr(0, type.find(';'));
  if (kind != "application/json" && !(kind.size() > 5 && kind.ends_with("+json"))) return false;
  const size_t charset = type.find(";charset=");
  if (charset == std::string::npos) return true;
  const std::string value = type.substr(charset + 9, type.find(';', charset + 9) - charset - 9);
  return value == "utf-8" || value == "utf8" || value == "us-ascii";
}

HttpAdmission check_origin(const HttpRequest& head, const OriginRules& rules) {
  const std::string* const origin = head.header("origin");
  const std::string* const field = head.header("host");
  const std::string host = field ? *field : "";
  HttpAdmission admission;
  admission.refusal = check_host(host, origin != nullptr, rules);
  if (admission.refusal) return admission;
  if (origin) {
    const bool listed = std::ranges::any_of(rules.cors_origins, [&](const std::string& one) {
      return one == "*" || lower_case(one) == lower_case(*origin);
    });
    if (listed) {
      admission.headers = {{"Access-Control-Allow-Origin", *origin},
                           {"Access-Control-Expose-Headers", "Retry-After"},
                           {"Vary", "Origin"}};
    } else if (!(rules.has_key && rules.cors_origins.empty()) && !is_own_origin(*origin, host)) {
      admission.refusal =
          error_response(403,
                         "pages of " + json_quote(origin->substr(0, 200)) + " may not use this server; start it with " +
                             kOptionOrigins + " and this origin to allow it",
                         {}, "origin_not_allowed");
      return admission;
    }
    if (listed && head.method == "OPTIONS" && head.header("access-control-request-method")) {
      admission.refusal = preflight(head);
      return admission;
    }
  }
  const std::string* const type = head.header("content-type");
  if (head.method == "POST" && (origin || head.header("sec-fetch-site")) && !(type && is_json_type(*type)))
    admission.refusal = error_response(415, "a page's request must have the Content-Type application/json");
  return admission;
}

std::string fault_of_allowed_host(const std::string& host) {
  const std::string bare = host.starts_with("*.") ? host.substr(2) : host;
  const bool good = host == "*" || (!bare.empty() && std::ranges::all_of(bare, [](unsigned char c) {
                      return std::isalnum(c) || c == '-' || c == '.' || c == '_' || c == ':' || c == '[' || c == ']';
                    }));
  return good ? "" : "must be a host's name, *.NAME or *, got " + host;
}

std::string fault_of_origin(const std::string& origin) {
  const size_t scheme = origin.find("://");
  const bool good = origin == "*" || origin == "null" ||
                    (scheme != std::string::npos && scheme > 0 && origin.size() > scheme + 3 &&
                     origin.find_first_of("/ ,", scheme + 3) == std::string::npos);
  return good ? "" : "must be an origin such as https://example.org (no path) or *, got " + origin;
}

}  // namespace weft
