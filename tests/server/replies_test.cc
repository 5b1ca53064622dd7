// What this program's HTTP client makes of answers: the bytes are the test's own.
#include <gtest/gtest.h>

#include "server/http_client.h"
#include "stub_server.h"

namespace weft {
namespace {

HttpReply reply_to(const std::string& bytes) {
  StubServer server(
      [&](const std::string&, const std::string&) { return StubAnswer{.pieces = {bytes}, .close = true}; });
  HttpClient client({"127.0.0.1", server.port(), ""}, {}, std::chrono::seconds(20), 1000);
  HttpReply reply;
  client.get("/", [&](HttpReply got) { reply = std::move(got); });
  client.run();
  return reply;
}

TEST(HttpReplies, ALengthIsNoMemory) {
  for (const char* length : {"4294967295", "1152921504606846976"}) {
    const HttpReply reply = reply_to("HTTP/1.1 200 OK\r\nContent-Length: " + std::string(length) + "\r\n\r\nbegin");
    EXPECT_EQ(reply.failure, HttpFailure::broken);
    EXPECT_EQ(reply.problem, "the connection ended before the answer") << length;
  }
}

TEST(HttpReplies, WhatComesBeforeTheAnswerIsNotIt) {
  const HttpReply reply = reply_to(
      "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
      "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
  EXPECT_EQ(reply.failure, HttpFailure::none) << reply.problem;
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.body, "hello");
}

TEST(HttpReplies, StatusesThatAreNone) {
  for (const char* status : {"000", "099", "101"}) {
    const HttpReply reply = reply_to("HTTP/1.1 " + std::string(status) + " x\r\nContent-Length: 0\r\n\r\n");
    EXPECT_EQ(reply.failure, HttpFailure::broken);
    EXPECT_EQ(reply.problem, "the answer's status is " + std::to_string(std::stoi(status)));
  }
}

}  // namespace
}  // namespace weft
