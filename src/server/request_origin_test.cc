// Who may ask what from where, in tables.
#include "server/request_origin.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

HttpRequest asked(std::string method, HttpHeaders headers) {
  HttpRequest request;
  request.method = std::move(method), request.path = "/v1/completions", request.headers = std::move(headers);
  return request;
}

int status(const HttpRequest& request, const OriginRules& rules) {
  const HttpAdmission admission = check_origin(request, rules);
  return admission.refusal ? admission.refusal->status : 0;
}

TEST(RequestOrigin, NamesThatStrangersCanGiveAnAddressAreRefusedOnLoopback) {
  const OriginRules rules{.host = "127.0.0.1"};
  for (const char* good :
       {"localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "[::1]", "192.168.1.7:1", "x", "weft:8000",
        "weft.localhost", "printer.local:80", "a.svc.cluster.local", "weft.corp.internal.", "10.0.0.1"})
    EXPECT_EQ(status(asked("GET", {{"host", good}}), rules), 0) << good;
  for (const char* bad : {"evil.example.com", "evil.example.com:8000", "localhost.evil.com", "127.0.0.1.evil.com",
                          "a.local.com", "1.2.3", "evil.com."})
    EXPECT_EQ(status(asked("GET", {{"host", bad}}), rules), 403) << bad;
  EXPECT_EQ(status(asked("GET", {}), rules), 0) << "HTTP/1.0; browsers always say";
}

TEST(RequestOrigin, ElsewhereNamesAreRefusedFromPagesAlone) {
  for (const char* host : {"0.0.0.0", "::", "192.0.2.1"}) {
    const OriginRules rules{.host = host};
    EXPECT_EQ(status(asked("POST", {{"host", "gpu.example.com:8000"}}), rules), 0) << host;
    // What a rebound name looks like: a page of that name, under that name.
    EXPECT_EQ(status(asked("POST", {{"host", "evil.com:8000"},
                                    {"origin", "http://evil.com:8000"},
                                    {"content-type", "application/json"}}),
                     rules),
              403)
        << host;
  }
  EXPECT_EQ(status(asked("GET", {{"host", "gpu.example.com"}}), {.host = "gpu.example.com"}), 0) << "told so";
}

TEST(RequestOrigin, AllowedHosts) {
  const OriginRules rules{.host = "0.0.0.0", .allowed_hosts = {"gpu.example.com", "*.example.org"}};
  for (const char* good : {"gpu.example.com", "GPU.example.com:80", "a.example.org", "a.b.example.org", "192.0.2.1:9",
                           "localhost", "[::1]:80"})
    EXPECT_EQ(status(asked("GET", {{"host", good}}), rules), 0) << good;
  for (const char* bad : {"example.com", "example.org", "x", "evilexample.org", "gpu.example.com.evil.com"})
    EXPECT_EQ(status(asked("GET", {{"host", bad}}), rules), 403) << bad;
  OriginRules with_key = rules;
  with_key.has_key = true;
  EXPECT_EQ(status(asked("GET", {{"host", "evil.com"}}), with_key), 403) << "a list is a list";
  EXPECT_EQ(status(asked("GET", {{"host", "evil.com"}}), {.host = "127.0.0.1", .has_key = true}), 0);
  EXPECT_EQ(status(asked("GET", {{"host", "evil.com"}}), {.host = "127.0.0.1", .allowed_hosts = {"*"}}), 0);
}

TEST(RequestOrigin, PagesOfOtherOriginsAreRefused) {
  const OriginRules rules{.host = "127.0.0.1"};
  const auto from = [](const char* origin) {
    return asked("POST", {{"host", "localhost:8000"}, {"origin", origin}, {"content-type", "application/json"}});
  };
  EXPECT_EQ(status(from("http://localhost:8000"), rules), 0) << "its own";
  for (const char* bad : {"http://evil.com", "http://localhost:3000", "http://localhost", "null", "", "localhost:8000"})
    EXPECT_EQ(status(from(bad), rules), 403) << bad;
  EXPECT_EQ(status(from("http://evil.com"), {.host = "127.0.0.1", .has_key = true}), 0) << "it does not know the key";
  const OriginRules listed{.host = "127.0.0.1", .has_key = true, .cors_origins = {"https://app.example.org"}};
  EXPECT_EQ(status(from("http://evil.com"), listed), 403);
  EXPECT_EQ(status(from("https://app.example.org"), listed), 0);
  EXPECT_EQ(status(from("https://app.example.org.evil.com"), listed), 403);
  EXPECT_EQ(status(from("http://evil.com"), {.host = "127.0.0.1", .cors_origins = {"*"}}), 0);
}

