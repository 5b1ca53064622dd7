// The network within a process where the test takes the steps: nothing happens by itself, faults are the hook's.
#include "transfer/local_transport.h"

#include <gtest/gtest.h>

#include <random>

#include "transfer/test_handler.h"

namespace weft {
namespace {

class Steps : public testing::Test {
 protected:
  Steps() {
    server_side_ = network_.join("server", server_);
    client_side_ = network_.join("client", client_);
    EXPECT_TRUE(server_side_->listen("place").ok());
  }
  // Both ends of a connection.
  std::pair<Held, Held> connect() {
    const Held here = client_side_->dial("place");
    while (network_.step()) {
    }
    return {here, server_.wait_accepted(server_.accepted_count() - 1, 0)};
  }
  void run() {
    while (network_.step()) {
    }
  }
  // The first bytes of the messages that a channel got.
  static std::string received(Recorder& recorder, const Held& channel) {
    std::string text;
    for (const Bytes& message : recorder.seen(channel).messages) text += static_cast<char>(message.front());
    return text;
  }
  static void send(const Held& channel, const std::string& letters) {
    for (const char letter : letters) channel->send(Bytes(10, static_cast<std::byte>(letter)));
  }

  LocalNetwork network_{LocalNetwork::Mode::steps};
  Recorder server_, client_;
  std::unique_ptr<Transport> server_side_, client_side_;
};

TEST_F(Steps, NothingComesWithoutAStep) {
  const Held here = client_side_->dial("place");
  send(here, "ab");
  EXPECT_EQ(here->queued_bytes(), 20u);
  EXPECT_EQ(network_.choices(), 1u);
  EXPECT_EQ(server_.accepted_count(), 0u);
  EXPECT_TRUE(network_.step());
  const Held there = server_.wait_accepted(0, 0);
  ASSERT_TRUE(there);
  EXPECT_EQ(there->peer(), "client");
  EXPECT_EQ(received(server_, there), "");
  EXPECT_TRUE(network_.step());
  EXPECT_EQ(received(server_, there), "a");
  EXPECT_EQ(here->queued_bytes(), 10u);
  EXPECT_TRUE(network_.step());
  EXPECT_EQ(received(server_, there), "ab");
  EXPECT_FALSE(network_.step());
}

TEST_F(Steps, TheTestChoosesWhoIsNext) {
  const auto [one, one_there] = connect();
  const auto [two, two_there] = connect();
  send(one, "ab"), send(two, "cd");
  EXPECT_EQ(network_.choices(), 2u);
  EXPECT_TRUE(network_.step(1));
  EXPECT_EQ(received(server_, two_there), "c");
  EXPECT_TRUE(network_.step(3));  // modulo two
  EXPECT_EQ(received(server_, two_there), "cd");
  EXPECT_EQ(received(server_, one_there), "");
  EXPECT_TRUE(network_.step(1));  // there is only one left
  EXPECT_EQ(received(server_, one_there), "a");
}

TEST_F(Steps, TheHooksFaults) {
  std::string asked;
  network_.set_hook([&](const std::string& from, const std::string& to, std::span<const std::byte> message) {
    asked += from + ">" + to + " ";
    switch (static_cast<char>(message.front())) {
      case 'x': return LocalFault{LocalFault::drop};
      case '2': return LocalFault{LocalFault::duplicate};
      case 'o': return LocalFault{LocalFault::overtake, 3};
      case 'w': return LocalFault{LocalFault::delay, 3};
      default: return LocalFault{};
    }
  });
  const auto [here, there] = connect();
  send(here, "axb2c");
  run();
  EXPECT_EQ(received(server_, there), "ab22c");
  EXPECT_EQ(asked, "client>server client>server client>server client>server client>server ");
  EXPECT_EQ(here->queued_bytes(), 0u);

  const auto [late, late_there] = connect();
  send(late, "aobcde");
  run();
  EXPECT_EQ(received(server_, late_there), "abcode");

  const auto [slow, slow_there] = connect();
  send(slow, "wab");
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(network_.choices(), 0u);
    EXPECT_TRUE(network_.step());
  }
  EXPECT_EQ(received(server_, slow_there), "");
  run();
  EXPECT_EQ(received(server_, slow_there), "wab");

  send(there, "z");
  EXPECT_TRUE(asked.ends_with("server>client "));
}

TEST_F(Steps, ConnectionsAreCutByTheHookAndFromOutside) {
  network_.set_hook([&](const std::string&, const std::string&, std::span<const std::byte> message) {
    return LocalFault{message.front() == std::byte{'!'} ? LocalFault::cut : LocalFault::deliver};
  });
  const auto [one, one_there] = connect();
  const auto [two, two_there] = connect();
  send(one, "ab!c");
  run();
  EXPECT_EQ(received(server_, one_there), "");  // lost with the connection
  EXPECT_EQ(client_.seen(one).closed, 1);
  EXPECT_EQ(server_.seen(one_there).closed, 1);
  EXPECT_EQ(client_.seen(two).closed, 0);

  send(two_there, "ab");
  network_.cut("server", "client");
  EXPECT_EQ(client_.seen(two).closed, 0);  // comes with a step, as all events
  run();
  EXPECT_EQ(received(client_, two), "");
  EXPECT_EQ(client_.seen(two).closed, 1);
  EXPECT_EQ(server_.seen(two_there).closed, 1);
  EXPECT_NE(client_.seen(two).why.find("cut"), std::string::npos);
}

TEST_F(Steps, ClosingLetsArriveWhatIsUnderWay) {
  const auto [here, there] = connect();
  send(here, "ab");
  here->close();
  run();
  EXPECT_EQ(received(server_, there), "ab");
  EXPECT_EQ(server_.seen(there).closed, 1);
  EXPECT_FALSE(server_.seen(there).late);
}

TEST_F(Steps, WhoWasNotAcceptedYetIsNotClosedAtTheEnd) {
  const Held here = client_side_->dial("place");
  server_side_.reset();
  run();
  EXPECT_EQ(server_.accepted_count(), 0u);
  EXPECT_EQ(client_.seen(here).closed, 1);
}

TEST_F(Steps, TheSameChoicesGiveTheSameRun) {
  const auto trace = [](uint32_t seed) {
    LocalNetwork network(LocalNetwork::Mode::steps);
    std::mt19937 random(seed);
    std::string text;
    Recorder server, client;
    server.message = [&](const Held& channel, auto message) {
      text += static_cast<char>(message.front());
      if (message.front() < std::byte{'e'}) channel->send(Bytes(1, std::byte{'.'}));
    };
    client.message = [&](const Held&, auto message) { text += static_cast<char>(message.front()); };
    const auto there = network.join("server", server), here = network.join("client", client);
    EXPECT_TRUE(there->listen("place").ok());
    for (int i = 0; i < 4; ++i) {
      const Held channel = here->dial("place");
      for (int m = 0; m < 4; ++m) channel->send(Bytes(1, static_cast<std::byte>('a' + 4 * i + m)));
    }
    while (network.step(random())) {
    }
    EXPECT_EQ(text.size(), 16u + 4u);
    return text;
  };
  EXPECT_EQ(trace(1), trace(1));
  EXPECT_NE(trace(1), trace(2));
}

}  // namespace
}  // namespace weft
