// What channel.h promises, asked of every transport.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <thread>

#include "base/check.h"
#include "base/socket_address.h"
#include "transfer/local_transport.h"
#include "transfer/tcp_transport.h"
#include "transfer/test_handler.h"
#include "transfer/test_sockets.h"
#include "transfer/ucx_transport.h"

namespace weft {
namespace {

using Clock = std::chrono::steady_clock;
using Seen = Recorder::Seen;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

constexpr size_t kLong = 48 << 20;

// Where the build has put the plugin, for tests, whose program lies in another folder.
void name_plugin() {
#ifdef WEFT_UCX_FILE
  ::setenv("WEFT_UCX_PLUGIN", WEFT_UCX_FILE, 0);
#endif
}

Result<std::unique_ptr<Transport>> make_transport(const std::string& kind, ChannelHandler& handler) {
  name_plugin();
  return kind == "tcp" ? make_tcp_transport(handler) : load_ucx_transport(handler);
}

class Transports : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() != "ucx") return;
    Recorder handler;
    const auto transport = make_transport("ucx", handler);
    if (!transport.ok()) GTEST_SKIP() << transport.error().message();
  }
  std::unique_ptr<Transport> make(ChannelHandler& handler) {
    if (GetParam() == "local") return network_.join("transport" + std::to_string(++joined_), handler);
    auto transport = make_transport(GetParam(), handler);
    WEFT_CHECK(transport.ok()) << transport.error().message();
    return std::move(*transport);
  }
  std::string listen(Transport& transport) {
    const auto address = transport.listen(GetParam() == "local" ? "server" : "127.0.0.1:0");
    WEFT_CHECK(address.ok()) << address.error().message();
    return *address;
  }
  bool local() const { return GetParam() == "local"; }

 private:
  LocalNetwork network_{LocalNetwork::Mode::threads};
  int joined_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Each, Transports, testing::Values("local", "tcp", "ucx"),
                         [](const auto& info) { return info.param; });

// Those that go between processes.
class Networks : public Transports {};

INSTANTIATE_TEST_SUITE_P(Each, Networks, testing::Values("tcp", "ucx"), [](const auto& info) { return info.param; });

// A server that allows long messages at once, and a client connected to it.
struct Pair {
  explicit Pair(const std::function<std::unique_ptr<Transport>(ChannelHandler&)>& make) {
    if (!server.accepted) server.accepted = [](const Held& channel) { channel->allow(kLong); };
    server_side = make(server);
    client_side = make(client);
  }
  Held connect(const std::string& address) {
    const Held channel = client_side->dial(address);
    channel->allow(kLong);
    channel->send({});
    return channel;
  }

  Recorder server, client;
  std::unique_ptr<Transport> server_side, client_side;
};

#define WEFT_PAIR(pair, address)                                        \
  Pair pair([this](ChannelHandler& handler) { return make(handler); }); \
  const std::string address = listen(*pair.server_side)

TEST_P(Transports, MessagesOfAllSizesArriveInOrderBothWays) {
  WEFT_PAIR(pair, address);
  const size_t sizes[] = {0,
                          1,
                          4096,
                          16384,
                          1 << 20,
                          size_t{40} << 20,
                          7,
                          16385,
                          0,
                          8000,
                          8192,
                          65536,
                          65537,
                          300'000,
                          1,
                          1,
                          1,
                          size_t{4} << 20,
                          100'000,
                          100'001,
                          100'002,
                          (1 << 20) + 1,
                          (1 << 14) - 4};
  const Held here = pair.client_side->dial(address);  // sends before it is connected
  here->allow(kLong);
  EXPECT_EQ(here->peer(), address);
  uint64_t number = 0;
  for (const size_t size : sizes) here->send(content_of(number++, size));
  const Held there = pair.server.wait_accepted();
  ASSERT_TRUE(there);
  for (const size_t size : sizes) there->send(content_of(number++, size));
  ASSERT_TRUE(pair.server.wait_count(there, std::size(sizes)));
  ASSERT_TRUE(pair.client.wait_count(here, std::size(sizes)));
  const auto up = pair.server.seen(there).messages, down = pair.client.seen(here).messages;
  for (size_t i = 0; i < std::size(sizes); ++i) {
    EXPECT_TRUE(up[i] == content_of(i, sizes[i])) << "message " << i << " of " << sizes[i] << " bytes";
    EXPECT_TRUE(down[i] == content_of(std::size(sizes) + i, sizes[i])) << "answer " << i;
  }
  for (int tries = 0; tries < 1000 && here->queued_bytes() + there->queued_bytes() > 0; ++tries)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(here->queued_bytes(), 0u);
  EXPECT_EQ(there->queued_bytes(), 0u);
}

