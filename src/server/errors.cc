// See the header.
#include "server/errors.h"

#include <algorithm>
#include <string_view>

#include "base/log.h"
#include "server/http_answer.h"

namespace weft {

namespace {

const char* type_of(int status) {
  if (status == 401) return "authentication_error";
  if (status == 429) return "rate_limit_error";
  return status < 500 ? "invalid_request_error" : "server_error";
}

// What a library said when it failed is for the log; the client learns that it did.
std::string shown(const Error& error) {
  std::string message = error.message();
  constexpr std::string_view kInside[] = {"panic: ", "std::", "bad_alloc"};
  if (error.code() != Code::internal ||
      std::ranges::none_of(kInside, [&](std::string_view sign) { return message.find(sign) != std::string::npos; }))
    return message;
  log_warning("request_failed", " problem=", json_quote(message));
  return kFailedInside;
}

}  // namespace

int http_status(Code code) {
  switch (code) {
    case Code::invalid_argument: return 400;
    case Code::not_found: return 404;
    case Code::unsupported: return 400;
    case Code::resource_exhausted: return 429;
    case Code::data_corrupt: return 400;  // of a request's image, for instance
    case Code::cancelled: return 503;     // a client that left does not see it; one that is still there lost its server
    case Code::deadline_exceeded: return 503;
    case Code::too_large: return 413;
    case Code::internal: return 500;
    case Code::context_overflow: return 400;
    case Code::unavailable: return 503;
  }
  return 500;
}

Json error_json(int status, const std::string& message, const std::string& param, const std::string& code) {
  return Json::object({{"error", Json::object({{"message", message},
                                               {"type", type_of(status)},
                                               {"param", param.empty() ? Json() : Json(param)},
                                               {"code", code.empty() ? Json() : Json(code)}})}});
}

Json error_json(const Error& error) {
  return error_json(http_status(error.code()), shown(error), error.param(), name(error.code()));
}

HttpResponse error_response(int status, const std::string& message, const std::string& param, const std::string& code) {
  HttpResponse response;
  response.status = status;
  response.body = error_json(status, message, param, code).dump();
  if (status == 429 || status == 503) response.headers.emplace_back("Retry-After", "1");
  if (status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

void set_retry_after(HttpResponse& response, int seconds) {
  for (auto& [name, value] : response.headers)
    if (name == "Retry-After") value = std::to_string(seconds);
}

HttpResponse error_response(const Error& error) {
  return error_response(http_status(error.code()), shown(error), error.param(), name(error.code()));
}

}  // namespace weft
