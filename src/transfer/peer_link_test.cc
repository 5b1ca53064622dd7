#include "transfer/peer_link.h"

#include <gtest/gtest.h>

#include <deque>

#include "base/check.h"
#include "base/hmac.h"

namespace weft {
namespace {

using Bytes = std::vector<std::byte>;

class TestChannel final : public Channel {
 public:
  void send(Bytes message) override { sent.push_back(std::move(message)); }
  size_t queued_bytes() const override { return 0; }
  void allow(size_t message_bytes) override { allowed = message_bytes; }
  void close() noexcept override {}
  const std::string& peer() const override { return peer_; }
  // The next message that was sent.
  TransferMessage next() {
    WEFT_CHECK(!sent.empty()) << "nothing was sent";
    bytes_ = std::move(sent.front());
    sent.pop_front();
    auto message = decode(bytes_);
    WEFT_CHECK(message.ok()) << message.error().message();
    return std::move(*message);
  }
  std::deque<Bytes> sent;
  size_t allowed = 0;

 private:
  const std::string peer_ = "10.0.0.7:1";
  Bytes bytes_;
};

constexpr char kIdentity[] = "program: weft 1\nmodel: x\ndtype: float32\n";

// One end, whose nonces are numbers counted from `first` on.
struct End {
  End(bool accepted, std::string secret, std::string identity, uint8_t first, double now = 0)
      : next_nonce(first), options{std::move(identity), std::move(secret),
                                   [this] {
                                     Nonce nonce{};
                                     nonce[5] = next_nonce++;
                                     return nonce;
                                   }},
        link(channel, accepted, options, now) {}
  std::shared_ptr<TestChannel> channel = std::make_shared<TestChannel>();
  uint8_t next_nonce;
  LinkOptions options;
  PeerLink link;
};

// Hands over what both have sent until nobody sends or one has an error, which is returned.
Status exchange(End& one, End& other, double now = 0) {
  while (!one.channel->sent.empty() || !other.channel->sent.empty())
    for (auto& [from, to] : {std::pair<End&, End&>(one, other), std::pair<End&, End&>(other, one)})
      while (!from.channel->sent.empty()) {
        const auto taken = to.link.take(from.channel->next(), now);
        if (!taken.ok()) return taken.error();
        EXPECT_FALSE(*taken) << "a greeting is nobody else's business";
      }
  return {};
}

struct Pair {
  explicit Pair(std::string secret = "s", std::string identity = kIdentity)
      : accepting(true, "s", kIdentity, 10), asking(false, std::move(secret), std::move(identity), 90) {}
  End accepting, asking;
};

TEST(PeerLink, EqualServersBecomeReady) {
  for (const char* secret : {"s", ""}) {
    End accepting(true, secret, kIdentity, 1), asking(false, secret, kIdentity, 2);
    EXPECT_FALSE(accepting.link.ready() || asking.link.ready());
    const Status greeted = exchange(accepting, asking);
    ASSERT_TRUE(greeted.ok()) << greeted.error().message();
    EXPECT_TRUE(accepting.link.ready() && asking.link.ready());
    EXPECT_EQ(accepting.channel->allowed, kLongestMessage);
    EXPECT_EQ(asking.channel->allowed, kLongestMessage);
  }
}

TEST(PeerLink, ProofsAreOfBothNonces) {
  Pair pair;
  const auto hello = std::get<HelloMessage>(pair.accepting.channel->next());
  EXPECT_EQ(hello.version, kTransferVersion);
  EXPECT_EQ(hello.nonce[5], 10);
  ASSERT_TRUE(pair.asking.link.take(hello, 0).ok());
  const auto answer = std::get<AnswerMessage>(pair.asking.channel->next());
  std::string nonces(64, '\0');
  nonces[5] = 10, nonces[37] = 90;
  EXPECT_EQ(answer.proof, hmac_sha256("s", "weft transfer, who asks\n" + nonces + kIdentity));
  ASSERT_TRUE(pair.accepting.link.take(answer, 0).ok());
  EXPECT_EQ(std::get<WelcomeMessage>(pair.accepting.channel->next()).proof,
            hmac_sha256("s", "weft transfer, who answers\n" + nonces + kIdentity));
}

TEST(PeerLink, AnotherSecretIsToldNothing) {
  for (const char* secret : {"t", "", "ss"})
    for (const char* identity : {kIdentity, "model: other\n"}) {
      Pair pair(secret, identity);
      ASSERT_TRUE(pair.asking.link.take(pair.accepting.channel->next(), 0).ok());
      const auto taken = pair.accepting.link.take(pair.asking.channel->next(), 0);
      ASSERT_FALSE(taken.ok());
      EXPECT_EQ(taken.error().code(), Code::unavailable);
      EXPECT_EQ(taken.error().message(), "the secret of --kv-transfer-secret-file is another one");
      ASSERT_EQ(pair.accepting.channel->sent.size(), 1u);
      const auto refused = std::get<RefusedMessage>(pair.accepting.channel->next());
      EXPECT_EQ(refused.why, "the secret of --kv-transfer-secret-file is another one");
      EXPECT_FALSE(pair.accepting.link.ready());
      EXPECT_EQ(pair.accepting.channel->allowed, 0u) << "long messages of a stranger";
      const auto heard = pair.asking.link.take(refused, 0);
      ASSERT_FALSE(heard.ok());
      EXPECT_EQ(heard.error().message(), "10.0.0.7:1 refuses: the secret of --kv-transfer-secret-file is another one");
    }
}

TEST(PeerLink, ARefusalNamesExactlyWhatDiffers) {
  Pair pair("s", "program: weft 1\nmodel: y\ndraft: z\n");
  const Status greeted = exchange(pair.accepting, pair.asking);
  ASSERT_FALSE(greeted.ok());
  EXPECT_EQ(greeted.error().code(), Code::unavailable);
  EXPECT_EQ(greeted.error().message(),
            "the servers differ: draft: none here, z there; dtype: float32 here, none there; model: x here, y there");
  const auto refused = std::get<RefusedMessage>(pair.accepting.channel->next());
  EXPECT_EQ(refused.why, greeted.error().message());
  EXPECT_FALSE(pair.accepting.link.ready() || pair.asking.link.ready());
}

TEST(PeerLink, DifferencesAreShort) {
  EXPECT_EQ(differences("a: 1\nb: 2\n", "a: 1\nb: 2\n"), "");
  EXPECT_EQ(differences("a: 1: 2\n", "a: 1: 3\nno line\n"), "a: 1: 2 here, 1: 3 there");
  EXPECT_EQ(differences("a: " + std::string(300, 'x') + "\n", ""), "a: " + std::string(200, 'x') + " here, none there");
}

// A server with the identity but without the secret that pretends to have been asked.
TEST(PeerLink, WhoAnswersKnowsTheSecretToo) {
  End accepting(true, "s", kIdentity, 1), asking(false, "t", kIdentity, 2);
  ASSERT_TRUE(asking.link.take(accepting.channel->next(), 0).ok());
  asking.channel->next();
  const auto taken = asking.link.take(WelcomeMessage{hmac_sha256("s", "anything")}, 0);
  ASSERT_FALSE(taken.ok());
  EXPECT_EQ(taken.error().message(), "10.0.0.7:1 does not know the secret of --kv-transfer-secret-file");
  EXPECT_FALSE(asking.link.ready());
}

TEST(PeerLink, OtherVersionsAreNamed) {
  Pair pair;
  const auto heard = pair.asking.link.take(HelloMessage{kTransferVersion + 1, {}}, 0);
  ASSERT_FALSE(heard.ok());
  EXPECT_EQ(heard.error().code(), Code::unavailable);
  EXPECT_EQ(heard.error().message(), "10.0.0.7:1 speaks version 4 of the protocol, this is 3");
  EXPECT_TRUE(pair.asking.channel->sent.empty()) << "an answer to another protocol";

  pair.accepting.channel->next();
  const auto answered = pair.accepting.link.take(AnswerMessage{kTransferVersion + 1, {}, kIdentity, {}}, 0);
  ASSERT_FALSE(answered.ok());
  EXPECT_EQ(std::get<RefusedMessage>(pair.accepting.channel->next()).why, "version 4 of the protocol, this is 3");
}

TEST(PeerLink, ProofsOfAnotherConnectionAreWorthNothing) {
  Pair first;
  ASSERT_TRUE(first.asking.link.take(first.accepting.channel->next(), 0).ok());
  const auto answer = std::get<AnswerMessage>(first.asking.channel->next());
  ASSERT_TRUE(first.accepting.link.take(answer, 0).ok());
  const auto welcome = std::get<WelcomeMessage>(first.accepting.channel->next());

  End accepting(true, "s", kIdentity, 11);
  accepting.channel->next();
  EXPECT_FALSE(accepting.link.take(answer, 0).ok());
  EXPECT_FALSE(accepting.link.ready());

  // The hello of the first connection as well, by somebody who only heard it; this side's nonce is another.
  End asking(false, "s", kIdentity, 91);
  Nonce nonce{};
  nonce[5] = 10;
  ASSERT_TRUE(asking.link.take(HelloMessage{kTransferVersion, nonce}, 0).ok());
  EXPECT_FALSE(asking.link.take(welcome, 0).ok());
  EXPECT_FALSE(asking.link.ready());

  // Nor is a proof of use in the other direction.
  Pair mirrored;
  ASSERT_TRUE(mirrored.asking.link.take(mirrored.accepting.channel->next(), 0).ok());
  const auto own = std::get<AnswerMessage>(mirrored.asking.channel->next());
  EXPECT_FALSE(mirrored.asking.link.take(WelcomeMessage{own.proof}, 0).ok());
}

TEST(PeerLink, MessagesOutOfTheirOrderAreErrors) {
  const std::vector<TransferMessage> all = {HelloMessage{},    AnswerMessage{}, WelcomeMessage{}, ComputeMessage{},
                                            SendMessage{},     CancelMessage{}, PartMessage{},    FeaturesMessage{},
                                            ProgressMessage{}, DoneMessage{},   PingMessage{},    PongMessage{}};
  for (const TransferMessage& message : all) {
    End accepting(true, "s", kIdentity, 1), asking(false, "s", kIdentity, 2);
    const auto to_accepting = accepting.link.take(message, 0);
    EXPECT_FALSE(to_accepting.ok()) << "kind " << message.index() << " instead of an answer";
    EXPECT_FALSE(accepting.link.ready());
    if (std::holds_alternative<HelloMessage>(message)) continue;
    const auto to_asking = asking.link.take(message, 0);
    EXPECT_FALSE(to_asking.ok()) << "kind " << message.index() << " instead of a hello";
    EXPECT_FALSE(asking.link.ready());
  }
  for (const TransferMessage& greeting : {all[0], all[1], all[2]})
    for (const bool at_accepting : {true, false}) {
      Pair pair;
      ASSERT_TRUE(exchange(pair.accepting, pair.asking).ok());
      const auto taken = (at_accepting ? pair.accepting : pair.asking).link.take(greeting, 0);
      ASSERT_FALSE(taken.ok());
      EXPECT_EQ(taken.error().message(), "10.0.0.7:1 greets twice");
    }
}

// Else the one who is asked could have proofs for nonces of his choice as often as he likes.
TEST(PeerLink, AHelloComesOnce) {
  Pair pair;
  const TransferMessage hello = pair.accepting.channel->next();
  ASSERT_TRUE(pair.asking.link.take(hello, 0).ok());
  EXPECT_FALSE(pair.asking.link.take(hello, 0).ok());
}

TEST(PeerLink, AWelcomeBeforeAHelloIsNone) {
  End asking(false, "s", kIdentity, 2);
  const std::string nonces(64, '\0');
  const WelcomeMessage welcome{hmac_sha256("s", "weft transfer, who answers\n" + nonces + kIdentity)};
  EXPECT_FALSE(asking.link.take(welcome, 0).ok());
  EXPECT_FALSE(asking.link.ready());
}

TEST(PeerLink, MessagesOfTheOthersAreHandedOnOnceReady) {
  Pair pair;
  ASSERT_TRUE(exchange(pair.accepting, pair.asking).ok());
  for (const TransferMessage& message :
       {TransferMessage(ComputeMessage{}), TransferMessage(SendMessage{}), TransferMessage(CancelMessage{}),
        TransferMessage(PartMessage{}), TransferMessage(FeaturesMessage{}), TransferMessage(ProgressMessage{}),
        TransferMessage(DoneMessage{})}) {
    const auto taken = pair.accepting.link.take(message, 0);
    ASSERT_TRUE(taken.ok());
    EXPECT_TRUE(*taken) << message.index();
  }
  EXPECT_TRUE(pair.accepting.channel->sent.empty());
  const auto refused = pair.accepting.link.take(RefusedMessage{"gone"}, 0);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().message(), "10.0.0.7:1 refuses: gone");
}

TEST(PeerLink, WhatIsSentBeforeGoesOutAfterwardsInOrder) {
  Pair pair;
  for (const uint64_t ticket : {1, 2, 3}) pair.asking.link.send(encode(CancelMessage{ticket}));
  EXPECT_TRUE(pair.asking.channel->sent.empty());
  ASSERT_TRUE(pair.asking.link.take(pair.accepting.channel->next(), 0).ok());
  ASSERT_EQ(pair.asking.channel->sent.size(), 1u) << "only the answer";
  ASSERT_TRUE(pair.accepting.link.take(pair.asking.channel->next(), 0).ok());
  ASSERT_TRUE(pair.asking.link.take(pair.accepting.channel->next(), 0).ok());
  pair.asking.link.send(encode(CancelMessage{4}));
  for (const uint64_t ticket : {1, 2, 3, 4})
    EXPECT_EQ(std::get<CancelMessage>(pair.asking.channel->next()).ticket, ticket);
  EXPECT_TRUE(pair.asking.channel->sent.empty());
}

void expect_silent(const Status& status, const std::string& what) {
  ASSERT_FALSE(status.ok()) << what;
  EXPECT_EQ(status.error().code(), Code::deadline_exceeded) << status.error().message();
  EXPECT_NE(status.error().message().find(what), std::string::npos) << status.error().message();
}

TEST(PeerLink, WhoDoesNotGreetIsLeft) {
  for (const bool accepted : {true, false}) {
    End end(accepted, "s", kIdentity, 1, 100);
    EXPECT_TRUE(end.link.tick(100).ok());
    EXPECT_TRUE(end.link.tick(100 + kGreetingSeconds).ok());
    expect_silent(end.link.tick(100.01 + kGreetingSeconds), "10.0.0.7:1 did not greet within 5 s");
  }
  // Half a greeting does not give more time.
  Pair pair;
  ASSERT_TRUE(pair.asking.link.take(pair.accepting.channel->next(), 4).ok());
  expect_silent(pair.asking.link.tick(5.1), "did not greet");
}

TEST(PeerLink, WhoConnectedPingsEachSecond) {
  Pair pair;
  ASSERT_TRUE(exchange(pair.accepting, pair.asking).ok());
  ASSERT_TRUE(pair.asking.link.tick(1).ok() && pair.accepting.link.tick(1.5).ok());
  EXPECT_TRUE(pair.asking.channel->sent.empty() && pair.accepting.channel->sent.empty());
  ASSERT_TRUE(pair.asking.link.tick(1.1).ok());
  ASSERT_EQ(pair.asking.channel->sent.size(), 1u);
  ASSERT_TRUE(pair.asking.link.tick(2).ok());
  EXPECT_EQ(pair.asking.channel->sent.size(), 1u) << "a ping a second is enough";
  const TransferMessage ping = pair.asking.channel->next();
  EXPECT_TRUE(std::holds_alternative<PingMessage>(ping));
  const auto taken = pair.accepting.link.take(ping, 2);
  ASSERT_TRUE(taken.ok());
  EXPECT_FALSE(*taken);
  const TransferMessage pong = pair.accepting.channel->next();
  EXPECT_TRUE(std::holds_alternative<PongMessage>(pong));
  const auto answered = pair.asking.link.take(pong, 2);
  ASSERT_TRUE(answered.ok());
  EXPECT_FALSE(*answered);
  // Both have heard of each other.
  EXPECT_TRUE(pair.asking.link.tick(2 + kSilenceSeconds).ok());
  EXPECT_TRUE(pair.accepting.link.tick(2 + kSilenceSeconds).ok());
}

TEST(PeerLink, TheDeadAreLeft) {
  for (const bool accepting : {true, false}) {
    Pair pair;
    ASSERT_TRUE(exchange(pair.accepting, pair.asking).ok());
    End& end = accepting ? pair.accepting : pair.asking;
    for (double now = 0; now <= kSilenceSeconds; now += 0.25) ASSERT_TRUE(end.link.tick(now).ok()) << now;
    expect_silent(end.link.tick(0.1 + kSilenceSeconds), "10.0.0.7:1 said nothing for 6 s");
    // The side that asks has asked each second; the other has not.
    EXPECT_EQ(end.channel->sent.size(), accepting ? 0u : 4u);
  }
}

// A long prompt: blocks come all the time, and there is nothing to be said to who sends them.
TEST(PeerLink, BothAreAliveWhileOnlyOneHasSomethingToSay) {
  Pair pair;
  ASSERT_TRUE(exchange(pair.accepting, pair.asking).ok());
  for (double now = 0; now < 100; now += 0.1) {
    ASSERT_TRUE(pair.asking.link.take(ProgressMessage{1, 2}, now).ok());
    for (End* end : {&pair.asking, &pair.accepting}) {
      const Status status = end->link.tick(now);
      ASSERT_TRUE(status.ok()) << status.error().message() << " at " << now;
    }
    ASSERT_TRUE(exchange(pair.accepting, pair.asking, now).ok());
  }
}

}  // namespace
}  // namespace weft