std::string header(const HttpHeaders& headers, std::string_view name) {
  for (const auto& [key, value] : headers)
    if (key == name) return value;
  return "";
}

TEST(RequestOrigin, AllowedPagesMayReadTheAnswer) {
  const OriginRules rules{.host = "127.0.0.1", .cors_origins = {"https://app.example.org"}};
  const HttpAdmission admission = check_origin(
      asked("POST",
            {{"host", "localhost"}, {"origin", "https://app.example.org"}, {"content-type", "application/json"}}),
      rules);
  EXPECT_FALSE(admission.refusal);
  EXPECT_EQ(header(admission.headers, "Access-Control-Allow-Origin"), "https://app.example.org");
  EXPECT_EQ(header(admission.headers, "Vary"), "Origin");
  EXPECT_TRUE(check_origin(asked("GET", {{"host", "localhost"}}), rules).headers.empty());
}

TEST(RequestOrigin, PreflightsAreAnswered) {
  const OriginRules rules{.host = "127.0.0.1", .cors_origins = {"https://app.example.org"}};
  const auto asks = [](const char* origin) {
    return asked("OPTIONS", {{"host", "localhost"},
                             {"origin", origin},
                             {"access-control-request-method", "POST"},
                             {"access-control-request-headers", "authorization,content-type"}});
  };
  const HttpAdmission allowed = check_origin(asks("https://app.example.org"), rules);
  ASSERT_TRUE(allowed.refusal);
  EXPECT_EQ(allowed.refusal->status, 204);
  EXPECT_EQ(header(allowed.refusal->headers, "Access-Control-Allow-Headers"), "authorization,content-type");
  EXPECT_EQ(header(allowed.refusal->headers, "Access-Control-Allow-Methods"), "GET, POST, OPTIONS");
  EXPECT_EQ(header(allowed.headers, "Access-Control-Allow-Origin"), "https://app.example.org");
  EXPECT_EQ(status(asks("https://evil.com"), rules), 403);
}

// A form or a script of a page can send these types without asking first; curl sends no Origin.
TEST(RequestOrigin, PagesMustSendJson) {
  const OriginRules rules{.host = "127.0.0.1", .cors_origins = {"*"}};
  for (const char* sign : {"origin", "sec-fetch-site"}) {
    for (const char* type : {"text/plain", "application/x-www-form-urlencoded", "multipart/form-data"})
      EXPECT_EQ(status(asked("POST", {{"host", "x"}, {sign, "https://a.b"}, {"content-type", type}}), rules), 415);
    EXPECT_EQ(status(asked("POST", {{"host", "x"}, {sign, "https://a.b"}}), rules), 415);
    EXPECT_EQ(
        status(asked("POST", {{"host", "x"}, {sign, "https://a.b"}, {"content-type", "application/json"}}), rules), 0);
    EXPECT_EQ(status(asked("GET", {{"host", "x"}, {sign, "https://a.b"}}), rules), 0);
  }
  EXPECT_EQ(status(asked("POST", {{"host", "x"}}), rules), 0);
}

TEST(RequestOrigin, EntriesOfTheLists) {
  for (const char* good : {"a.b", "*", "*.a.b", "localhost", "10.0.0.1", "[::1]"})
    EXPECT_EQ(fault_of_allowed_host(good), "") << good;
  for (const char* bad : {"", "*.", "http://a", "a/b", "a b", "**"}) EXPECT_NE(fault_of_allowed_host(bad), "") << bad;
  for (const char* good : {"https://a.b", "http://localhost:3000", "*", "null", "app://x"})
    EXPECT_EQ(fault_of_origin(good), "") << good;
  for (const char* bad : {"", "a.b", "https://", "https://a.b/", "://a"}) EXPECT_NE(fault_of_origin(bad), "") << bad;
}

}  // namespace
}  // namespace weft
