// Where a request's images come from: data: URLs always; http and https only from hosts that the operator allowed,
// since a server that fetches what strangers name can be led to its own network. Paths and file: URLs are never opened
// here (the command line reads files itself).
//
// Fetching: one parser (this one) decides and builds the address that is connected to; a name is resolved once per hop
// and only public addresses are connected to; redirects go through the same rules; https never leads to http. Nothing
// is sent besides the request line and plain headers: no cookies, no credentials, no proxy.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace weft {

class StopFlag;

struct UrlOptions {
  // Hosts that images may be fetched from, lower case: "example.org"; "*.example.org" for the hosts below it; "*" for
  // any; with ":8080" behind it for that port instead of the scheme's. Empty: http(s) is off.
  std::vector<std::string> allowed_hosts;
  size_t max_bytes = size_t{32} << 20;  // of an image's file
  int timeout_ms = 10'000;              // for one URL, redirects included
  int max_redirects = 3;
  // Connects to loopback and private addresses too: for tests, and for networks whose operator means it.
  bool private_addresses = false;
  // Looked at while waiting for the network, every 20 ms or so: cancelled or deadline_exceeded once it is set.
  const StopFlag* stop = nullptr;
};

// The bytes behind an image's URL. Errors are invalid_argument and say what is wrong with it. Blocks up to the timeout;
// any thread.
Result<std::string> read_image_url(std::string_view url, const UrlOptions& options = {});

// The bytes of "data:[type][;parameters];base64,DATA". The type is ignored: the bytes decide what they are. Base64 as
// in RFC 4648, sections 4 and 5; padding may be missing, white space is skipped, anything else is an error.
Result<std::string> decode_data_url(std::string_view url, size_t max_bytes);

// An http or https URL in its parts, as it is connected to.
struct HttpUrl {
  bool secure = false;
  std::string host;  // lower case; an IPv6 address without its brackets
  int port = 80;
  std::string target;  // path and query, starts with '/'
  std::string text() const;
};

// Strict: no user info, no backslash, no control or non-ASCII characters, no address in another spelling than four
// decimal numbers.
Result<HttpUrl> parse_http_url(std::string_view url);

// The URL that a Location header leads to, seen from `from`.
Result<HttpUrl> follow(const HttpUrl& from, std::string_view location);

bool is_allowed(const HttpUrl& url, const UrlOptions& options);

// Whether a textual address ("93.184.216.34", "2606:4700::1111") is on the public internet; false for what is no
// address.
bool is_public_address(std::string_view address);

}  // namespace weft
