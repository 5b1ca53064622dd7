#include "runtime/prefix_provider.h"

#include <gtest/gtest.h>

#include "runtime/small_memory.h"
#include "sched/driver.h"

namespace weft {
namespace {

// Keeps what is sent.
class KeepingChannel final : public Channel {
 public:
  void send(std::vector<std::byte> message) override { sent.push_back(std::move(message)); }
  size_t queued_bytes() const override { return 0; }
  void allow(size_t) override {}
  void close() noexcept override {}
  const std::string& peer() const override { return peer_; }
  std::vector<std::vector<std::byte>> sent;

 private:
  const std::string peer_ = "asks:1";
};

class PrefixProviderTest : public ::testing::Test {
 protected:
  // A provider whose other side wants both whole blocks of a prompt of 40 tokens.
  PrefixProviderTest() {
    link_ = std::make_shared<PeerLink>(channel_, true, options_, 100);
    PeerLink other(std::make_shared<KeepingChannel>(), false, options_, 100);
    greet(other);
    const NewSequence prompt = request(random_prompt(40, 1), 0);
    ComputeMessage compute;
    compute.ticket = 7, compute.time_limit_ms = 60000, compute.tokens = prompt.prompt.copy();
    auto lease = driver_.scheduler.plan_lease(prompt.prompt.copy(), {});
    EXPECT_TRUE(provider_.begin(link_, std::move(compute), {}, std::move(lease), 100).ok());
    job_ = provider_.next_job();
    EXPECT_TRUE(job_);
    sequence_ = driver_.add(request(random_prompt(40, 1), 0));
    provider_.started(job_->lease, sequence_, "");
    EXPECT_TRUE(provider_.on_send(*link_, {7, {{0, 0, 2}}, {}}).ok());
    channel_->sent.clear();
  }
  // The other side's answer to the greeting makes the link ready.
  void greet(PeerLink& other) {
    auto& theirs = static_cast<KeepingChannel&>(other.channel());
    EXPECT_TRUE(other.take(*decode(channel_->sent.front()), 100).ok());
    EXPECT_TRUE(link_->take(*decode(theirs.sent.front()), 100).ok());
    EXPECT_TRUE(link_->ready());
  }
  // Steps until the prompt is computed, 16 tokens each: `each` is called behind every commit.
  template <class Each>
  void compute(Each each) {
    driver_.scheduler.set_prefill_budget(16);
    while (!driver_.scheduler.idle()) {
      driver_.submit(), driver_.commit();
      provider_.stepped();
      each();
    }
    provider_.computed(job_->lease, "");
  }
  template <class Message>
  std::vector<Message> sent() const {
    std::vector<Message> found;
    for (const auto& bytes : channel_->sent) {
      const auto message = decode(bytes);
      if (const auto* wanted = std::get_if<Message>(&*message)) found.push_back(*wanted);
    }
    return found;
  }

  const LinkOptions options_{"model: x\n", "", [] { return Nonce{}; }};
  const std::shared_ptr<KeepingChannel> channel_ = std::make_shared<KeepingChannel>();
  std::shared_ptr<PeerLink> link_;
  Driver driver_{Engine()};
  SmallMemory memory_;
  PrefixProvider provider_{60, driver_.scheduler, memory_, [](const Digest&) { return nullptr; }, [] {}};
  std::optional<PrefixProvider::Job> job_;
  SequenceId sequence_{};
};

TEST_F(PrefixProviderTest, BlocksAreSentAsTheyAreComputed) {
  int pieces = 0;
  compute([&] {
    while (const auto piece = provider_.next_piece()) ++pieces, provider_.sent(*piece);
  });
  EXPECT_EQ(pieces, 2);
  EXPECT_FALSE(provider_.next_piece());
  ASSERT_EQ(sent<DoneMessage>().size(), 1u);
  EXPECT_TRUE(sent<DoneMessage>()[0].complete);
  EXPECT_EQ(provider_.metrics().active, 0);
  EXPECT_EQ(driver_.scheduler.cache(0).gauges(0).used, 0);
  driver_.scheduler.check_integrity();
}

// Once the end of the prompt, while a piece was being read, was taken for "nothing more will come".
TEST_F(PrefixProviderTest, ThePromptEndsWhileAPieceIsRead) {
  std::optional<PrefixProvider::Piece> first;
  compute([&] {
    if (!first) first = provider_.next_piece();
  });
  ASSERT_TRUE(first);
  provider_.sent(*first);
  EXPECT_TRUE(sent<DoneMessage>().empty());
  const auto second = provider_.next_piece();
  ASSERT_TRUE(second);
  provider_.sent(*second);
  EXPECT_FALSE(provider_.next_piece());
  ASSERT_EQ(sent<DoneMessage>().size(), 1u);
  EXPECT_TRUE(sent<DoneMessage>()[0].complete) << sent<DoneMessage>()[0].why;
}

TEST_F(PrefixProviderTest, WhatIsNotThereIsSaid) {
  compute([] {});
  driver_.scheduler.cache(0).drop_cached();
  EXPECT_FALSE(provider_.next_piece());
  ASSERT_EQ(sent<DoneMessage>().size(), 1u);
  EXPECT_FALSE(sent<DoneMessage>()[0].complete);
  EXPECT_EQ(provider_.metrics().failed, 1u);
}

TEST_F(PrefixProviderTest, ALeaseEndsByItself) {
  provider_.tick(159);
  EXPECT_EQ(provider_.metrics().active, 1);
  EXPECT_EQ(sent<ProgressMessage>().size(), 1u) << "it is alive";
  provider_.tick(161);
  EXPECT_EQ(provider_.metrics().active, 0);
  EXPECT_EQ(provider_.take_abandoned(), sequence_);
  ASSERT_EQ(sent<DoneMessage>().size(), 1u);
  EXPECT_FALSE(sent<DoneMessage>()[0].complete);
}

TEST_F(PrefixProviderTest, WrongWishesEndTheConnection) {
  EXPECT_FALSE(provider_.on_send(*link_, {7, {{0, 0, 1}}, {}}).ok()) << "twice";
  ComputeMessage again;
  again.ticket = 7, again.tokens = random_prompt(40, 2);
  EXPECT_FALSE(provider_.begin(link_, again, {}, driver_.scheduler.plan_lease(again.tokens, {}), 100).ok());
  again.ticket = 8;
  ASSERT_TRUE(provider_.begin(link_, again, {}, driver_.scheduler.plan_lease(again.tokens, {}), 100).ok());
  EXPECT_FALSE(provider_.on_send(*link_, {8, {{1, 0, 1}}, {}}).ok()) << "there is one group";
}

TEST_F(PrefixProviderTest, ALostServerIsForgotten) {
  provider_.on_lost(*link_);
  EXPECT_EQ(provider_.metrics().active, 0);
  EXPECT_EQ(provider_.metrics().cancelled, 1u);
  EXPECT_EQ(provider_.take_abandoned(), sequence_);
}

}  // namespace
}  // namespace weft
