// URLs of images: data: URLs against a decoder by the definition of base64, and http URLs, which are written as they
// are read, and allowed only where the operator said so.
#include "base/socket_address.h"
#include "media/url.h"
#include "target.h"

using namespace weft;

namespace {

constexpr size_t kMost = 1 << 16;

// RFC 4648 by its definition; nothing for what is none. White space is skipped, padding may be missing.
bool decode(std::string_view text, std::string& out) {
  std::string digits;
  for (const char c : text)
    if (c != ' ' && c != '\t' && c != '\n' && c != '\r' && c != '\f') digits += c;
  const size_t end = digits.find_last_not_of('=');
  const size_t padding = digits.size() - (end == std::string::npos ? 0 : end + 1);
  digits.resize(digits.size() - padding);
  if (padding > 2 || (padding > 0 && (digits.size() + padding) % 4 != 0) || digits.size() % 4 == 1) return false;
  uint32_t bits = 0;
  int held = 0;
  for (const char c : digits) {
    const std::string_view alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    size_t value = alphabet.find(c);
    if (c == '+' || c == '-') value = 62;
    if (c == '/' || c == '_') value = 63;
    if (value == std::string_view::npos) return false;
    bits = bits << 6 | static_cast<uint32_t>(value), held += 6;
    if (held >= 8) held -= 8, out += static_cast<char>(bits >> held);
  }
  return true;
}

void data_url(const std::string& text) {
  const auto read = decode_data_url(text, kMost);
  if (!read.ok()) return require_message(read.error());
  require(read->size() <= kMost, "no more bytes than allowed");
  const size_t comma = text.find(',');
  std::string expected;
  require(comma != std::string::npos && decode(std::string_view(text).substr(comma + 1), expected),
          "what is decoded is base64");
  require(*read == expected, "the bytes are those of the definition");
}

void http_url(const std::string& text) {
  const auto url = parse_http_url(text);
  if (!url.ok()) return require_message(url.error());
  const auto again = parse_http_url(url->text());
  require(again.ok() && again->text() == url->text() && again->host == url->host && again->port == url->port &&
              again->target == url->target && again->secure == url->secure,
          "a URL is written as it is read");
  require(url->target.starts_with('/') && url->port > 0 && url->port < 65536, "a URL has a target and a port");
  for (const char c : url->text()) require(c > ' ' && c < 127, "a URL is printable, so it fits in a request line");
  UrlOptions options;
  require(!is_allowed(*url, options), "nothing is allowed by default");
  options.allowed_hosts = {"a.example", "*.b.example:8080", "1.2.3.4"};
  if (is_allowed(*url, options))
    require(url->host == "a.example" || url->host == "1.2.3.4" || url->host.ends_with(".b.example"),
            "only hosts of the list are allowed");
}

void redirect(const std::string& text) {
  const size_t line = text.find('\n');
  if (line == std::string::npos) return;
  const auto from = parse_http_url(text.substr(0, line));
  if (!from.ok()) return;
  const auto to = follow(*from, text.substr(line + 1));
  if (!to.ok()) return require_message(to.error());
  require(parse_http_url(to->text()).ok(), "a redirect leads to a URL");
  require(!from->secure || to->secure, "https never leads to http");
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  return {"data:image/png;base64,iVBORw0KGgo=",
          "data:;base64,QUJD\nREVG_-",
          "data:text/plain;charset=x;base64,/+8=",
          "http://a.example/p?q=1#f",
          "https://[2001:db8::1]:8443/",
          "http://1.2.3.4:80/a%2f..",
          "HTTP://X.b.example:8080",
          "http://a.example/x\n../y?z",
          "https://a.example/x\n//b.example/y",
          "https://a.example/\nhttp://a.example/",
          "10.0.0.1",
          "::ffff:169.254.169.254",
          "[::1]:80"};
}
std::vector<std::string> fuzz_words() {
  return {"data:",  ";base64,", "http://", "https://", "//",        "@",    "\\", ":80",       ":0",
          ":65536", "0x7f.1",   "127.1",   "%2e",      "..",        "?",    "#",  "[",         "]",
          "::",     "=",        "==",      "\t",       "a.example", "xn--", ".",  "localhost", "64:ff9b::"};
}
void mend(std::string&) {}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text = copy_of(data, size);
  data_url(text), http_url(text), redirect(text);
  if (is_public_address(text)) {
    const auto place = parse_host_port((text.find(':') == std::string::npos ? text : "[" + text + "]") + ":80");
    require(place.ok(), "a public address is an address");
  }
  if (!text.starts_with("http")) {
    const auto read = read_image_url(text, {});
    if (!read.ok()) require_message(read.error());
  }
  return 0;
}
