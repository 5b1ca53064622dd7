#include "base/socket_address.h"

#include <gtest/gtest.h>

#include <future>

namespace weft {
namespace {

TEST(SocketAddress, Parses) {
  const struct {
    const char* text;
    const char* host;
    int port;
  } rows[] = {{"10.0.0.7:41234", "10.0.0.7", 41234},
              {"node7:0", "node7", 0},
              {"[::1]:80", "::1", 80},
              {"[fe80::1%eth0]:65535", "fe80::1%eth0", 65535}};
  for (const auto& row : rows) {
    const auto place = parse_host_port(row.text);
    ASSERT_TRUE(place.ok()) << place.error().message();
    EXPECT_EQ(place->host, row.host);
    EXPECT_EQ(place->port, row.port);
  }
}

TEST(SocketAddress, Refuses) {
  const struct {
    const char* text;
    const char* what;
  } rows[] = {{"", "the port is missing"}, {"node7", "the port is missing"}, {"[::1]", "the port is missing"},
              {"::1:80", "in brackets"},   {"[node7]:80", "must be IPv6"},   {":80", "the host is missing"},
              {"node7:", "0 to 65535"},    {"node7:65536", "0 to 65535"},    {"node7:80x", "0 to 65535"},
              {"node7:-1", "0 to 65535"}};
  for (const auto& row : rows) {
    const auto place = parse_host_port(row.text);
    ASSERT_FALSE(place.ok()) << row.text;
    EXPECT_NE(place.error().message().find(row.what), std::string::npos) << place.error().message();
  }
}

TEST(SocketAddress, ResolvesAndPrints) {
  const struct {
    HostPort place;
    const char* text;
    bool loopback;
  } rows[] = {{{"127.1.2.3", 5}, "127.1.2.3:5", true},
              {{"10.0.0.7", 80}, "10.0.0.7:80", false},
              {{"::1", 80}, "[::1]:80", true},
              {{"2001:db8::1", 1}, "[2001:db8::1]:1", false}};
  for (const auto& row : rows) {
    const auto addresses = resolve(row.place);
    ASSERT_TRUE(addresses.ok()) << addresses.error().message();
    EXPECT_EQ(addresses->front().text(), row.text);
    EXPECT_EQ(addresses->front().loopback(), row.loopback);
  }
}

TEST(SocketAddress, ResolvesNamesLater) {
  std::promise<Result<std::vector<SocketAddress>>> promise;
  auto found = promise.get_future();
  resolve_later({"localhost", 7}, [&](auto addresses) { promise.set_value(std::move(addresses)); });
  const auto addresses = found.get();
  ASSERT_TRUE(addresses.ok()) << addresses.error().message();
  EXPECT_TRUE(addresses->front().loopback());

  std::promise<Result<std::vector<SocketAddress>>> none;
  resolve_later({"no-such-host.invalid", 7}, [&](auto found_none) { none.set_value(std::move(found_none)); });
  const auto error = none.get_future().get();
  ASSERT_FALSE(error.ok());
  EXPECT_NE(error.error().message().find("no-such-host.invalid"), std::string::npos);
}

}  // namespace
}  // namespace weft
