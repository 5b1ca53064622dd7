// What only TCP has: frames, strangers, names (transport_test.cc has what every transport promises).
#include "transfer/tcp_transport.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include "transfer/test_handler.h"
#include "transfer/test_sockets.h"

namespace weft {
namespace {

constexpr size_t kLong = 48 << 20;

TEST(TcpTransport, StrangersAreFewAndMustSpeak) {
  Recorder handler;
  handler.message = [](const Held& channel, auto message) {
    channel->allow(message.empty() ? kFirstMessageBytes : kLong);
  };
  auto transport = std::move(*make_tcp_transport(handler));
  const auto address = transport->listen("127.0.0.1:0");
  ASSERT_TRUE(address.ok());
  const char empty[] = {0, 0, 0, 0}, one[] = {1, 0, 0, 0, 'x'};
  std::vector<int> silent;
  const int known = raw_connect(*address), speaks = raw_connect(*address);
  ASSERT_EQ(::send(known, one, sizeof one, 0), 5);
  ASSERT_EQ(::send(speaks, empty, sizeof empty, 0), 4);
  for (size_t i = 0; i < 2; ++i) {
    const Held channel = handler.wait_accepted(i, 5);
    ASSERT_TRUE(channel && handler.wait_count(channel, 1, 5));
  }
  const auto begin = std::chrono::steady_clock::now();
  const auto passed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); };
  for (int i = 1; i < kMaxStrangers; ++i) silent.push_back(raw_connect(*address));  // and the one that speaks
  ASSERT_TRUE(handler.wait_accepted(kMaxStrangers, 5));
  const int surplus = raw_connect(*address);
  EXPECT_TRUE(ends_within(surplus, 2));
  EXPECT_EQ(handler.accepted_count(), kMaxStrangers + 1u);
  ASSERT_LT(passed(), 4.0) << "too slow a machine for what follows";
  EXPECT_FALSE(ends_within(silent.front(), 0.1));
  for (const int socket : silent) EXPECT_TRUE(ends_within(socket, 5 + kFirstMessageSeconds));
  EXPECT_GT(passed(), kFirstMessageSeconds - 0.5);
  EXPECT_FALSE(ends_within(known, 0.1));
  EXPECT_FALSE(ends_within(speaks, 0.1));
  const int welcome = raw_connect(*address);
  EXPECT_FALSE(ends_within(welcome, 0.3));
  silent.insert(silent.end(), {known, speaks, surplus, welcome});
  for (const int socket : silent) ::close(socket);
}

TEST(TcpTransport, FramesCutAnywhereAreTheSame) {
  Recorder handler;
  handler.accepted = [](const Held& channel) { channel->allow(kLong); };
  auto transport = std::move(*make_tcp_transport(handler));
  const auto address = transport->listen("127.0.0.1:0");
  ASSERT_TRUE(address.ok());
  Bytes wire;
  const size_t sizes[] = {0, 5, 70'000, 1, 16'384, 20'000};
  for (uint64_t i = 0; i < std::size(sizes); ++i) {
    for (int byte = 0; byte < 4; ++byte) wire.push_back(static_cast<std::byte>(sizes[i] >> (8 * byte)));
    const Bytes content = content_of(i, sizes[i]);
    wire.insert(wire.end(), content.begin(), content.end());
  }
  const size_t pieces[] = {1, 3, 1000, 16'383, 65'536};
  for (size_t p = 0; p < std::size(pieces); ++p) {
    const int socket = raw_connect(*address);
    int flag = 1;
    ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &flag, sizeof flag);
    for (size_t at = 0; at < wire.size(); at += pieces[p])
      ASSERT_GT(::send(socket, wire.data() + at, std::min(pieces[p], wire.size() - at), MSG_NOSIGNAL), 0);
    const Held channel = handler.wait_accepted(p, 5);
    ASSERT_TRUE(channel && handler.wait_count(channel, std::size(sizes)));
    for (uint64_t i = 0; i < std::size(sizes); ++i)
      EXPECT_TRUE(handler.seen(channel).messages[i] == content_of(i, sizes[i])) << pieces[p] << ", message " << i;
    ::close(socket);
  }
}

TEST(TcpTransport, SaysWhereItCannotListen) {
  Recorder handler;
  auto transport = std::move(*make_tcp_transport(handler));
  const auto address = transport->listen("198.51.100.1:4000");  // reserved for documentation: no machine's own
  ASSERT_FALSE(address.ok());
  EXPECT_EQ(address.error().message(), "cannot listen at 198.51.100.1:4000: Cannot assign requested address");
}

TEST(TcpTransport, NamesAndVersion6) {
  Recorder server, client;
  auto there = std::move(*make_tcp_transport(server));
  auto here = std::move(*make_tcp_transport(client));
  const auto address = there->listen("localhost:0");
  ASSERT_TRUE(address.ok()) << address.error().message();
  const Held channel = here->dial("localhost:" + std::to_string(parse_host_port(*address)->port));
  channel->send(content_of(1, 100));
  const Held accepted = server.wait_accepted(0, 5);
  ASSERT_TRUE(accepted && server.wait_count(accepted, 1, 5)) << client.seen(channel).why;

  Recorder server6;
  auto six = std::move(*make_tcp_transport(server6));
  const auto address6 = six->listen("[::1]:0");
  if (!address6.ok()) GTEST_SKIP() << "no IPv6 here: " << address6.error().message();
  EXPECT_TRUE(address6->starts_with("[::1]:")) << *address6;
  const Held channel6 = here->dial(*address6);
  channel6->send(content_of(1, 100));
  const Held accepted6 = server6.wait_accepted(0, 5);
  ASSERT_TRUE(accepted6 && server6.wait_count(accepted6, 1, 5)) << client.seen(channel6).why;
}

}  // namespace
}  // namespace weft
