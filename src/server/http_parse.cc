// See the header.
#include "server/http_parse.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstring>

#include "server/http_answer.h"

namespace weft {

namespace http = boost::beast::http;

namespace {

// Is there a well-formed version, whichever it is, at the end of the first line?
bool has_version(const boost::beast::flat_buffer& buffer) {
  const std::string_view text(static_cast<const char*>(buffer.data().data()), buffer.data().size());
  const std::string_view line = text.substr(0, text.find("\r\n"));
  const size_t size = line.size();
  return size >= 8 && line.substr(size - 8, 5) == "HTTP/" && std::isdigit(static_cast<unsigned char>(line[size - 3])) &&
         line[size - 2] == '.' && std::isdigit(static_cast<unsigned char>(line[size - 1]));
}

bool valid_host(std::string_view host) {
  return std::all_of(host.begin(), host.end(),
                     [](unsigned char c) { return std::isalnum(c) || std::strchr("-._:[]%", c) != nullptr; });
}

// "%2F" becomes "/"; a % without two hexadecimal digits behind it stays.
std::string percent_decoded(std::string_view text) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned value = 0;
    const char* const digits = text.data() + i + 1;
    if (text[i] == '%' && i + 2 < text.size() && std::from_chars(digits, digits + 2, value, 16).ptr == digits + 2) {
      decoded += static_cast<char>(value);
      i += 2;
    } else {
      decoded += text[i];
    }
  }
  return decoded;
}

}  // namespace

HttpVerdict judge_head(const HttpParser::value_type& head, const HttpLimits& limits) {
  if (head.version() / 10 != 1) return {505, "only HTTP/1.1 and HTTP/1.0 are spoken here"};
  if (std::distance(head.begin(), head.end()) > limits.head_fields)
    return {431, "a request may have at most " + std::to_string(limits.head_fields) + " header fields"};
  const auto hosts = head.count(http::field::host);
  if (hosts > 1 || (hosts == 0 && head.version() >= 11)) return {400, "a request must have one Host header"};
  if (hosts == 1 && !valid_host(head[http::field::host])) return {400, "the Host header is not valid"};
  if (const auto coding = head[http::field::transfer_encoding]; !coding.empty() && lower_case(coding) != "chunked")
    return {501, "the only transfer encoding supported is chunked"};
  if (head.count(http::field::transfer_encoding) > 1) return {400, "more than one Transfer-Encoding header"};
  if (const auto coding = head[http::field::content_encoding]; !coding.empty() && lower_case(coding) != "identity")
    return {415, "compressed request bodies are not supported"};
  if (const auto expect = head[http::field::expect]; !expect.empty() && lower_case(expect) != "100-continue")
    return {417, "the only expectation supported is 100-continue"};
  if (head.target().empty() ||
      (head.target()[0] != '/' && head.target() != "*" && head.target().find("://") == std::string_view::npos))
    return {400, "the request target is not valid"};
  return {};
}

HttpRequest read_head(const HttpParser::value_type& head) {
  HttpRequest request;
  request.method = head.method() == http::verb::head ? "GET" : std::string(head.method_string());
  std::string_view target(head.target().data(), head.target().size());
  if (const size_t scheme = target.find("://");
      scheme != std::string_view::npos && target[0] != '/') {  // absolute form: served here
    const size_t slash = target.find('/', scheme + 3);
    target = slash == std::string_view::npos ? "/" : target.substr(slash);
  }
  const size_t question = target.find('?');
  request.path = percent_decoded(target.substr(0, question));
  if (question != std::string_view::npos) request.query = target.substr(question + 1);
  for (const auto& field : head)
    request.headers.emplace_back(lower_case({field.name_string().data(), field.name_string().size()}),
                                 std::string(field.value()));
  return request;
}

HttpVerdict judge_error(const boost::system::error_code& error, const HttpParser& parser,
                        const boost::beast::flat_buffer& buffer, const HttpLimits& limits) {
  if (error == http::error::partial_message) return {400, "the request is incomplete"};
  if (error == http::error::body_limit && parser.chunked() && parser.get().body().size() < limits.body_bytes / 2)
    return {400, "a chunk's size is out of range"};
  if (error == http::error::body_limit)
    return {413, "the body may be at most " + std::to_string(limits.body_bytes) + " bytes long"};
  if (error == http::error::header_limit || error == http::error::buffer_overflow) {
    if (parser.get().target().empty()) return {414, "the request target is too long"};
    return {431, "the headers may be at most " + std::to_string(limits.head_bytes) + " bytes long"};
  }
  if (error == http::error::bad_version && has_version(buffer))
    return {505, "only HTTP/1.1 and HTTP/1.0 are spoken here"};
  if (error.category() != http::make_error_code(http::error::bad_value).category()) return {};  // the network's
  return {400, "not a valid HTTP request: " + error.message()};
}

}  // namespace weft
