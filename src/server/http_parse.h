// What a request's bytes say: its head as an HttpRequest, and the transport's own errors. Over Beast, for
// http_session.cc.
#pragma once

#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <string>

#include "server/http.h"
#include "server/http_limits.h"

namespace weft {

using HttpParser = boost::beast::http::request_parser<boost::beast::http::string_body>;

// The status of an error and its words, or 0 to go on.
struct HttpVerdict {
  int status = 0;
  std::string message;
};
HttpVerdict judge_head(const HttpParser::value_type& head, const HttpLimits& limits);
// Of a read that failed; 0 where nobody is left to tell. `buffer`: what has come and not been parsed.
HttpVerdict judge_error(const boost::system::error_code& error, const HttpParser& parser,
                        const boost::beast::flat_buffer& buffer, const HttpLimits& limits);

// All but body and peer.
HttpRequest read_head(const HttpParser::value_type& head);

}  // namespace weft