TEST_P(Transports, SmallMessagesFromManyThreadsAreWhole) {
  WEFT_PAIR(pair, address);
  const Held here = pair.connect(address);
  constexpr uint64_t kThreads = 4, kEach = 500;
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < kEach; ++i) here->send(content_of(t * kEach + i, 8 + (i * 37) % 3000));
    });
  for (auto& thread : threads) thread.join();
  const Held there = pair.server.wait_accepted();
  ASSERT_TRUE(there && pair.server.wait_count(there, 1 + kThreads * kEach));
  uint64_t next[kThreads] = {};
  for (const Bytes& message : pair.server.seen(there).messages) {
    if (message.empty()) continue;
    bool found = false;
    for (uint64_t t = 0; t < kThreads && !found; ++t) {
      if (next[t] == kEach || message != content_of(t * kEach + next[t], 8 + (next[t] * 37) % 3000)) continue;
      found = true;
      ++next[t];
    }
    ASSERT_TRUE(found) << "a message that was not sent, or not in its thread's order";
  }
}

TEST_P(Transports, AnAddressWithoutListenerIsToldInTime) {
  Recorder handler;
  const auto transport = make(handler);
  const auto begin = Clock::now();
  const Held channel = transport->dial(local() ? "nobody" : "127.0.0.1:9");
  channel->send(content_of(1, 100));
  ASSERT_TRUE(handler.wait_closed(channel, kDialSeconds + 2.0));
  EXPECT_LT(seconds_since(begin), kDialSeconds + 1.0);
  const Seen seen = handler.seen(channel);
  EXPECT_NE(seen.why.find(channel->peer()), std::string::npos) << seen.why;
  EXPECT_EQ(channel->queued_bytes(), 0u);
}

TEST_P(Networks, AWrongAddressIsTold) {
  Recorder handler;
  const auto transport = make(handler);
  const Held channel = transport->dial("127.0.0.1");
  ASSERT_TRUE(handler.wait_closed(channel, 2));
  EXPECT_NE(handler.seen(channel).why.find("the port is missing"), std::string::npos) << handler.seen(channel).why;
  const Held unknown = transport->dial("no-such-host.invalid:80");
  ASSERT_TRUE(handler.wait_closed(unknown, kDialSeconds + 2.0));
  EXPECT_NE(handler.seen(unknown).why.find("no-such-host.invalid"), std::string::npos) << handler.seen(unknown).why;
}

