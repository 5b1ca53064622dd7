// Image URLs: see url.h. The transport is the bridge's (ureq with rustls).
#include "media/url.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <optional>
#include <utility>

#include "base/bridge_call.h"
#include "base/stop_flag.h"

namespace weft {
namespace {

constexpr size_t kMaxUrl = 8192;

Error refused(std::string_view why) { return fail(Code::invalid_argument, why); }

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string lowered(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(), lower);
  return out;
}

// "http" of "http://x"; empty if there is no scheme.
std::string scheme_of(std::string_view url) {
  const size_t colon = url.find(':');
  if (colon == url.npos || colon == 0 || colon > 16) return {};
  const std::string scheme = lowered(url.substr(0, colon));
  const bool name = std::ranges::all_of(
      scheme, [](char c) { return (c >= 'a' && c <= 'z') || is_digit(c) || c == '+' || c == '-' || c == '.'; });
  return name ? scheme : std::string();
}

int base64_value(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (is_digit(c)) return c - '0' + 52;
  if (c == '+' || c == '-') return 62;
  if (c == '/' || c == '_') return 63;
  return -1;
}

Result<std::string> decode_base64(std::string_view text, size_t max_bytes) {
  // Four characters a group; white space makes this an upper bound.
  const Error too_long =
      fail(Code::invalid_argument, "the image has more than ", max_bytes, " bytes (--max-image-bytes)");
  std::string out;
  out.reserve(std::min(text.size() / 4 * 3 + 3, max_bytes));
  uint32_t bits = 0;
  int have = 0, padding = 0;
  size_t characters = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == ' ' || c == '\t' || c == '\r' || c == '\n') continue;
    if (c == '=') {
      ++padding;
      continue;
    }
    const int value = base64_value(c);
    if (value < 0 || padding > 0)
      return fail(Code::invalid_argument, "the data: URL is not base64 at character ", i + 1, " of its data");
    ++characters;
    bits = bits << 6 | static_cast<uint32_t>(value);
    have += 6;
    if (have < 8) continue;
    have -= 8;
    if (out.size() == max_bytes) return too_long;
    out.push_back(static_cast<char>(bits >> have));
  }
  if (characters % 4 == 1 || padding > 2 || (padding > 0 && (characters + padding) % 4 != 0)) {
    return refused("the data: URL's base64 data breaks off");
  }
  if (out.empty()) return refused("the data: URL holds no data");
  return out;
}

// One to three numbers with dots, or one in another base, are addresses to some resolvers; only the plain form is let
// through.
bool looks_numeric(std::string_view host) {
  const std::string_view last = host.substr(host.rfind('.') + 1);
  return is_digit(last.front()) && (std::ranges::all_of(last, is_digit) || last.starts_with("0x"));
}

bool is_plain_ipv4(std::string_view host) {
  int parts = 0;
  while (true) {
    const std::string_view part = host.substr(0, host.find('.'));
    int value = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    const bool plain = error == std::errc() && end == part.data() + part.size() && part.size() <= 3 && value <= 255 &&
                       (part.size() == 1 || part[0] != '0');
    if (!plain || !is_digit(part.front())) return false;
    ++parts;
    if (part.size() == host.size()) return parts == 4;
    host.remove_prefix(part.size() + 1);
    if (host.empty()) return false;
  }
}

Status check_name(std::string_view host) {
  constexpr size_t kMaxHost = 253, kMaxLabel = 63;
  if (host.empty()) return refused("the URL has no host");
  if (host.size() > kMaxHost) return refused("the URL's host is too long");
  size_t label = 0;
  for (size_t i = 0; i <= host.size(); ++i) {
    if (i == host.size() || host[i] == '.') {
      if (label == 0 || label > kMaxLabel) return refused("the URL's host is not a host name");
      label = 0;
      continue;
    }
    const char c = host[i];
    if (!((c >= 'a' && c <= 'z') || is_digit(c) || c == '-')) return refused("the URL's host is not a host name");
    ++label;
  }
  if (looks_numeric(host) && !is_plain_ipv4(host))
    return refused("the URL's host is an address in an unusual spelling");
  return {};
}

Status check_ipv6(std::string_view host) {
  const bool digits =
      std::ranges::all_of(host, [](char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || c == ':' || c == '.'; });
  if (!digits || host.find(':') == host.npos || host.size() > 45)
    return refused("the URL's host is not an IPv6 address");
  return {};
}

