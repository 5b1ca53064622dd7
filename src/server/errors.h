// Errors as OpenAI's API writes them: {"error": {"message", "type", "param", "code"}}, and the one table from codes to
// HTTP statuses.
#pragma once

#include <string>

#include "base/json.h"
#include "base/result.h"
#include "server/http.h"

namespace weft {

int http_status(Code code);
Json error_json(int status, const std::string& message, const std::string& param = {}, const std::string& code = {});
Json error_json(const Error& error);
HttpResponse error_response(int status, const std::string& message, const std::string& param = {},
                            const std::string& code = {});
HttpResponse error_response(const Error& error);
// In place of the one second that a refusal says by default.
void set_retry_after(HttpResponse& response, int seconds);

}  // namespace weft