TEST_P(Networks, AHostThatDoesNotAnswerIsToldInTime) {
  // A full queue of connections: the system answers no further ones.
  const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in place{};
  place.sin_family = AF_INET;
  place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof place;
  ASSERT_EQ(::bind(listener, reinterpret_cast<sockaddr*>(&place), size), 0);
  ASSERT_EQ(::listen(listener, 0), 0);
  ::getsockname(listener, reinterpret_cast<sockaddr*>(&place), &size);
  std::vector<int> waiting;
  for (int i = 0; i < 4; ++i) {
    waiting.push_back(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    ::connect(waiting.back(), reinterpret_cast<sockaddr*>(&place), size);
  }
  Recorder handler;
  const auto transport = make(handler);
  const auto begin = Clock::now();
  const Held channel = transport->dial("127.0.0.1:" + std::to_string(ntohs(place.sin_port)));
  channel->send(content_of(1, 100));
  ASSERT_TRUE(handler.wait_closed(channel, kDialSeconds + 5.0));
  EXPECT_LT(seconds_since(begin), kDialSeconds + 1.0);
  for (const int socket : waiting) ::close(socket);
  ::close(listener);
}

TEST_P(Transports, ListeningFailsWithTheReason) {
  Recorder handler;
  const auto one = make(handler), two = make(handler), three = make(handler);
  const std::string address = listen(*one);
  const auto again = one->listen(address);
  ASSERT_FALSE(again.ok());
  EXPECT_NE(again.error().message().find("already"), std::string::npos) << again.error().message();
  const auto taken = two->listen(address);
  ASSERT_FALSE(taken.ok());
  const std::string why = taken.error().message();
  EXPECT_TRUE(why.starts_with("cannot listen at " + address + ": ")) << why;
  if (GetParam() != "ucx") {
    EXPECT_NE(why.find("Address already in use"), std::string::npos) << why;
  }
  if (!local()) {
    EXPECT_FALSE(three->listen("nonsense").ok());
  }
}

TEST_P(Networks, ALoopbackAddressOpensNothingElse) {
  Pair pair([this](ChannelHandler& handler) { return make(handler); });
  const auto listeners = [] {
    std::vector<SocketAddress> found;
    for (int descriptor = 0; descriptor < 1024; ++descriptor) {
      int listens = 0;
      socklen_t size = sizeof listens;
      if (::getsockopt(descriptor, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0 || !listens) continue;
      SocketAddress address;
      address.size = sizeof address.storage;
      ::getsockname(descriptor, reinterpret_cast<sockaddr*>(&address.storage), &address.size);
      if (address.storage.ss_family != AF_UNIX) found.push_back(address);
    }
    return found;
  };
  const std::string address = listen(*pair.server_side);
  const Held here = pair.connect(address);
  const Held there = pair.server.wait_accepted();
  ASSERT_TRUE(there && pair.server.wait_count(there, 1));
  EXPECT_GE(listeners().size(), 1u);
  for (const SocketAddress& one : listeners()) EXPECT_TRUE(one.loopback()) << one.text();
}

TEST(UcxTransport, AnAbsentPluginIsToldWithItsRemedy) {
  name_plugin();
  const char* const present = std::getenv("WEFT_UCX_PLUGIN");
  const std::string before = present ? present : "";
  ::setenv("WEFT_UCX_PLUGIN", "nowhere/libweft_ucx.so", 1);
  Recorder handler;
  const auto transport = load_ucx_transport(handler);
  if (present) ::setenv("WEFT_UCX_PLUGIN", before.c_str(), 1);
  else ::unsetenv("WEFT_UCX_PLUGIN");
  ASSERT_FALSE(transport.ok());
  for (const char* part : {"nowhere/libweft_ucx.so", "libucx-dev", "-DWEFT_UCX=ON"})
    EXPECT_NE(transport.error().message().find(part), std::string::npos) << transport.error().message();
}

TEST_P(Transports, ClosingIsSeenOnBothSides) {
  WEFT_PAIR(pair, address);
  const Held here = pair.connect(address);
  const Held there = pair.server.wait_accepted();
  ASSERT_TRUE(there && pair.server.wait_count(there, 1));
  here->close();
  here->close();
  ASSERT_TRUE(pair.client.wait_closed(here, 5));
  ASSERT_TRUE(pair.server.wait_closed(there, 5));
  here->send(content_of(1, 10)), there->send(content_of(1, 10));
  here->close(), there->close();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  for (const Seen& seen : {pair.client.seen(here), pair.server.seen(there)}) {
    EXPECT_EQ(seen.closed, 1);
    EXPECT_FALSE(seen.late);
  }
  EXPECT_NE(pair.server.seen(there).why.find(there->peer()), std::string::npos) << pair.server.seen(there).why;
}

TEST_P(Transports, TheEndOfATransportIsSeenOnBothSides) {
  WEFT_PAIR(pair, address);
  const Held here = pair.connect(address);
  const Held there = pair.server.wait_accepted();
  ASSERT_TRUE(there && pair.server.wait_count(there, 1));
  pair.client_side.reset();
  EXPECT_EQ(pair.client.seen(here).closed, 1);
  ASSERT_TRUE(pair.server.wait_closed(there, 5));
  here->send(content_of(1, 10));
  here->close();
}

TEST_P(Transports, AMessageThatIsTooLongEndsTheConnection) {
  Pair pair([this](ChannelHandler& handler) { return make(handler); });
  pair.server.accepted = [](const Held&) {};
  pair.server.message = [](const Held& channel, auto message) {
    if (message.size() == kFirstMessageBytes) channel->allow(1 << 20);
  };
  const std::string address = listen(*pair.server_side);
  const Held first = pair.client_side->dial(address);
  first->send(content_of(1, kFirstMessageBytes + 1));
  const Held there = pair.server.wait_accepted();
  ASSERT_TRUE(there && pair.server.wait_closed(there, 5));
  EXPECT_EQ(pair.server.seen(there).count, 0u);
  const std::string why = pair.server.seen(there).why;
  EXPECT_NE(why.find("16385 bytes where 16384 are allowed"), std::string::npos) << why;
  ASSERT_TRUE(pair.client.wait_closed(first, 5));

  const Held second = pair.client_side->dial(address);
  second->send(content_of(2, kFirstMessageBytes));
  second->send(content_of(3, 1 << 20));
  second->send(content_of(4, (1 << 20) + 1));
  const Held other = pair.server.wait_accepted(1);
  ASSERT_TRUE(other && pair.server.wait_closed(other, 5));
  EXPECT_EQ(pair.server.seen(other).count, 2u);
  ASSERT_TRUE(pair.client.wait_closed(second, 5));
}

TEST_P(Transports, CloseWithinAnEvent) {
  Pair pair([this](ChannelHandler& handler) { return make(handler); });
  std::atomic<int> accepted{0};
  pair.server.accepted = [&](const Held& channel) {
    if (++accepted == 1) channel->close();
  };
  pair.server.message = [](const Held& channel, auto) { channel->close(); };
  const std::string address = listen(*pair.server_side);
  const Held first = pair.connect(address);
  ASSERT_TRUE(pair.client.wait_closed(first, 5));
  const Held second = pair.client_side->dial(address);
  for (uint64_t i = 0; i < 20; ++i) second->send(content_of(i, 1000));
  ASSERT_TRUE(pair.client.wait_closed(second, 5));
  for (size_t i = 0; i < 2; ++i) {
    const Held there = pair.server.wait_accepted(i);
    ASSERT_TRUE(there && pair.server.wait_closed(there, 5));
    const Seen seen = pair.server.seen(there);
    EXPECT_EQ(seen.count, i);
    EXPECT_EQ(seen.closed, 1);
    EXPECT_FALSE(seen.late);
  }
}

TEST_P(Transports, ASlowReceiverShowsInTheSendersQueue) {
  Pair pair([this](ChannelHandler& handler) { return make(handler); });
  std::atomic<bool> go{false};
  pair.server.keep_messages = false;
  pair.server.message = [&](const Held&, auto) {
    while (!go) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  };
  const std::string address = listen(*pair.server_side);
  const Held here = pair.connect(address);
  constexpr size_t kCount = 64;
  for (size_t i = 0; i < kCount; ++i) here->send(content_of(i, 1 << 20));
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_GT(here->queued_bytes(), size_t{32} << 20);  // the system's own buffers hold a few MB
  EXPECT_EQ(pair.client.seen(here).drained, 0);
  go = true;
  ASSERT_TRUE(pair.client.wait(here, [](const Seen& seen) { return seen.drained > 0; }));
  EXPECT_LE(pair.client.seen(here).queued_at_drained, kDrainedBytes);
  const Held there = pair.server.wait_accepted();
  ASSERT_TRUE(there && pair.server.wait_count(there, 1 + kCount));
  EXPECT_EQ(pair.client.seen(here).drained, 1);
}

TEST_P(Transports, FiftyChannelsAtOnce) {
  WEFT_PAIR(pair, address);
  pair.server.message = [](const Held& channel, auto message) { channel->send({message.begin(), message.end()}); };
  constexpr uint64_t kChannels = 50, kMessages = 20;
  std::vector<Held> channels;
  for (uint64_t c = 0; c < kChannels; ++c) channels.push_back(pair.connect(address));
  const auto bytes_of = [](uint64_t c, uint64_t m) { return size_t{100} + (c * 7919 + m * 104729) % 200'000; };
  for (uint64_t m = 0; m < kMessages; ++m)
    for (uint64_t c = 0; c < kChannels; ++c) channels[c]->send(content_of(c * kMessages + m, bytes_of(c, m)));
  for (uint64_t c = 0; c < kChannels; ++c) {
    ASSERT_TRUE(pair.client.wait_count(channels[c], 1 + kMessages)) << pair.client.seen(channels[c]).why;
    const auto messages = pair.client.seen(channels[c]).messages;
    for (uint64_t m = 0; m < kMessages; ++m)
      ASSERT_TRUE(messages[1 + m] == content_of(c * kMessages + m, bytes_of(c, m))) << "channel " << c << ", " << m;
  }
}

TEST_P(Transports, TheTransportEndsWithTrafficUnderWay) {
  for (int round = 0; round < 6; ++round) {
    WEFT_PAIR(pair, address);
    pair.server.keep_messages = pair.client.keep_messages = false;
    pair.server.message = [](const Held& channel, auto message) { channel->send({message.begin(), message.end()}); };
    std::vector<Held> channels;
    for (int i = 0; i < 4; ++i) channels.push_back(pair.connect(address));
    std::atomic<bool> stop{false};
    std::thread sender([&] {
      for (uint64_t i = 0; !stop; ++i)
        for (const Held& channel : channels)
          if (channel->queued_bytes() < kDrainedBytes) channel->send(Bytes((i * 50'021) % 700'000));
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(30 + 20 * round));
    (round % 2 ? pair.client_side : pair.server_side).reset();
    (round % 2 ? pair.server_side : pair.client_side).reset();
    stop = true;
    sender.join();
    for (const Held& channel : channels) {
      EXPECT_EQ(pair.client.seen(channel).closed, 1);
      EXPECT_FALSE(pair.client.seen(channel).late);
    }
    for (size_t i = 0; i < pair.server.accepted_count(); ++i)
      EXPECT_EQ(pair.server.seen(pair.server.wait_accepted(i)).closed, 1);
  }
}

TEST_P(Transports, DiallingAgainWithinTheLastEvent) {
  Recorder handler;
  auto transport = make(handler);
  std::atomic<int> dialled{0};
  handler.closed = [&, raw = transport.get()](const Held& channel) {
    if (++dialled < 5) raw->dial(channel->peer());
  };
  transport->dial(local() ? "nobody" : "127.0.0.1:9");
  for (int tries = 0; tries < 1000 && dialled < 5; ++tries) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(dialled, 5);
  dialled = 0;
  Recorder server_handler;
  const auto server = make(server_handler);
  const Held channel = transport->dial(listen(*server));
  transport.reset();  // dials within on_closed(), which comes to nothing
  EXPECT_EQ(dialled, 1);
}

// ---- Another process
// -------------------------------------------------------------------------------------------------

// Runs in a process of its own, which a test below starts: connects to where the environment says, sends two messages
// and then whatever it gets back, until it is killed.
TEST(TransportPeer, DISABLED_Process) {
  const char* kind = std::getenv("WEFT_TEST_KIND");
  const char* address = std::getenv("WEFT_TEST_ADDRESS");
  ASSERT_TRUE(kind && address);
  Recorder handler;
  handler.message = [](const Held& channel, auto message) { channel->send({message.begin(), message.end()}); };
  const auto transport = make_transport(kind, handler);
  ASSERT_TRUE(transport.ok()) << transport.error().message();
  const Held channel = (*transport)->dial(address);
  channel->allow(kLong);
  channel->send(content_of(1, 10));
  channel->send(content_of(2, 3'000'000));
  EXPECT_TRUE(handler.wait_closed(channel));
}

pid_t start_peer(const std::string& kind, const std::string& address) {
  ::setenv("WEFT_TEST_KIND", kind.c_str(), 1);
  ::setenv("WEFT_TEST_ADDRESS", address.c_str(), 1);
  std::string program = "/proc/self/exe", filter = "--gtest_filter=TransportPeer.DISABLED_Process",
              disabled = "--gtest_also_run_disabled_tests", brief = "--gtest_brief=1";
  char* const arguments[] = {program.data(), filter.data(), disabled.data(), brief.data(), nullptr};
  pid_t pid = 0;
  WEFT_CHECK(::posix_spawn(&pid, "/proc/self/exe", nullptr, nullptr, arguments, environ) == 0);
  return pid;
}

TEST_P(Networks, AKilledProcessIsNoticed) {
  for (const bool busy : {false, true}) {
    Recorder handler;
    handler.keep_messages = !busy;
    handler.accepted = [](const Held& channel) { channel->allow(kLong); };
    const auto transport = make(handler);
    const pid_t peer = start_peer(GetParam(), listen(*transport));
    const Held channel = handler.wait_accepted(0, 20);
    ASSERT_TRUE(channel && handler.wait_count(channel, 2));
    if (!busy) {
      EXPECT_TRUE(handler.seen(channel).messages[1] == content_of(2, 3'000'000));
    }
    for (uint64_t i = 0; busy && i < 200; ++i) channel->send(content_of(i, 1'000'000));
    if (busy) {
      ASSERT_TRUE(handler.wait_count(channel, 5));
    }
    ::kill(peer, SIGKILL);
    const auto begin = Clock::now();
    EXPECT_TRUE(handler.wait_closed(channel, 10));
    EXPECT_LT(seconds_since(begin), 5.0);
    EXPECT_EQ(channel->queued_bytes(), 0u);
    int status = 0;
    ::waitpid(peer, &status, 0);
    EXPECT_TRUE(WIFSIGNALED(status));
  }
}

// ---- Sockets that are no peers
// ---------------------------------------------------------------------------------------

TEST_P(Networks, GarbageEndsItsConnectionAlone) {
  WEFT_PAIR(pair, address);
  pair.server.accepted = nullptr;
  pair.server.message = [](const Held& channel, auto message) { channel->send({message.begin(), message.end()}); };
  const Held good = pair.connect(address);
  ASSERT_TRUE(pair.client.wait_count(good, 1));
  for (uint64_t i = 0; i < 20; ++i) {
    const int socket = raw_connect(address);
    Bytes garbage = content_of(i, 1 + i * i * 100);
    if (garbage.size() >= 4) garbage[3] = std::byte{0xf0};  // a length of 3.7 GB or more
    [[maybe_unused]] const auto sent = ::send(socket, garbage.data(), garbage.size(), MSG_NOSIGNAL);
    if (GetParam() == "tcp" && garbage.size() >= 4) {
      EXPECT_TRUE(ends_within(socket, 2)) << i;
    }
    ::close(socket);
  }
  good->send(content_of(1, 10'000));
  EXPECT_TRUE(pair.client.wait_count(good, 2, 5));
  EXPECT_EQ(pair.client.seen(good).closed, 0);
}

}  // namespace
}  // namespace weft