Status check_characters(std::string_view url) {
  if (url.size() > kMaxUrl)
    return fail(Code::invalid_argument, "the URL has ", url.size(), " characters; at most ", kMaxUrl, " are accepted");
  for (char c : url) {
    if (c <= ' ' || c > '~' || c == '\\' || c == '"' || c == '<' || c == '>')
      return refused("the URL holds a character that no URL may hold");
  }
  return {};
}

struct Hop {
  uint32_t status;
  std::string location, body;
};

using bridge::take;

Result<Hop> fetch_once(const HttpUrl& url, const UrlOptions& options, int timeout_ms) {
  const std::string text = url.text();
  const WeftFetchLimits limits = {options.max_bytes, static_cast<uint32_t>(timeout_ms), options.private_addresses};
  WeftFetched fetched;
  WeftError error;
  if (!weft_http_get(text.data(), text.size(), &limits, &fetched, &error,
                     options.stop ? options.stop->byte() : nullptr)) {
    if (error.code == WEFT_STOPPED && !check_stop(options.stop).ok()) {
      take(error.message);
      return check_stop(options.stop).error();
    }
    return fail(Code::invalid_argument, "the image could not be fetched from ", url.host, ": ", take(error.message));
  }
  return Hop{fetched.status, take(fetched.location), take(fetched.body)};
}

Status check_policy(const HttpUrl& url, const UrlOptions& options) {
  if (!is_allowed(url, options)) {
    return fail(Code::invalid_argument, "images are not fetched from ", url.host, ":", url.port,
                " (it is not among the allowed hosts)");
  }
  const bool address = url.host.find(':') != url.host.npos || is_plain_ipv4(url.host);
  if (address && !options.private_addresses && !is_public_address(url.host)) {
    return fail(Code::invalid_argument, "images are not fetched from ", url.host, ": the address is not public");
  }
  return {};
}

Result<std::string> fetch(HttpUrl url, const UrlOptions& options) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point end = Clock::now() + std::chrono::milliseconds(options.timeout_ms);
  for (int hop = 0;; ++hop) {
    WEFT_RETURN_IF_ERROR(check_policy(url, options));
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
    if (left <= 0)
      return fail(Code::invalid_argument, "fetching the image from ", url.host, " took longer than ",
                  options.timeout_ms, " ms");
    WEFT_TRY(Hop answer, fetch_once(url, options, static_cast<int>(left)));
    if (answer.status == 200) return std::move(answer.body);
    const bool redirect = answer.status == 301 || answer.status == 302 || answer.status == 303 ||
                          answer.status == 307 || answer.status == 308;
    if (!redirect) return fail(Code::invalid_argument, url.host, " answered ", answer.status, " for the image");
    if (hop == options.max_redirects)
      return fail(Code::invalid_argument, "the image's URL leads through more than ", options.max_redirects,
                  " redirects");
    WEFT_TRY(url, follow(url, answer.location));
  }
}

}  // namespace

std::string HttpUrl::text() const {
  const std::string name = host.find(':') != host.npos ? "[" + host + "]" : host;
  const bool usual = port == (secure ? 443 : 80);
  return (secure ? "https://" : "http://") + name + (usual ? "" : ":" + std::to_string(port)) + target;
}

bool is_public_address(std::string_view address) { return weft_address_is_public(address.data(), address.size()); }

Result<HttpUrl> parse_http_url(std::string_view url) {
  WEFT_RETURN_IF_ERROR(check_characters(url));
  HttpUrl out;
  const std::string scheme = scheme_of(url);
  if (scheme != "http" && scheme != "https") return refused("the URL is neither http nor https");
  out.secure = scheme == "https";
  out.port = out.secure ? 443 : 80;
  std::string_view rest = url.substr(scheme.size() + 1);
  if (!rest.starts_with("//")) return refused("the URL has no host");
  rest.remove_prefix(2);
  rest = rest.substr(0, rest.find('#'));
  const size_t path = std::min(rest.find_first_of("/?"), rest.size());
  std::string_view authority = rest.substr(0, path);
  out.target = rest.substr(path);
  if (!out.target.starts_with('/')) out.target.insert(0, "/");
  if (authority.find('@') != authority.npos) return refused("the URL holds user information, which is refused");
  std::optional<std::string_view> port;
  if (authority.starts_with('[')) {
    const size_t close = authority.find(']');
    if (close == authority.npos) return refused("the URL's host is not an IPv6 address");
    out.host = lowered(authority.substr(1, close - 1));
    WEFT_RETURN_IF_ERROR(check_ipv6(out.host));
    authority.remove_prefix(close + 1);
    if (!authority.empty() && authority[0] != ':') return refused("the URL's host is not an IPv6 address");
    if (!authority.empty()) port = authority.substr(1);
  } else {
    const size_t colon = authority.find(':');
    out.host = lowered(authority.substr(0, colon));
    WEFT_RETURN_IF_ERROR(check_name(out.host));
    if (colon != authority.npos) port = authority.substr(colon + 1);
  }
  if (port) {
    const auto [end, error] = std::from_chars(port->data(), port->data() + port->size(), out.port);
    if (error != std::errc() || end != port->data() + port->size() || out.port < 1 || out.port > 65535 ||
        !is_digit(port->front())) {
      return refused("the URL's port is not a number from 1 to 65535");
    }
  }
  return out;
}

