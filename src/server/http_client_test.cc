#include "server/http_client.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

TEST(HttpClient, Addresses) {
  struct Row {
    const char *url, *host;
    int port;
    const char *prefix, *text;
  };
  for (const Row& row : {Row{"http://localhost", "localhost", 80, "", "http://localhost:80"},
                         Row{"http://my_host:8000/", "my_host", 8000, "", "http://my_host:8000"},
                         Row{"http://10.0.0.1:1/v1", "10.0.0.1", 1, "", "http://10.0.0.1:1"},
                         Row{"http://h/a/b/v1//", "h", 80, "/a/b", "http://h:80/a/b"},
                         Row{"http://[::1]:65535/x", "::1", 65535, "/x", "http://[::1]:65535/x"},
                         Row{"http://[fe80::2]", "fe80::2", 80, "", "http://[fe80::2]:80"}}) {
    const auto read = parse_server_url(row.url);
    ASSERT_TRUE(read.ok()) << read.error().message();
    EXPECT_EQ(read->host, row.host);
    EXPECT_EQ(read->port, row.port) << row.url;
    EXPECT_EQ(read->prefix, row.prefix);
    EXPECT_EQ(read->text(), row.text);
  }
}

TEST(HttpClient, AddressesThatAreNone) {
  for (const char* url : {"", "h:80", "https://h", "ftp://h", "http://", "http:///x", "http://:80", "http://h:",
                          "http://h:0", "http://h:65536", "http://h:8x", "http://u:p@h", "http://h?q", "http://h/#f",
                          "http://h h", "http://[::1", "http://::1]", "http://h\r\nX: y", "http://[]:80"}) {
    const auto read = parse_server_url(url);
    ASSERT_FALSE(read.ok()) << url;
    EXPECT_NE(read.error().message().find("http://HOST:PORT"), std::string::npos);
  }
}

// Nothing listens on a port that was taken and given back; other work goes on meanwhile.
TEST(HttpClient, NoServer) {
  HttpClient client({"127.0.0.1", 1, ""}, {}, std::chrono::seconds(5));
  std::vector<std::string> done;
  client.post("/x", "body", [&](const HttpReply& reply) {
    EXPECT_EQ(reply.failure, HttpReply::Failure::unreachable);
    EXPECT_EQ(reply.problem, "Connection refused");
    done.emplace_back("refused");
    client.after(std::chrono::milliseconds(1), [&] { done.emplace_back("after"); });
  });
  client.run();
  EXPECT_EQ(done, (std::vector<std::string>{"refused", "after"}));
}

}  // namespace
}  // namespace weft
