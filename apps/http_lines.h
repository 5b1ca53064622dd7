// A line of `weft batch` as a call of the HTTP API, and the call's answer as what the line's output is made of.
#pragma once

#include <string>

#include "batch_lines.h"
#include "requests_file.h"
#include "server/http_client.h"

namespace weft {

struct LineCall {
  std::string path;  // /v1/chat/completions or /v1/completions
  std::string body;
};

// `line` has its JSON. Image files are read, and become data: URLs; errors are those that name what cannot be read.
Result<LineCall> call_of(const RequestLine& line);

// From a reply with a status. `where`: the address that was asked, for errors that are not weft's own.
BatchOutcome outcome_of(const RequestLine& line, const HttpReply& reply, const std::string& where);

// What a reply with an error says: weft's code where it has one, else what the status means.
Error error_of(const HttpReply& reply, const std::string& where);
// Whether that error has a code of weft's, so that asking again would bring it again.
bool is_final(const HttpReply& reply);

}  // namespace weft
