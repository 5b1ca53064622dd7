// Reading files of requests, one JSON object a line.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "api/request_json.h"
#include "base/result.h"

namespace weft {

struct RequestLine {
  int number = 0;                        // in the file, from 1
  std::optional<std::string> custom_id;  // known even of many a bad line
  std::optional<Error> error;            // why the line is no request
  std::optional<Request> request;
  int logprobs = -1, prompt_logprobs = -1;
  Json json;  // what was read, for those who ask for it
};

// Whether --requests can be read: a file, a pipe, or "-", standard input. Commands ask before they load a model.
Status check_requests_path(const std::string& path);

// All lines that are not blank, in order. "-" is standard input. An error if the file cannot be read; bad lines say so
// themselves.
Result<std::vector<RequestLine>> read_requests(const std::string& path, RequestKind kind, const RequestRules& rules,
                                               bool keep_json = false);

// Lines without a custom_id, or with one that an earlier line has, become errors: it names the request's tensors.
void require_names(std::vector<RequestLine>& lines);
// The error of a line of `path`, on standard error.
void print_line_error(const std::string& path, const RequestLine& line, const Error& error);

}  // namespace weft