Result<HttpUrl> follow(const HttpUrl& from, std::string_view location) {
  WEFT_RETURN_IF_ERROR(check_characters(location));
  if (location.empty()) return refused("the image's URL redirects to nowhere");
  const std::string scheme = scheme_of(location);
  HttpUrl to = from;
  if (!scheme.empty()) {
    WEFT_TRY(to, parse_http_url(location));
  } else if (location.starts_with("//")) {
    WEFT_TRY(to, parse_http_url((from.secure ? "https:" : "http:") + std::string(location)));
  } else {
    location = location.substr(0, location.find('#'));
    const std::string path = from.target.substr(0, from.target.find('?'));
    if (location.starts_with('/')) to.target = location;
    else if (location.starts_with('?')) to.target = path + std::string(location);
    else to.target = path.substr(0, path.rfind('/') + 1) + std::string(location);
  }
  if (from.secure && !to.secure) return refused("the image's URL redirects from https to http, which is refused");
  return to;
}

bool is_allowed(const HttpUrl& url, const UrlOptions& options) {
  for (std::string_view entry : options.allowed_hosts) {
    int port = url.secure ? 443 : 80;
    // A port behind the last colon, unless that belongs to an IPv6 address without brackets.
    const size_t colon = entry.rfind(':');
    if (colon != entry.npos && (entry.find(':') == colon || (colon > 0 && entry[colon - 1] == ']'))) {
      const std::string_view digits = entry.substr(colon + 1);
      if (std::from_chars(digits.data(), digits.data() + digits.size(), port).ec != std::errc()) continue;
      entry = entry.substr(0, colon);
    }
    if (entry.starts_with('[') && entry.ends_with(']')) entry = entry.substr(1, entry.size() - 2);
    if (port != url.port) continue;
    if (entry == "*" || entry == url.host) return true;
    if (entry.starts_with("*.") && url.host.size() > entry.size() - 1 && url.host.ends_with(entry.substr(1)))
      return true;
  }
  return false;
}

Result<std::string> decode_data_url(std::string_view url, size_t max_bytes) {
  constexpr size_t kMaxHeader = 256;
  const size_t comma = url.substr(0, kMaxHeader).find(',');
  if (comma == url.npos) return refused("the data: URL has no comma before its data");
  if (!lowered(url.substr(0, comma)).ends_with(";base64"))
    return refused("the data: URL is not base64 (data:image/png;base64,...)");
  return decode_base64(url.substr(comma + 1), max_bytes);
}

Result<std::string> read_image_url(std::string_view url, const UrlOptions& options) {
  if (url.empty()) return refused("the image's URL is empty");
  const std::string scheme = scheme_of(url);
  if (scheme == "data") return decode_data_url(url, options.max_bytes);
  if (scheme == "file") return refused("file: URLs are not read; send the image as a data: URL");
  if (scheme.empty()) return refused("an image is a data: URL (data:image/png;base64,...), not a path");
  if (scheme != "http" && scheme != "https")
    return fail(Code::invalid_argument, scheme, ": URLs are not read; send the image as a data: URL");
  WEFT_TRY(HttpUrl parsed, parse_http_url(url));
  if (options.allowed_hosts.empty()) {
    return refused(
        "images are not fetched from http and https URLs (no host is allowed on this server); send the image as a "
        "data: URL");
  }
  return fetch(std::move(parsed), options);
}

}  // namespace weft
