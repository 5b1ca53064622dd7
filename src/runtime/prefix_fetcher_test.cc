#include "runtime/prefix_fetcher.h"

#include <gtest/gtest.h>

#include "runtime/small_memory.h"
#include "sched/driver.h"

namespace weft {
namespace {

// A fetcher, the servers it talks to as lists of messages, and a scheduler with held sequences.
class PrefixFetcherTest : public ::testing::Test {
 protected:
  PrefixFetcherTest() : scheduler_(make_scheduler(Engine().options, Engine().cache)) {}

  // A prompt of two whole blocks and a rest.
  SequenceId begin(std::vector<std::string> servers, std::string salt = "") {
    NewSequence sequence;
    std::vector<int32_t> prompt;
    for (int i = 0; i < 40; ++i) prompt.push_back(i % kVocabulary);
    sequence.prompt = prompt;
    auto sampling = std::make_shared<SamplingParams>();
    sampling->max_tokens = 1;
    sequence.sampling = std::move(sampling), sequence.held = true, sequence.cache.salt = salt;
    RemotePrompt remote{std::move(servers), {}, {}, {}};
    remote.prompt.tokens = prompt, remote.prompt.salt = std::move(salt);
    const SequenceId id = *scheduler_.add(std::move(sequence));
    auto transfer = scheduler_.plan_import(id);
    WEFT_CHECK(transfer);
    scheduler_.cache(0).extend_keys(transfer->cache, transfer->tokens);
    fetcher_.begin(id, std::move(transfer), std::move(remote), now_);
    return id;
  }
  template <class Message>
  Message next(const std::string& server) {
    std::deque<std::vector<std::byte>>& sent = sent_[server];
    WEFT_CHECK(!sent.empty()) << "nothing was sent to " << server;
    auto message = decode(sent.front());
    WEFT_CHECK(message.ok());
    auto found = std::get<Message>(*message);
    sent.pop_front();
    return found;
  }
  // The ticket of a prompt that the server was asked for, with both blocks.
  uint64_t asked(const std::string& server) {
    const auto ticket = next<ComputeMessage>(server).ticket;
    const auto send = next<SendMessage>(server);
    EXPECT_EQ(send.ticket, ticket);
    EXPECT_EQ(send.tiles, (std::vector<TileRange>{{0, 0, 2}}));
    return ticket;
  }
  PartMessage part(uint64_t ticket, uint32_t tile, uint32_t tiles = 1) const {
    return {ticket, 0, 0, 1, tile, tiles, std::span(content_).first(64 * tiles)};
  }
  void take(const std::string& server, const PartMessage& message) {
    const auto places = fetcher_.begin_part(server, message, now_);
    ASSERT_TRUE(places.ok()) << places.error().message();
    if (!places->places.empty()) fetcher_.end_part(*places);
  }

  const std::vector<std::byte> content_ = std::vector<std::byte>(1024);
  double now_ = 100;
  SmallMemory memory_;
  Scheduler scheduler_;
  std::map<std::string, std::deque<std::vector<std::byte>>> sent_;
  std::vector<std::string> connected_, given_up_;
  std::vector<SequenceId> ready_;
  int freed_ = 0;
  PrefixFetcher fetcher_{
      {},
      scheduler_,
      memory_,
      {[](const Digest&) { return false; }, [](const Digest&, std::shared_ptr<const MediaFeatures>) {}},
      {[this](const std::string& address) { connected_.push_back(address); },
       [this](const std::string& address, std::vector<std::byte> message) {
         sent_[address].push_back(std::move(message));
       },
       [this](const std::string& address) { given_up_.push_back(address); }},
      [this](SequenceId id) { ready_.push_back(id); },
      [this] { ++freed_; }};
};

TEST_F(PrefixFetcherTest, BlocksCountOnceTheServerSaysThatTheyAreRight) {
  const SequenceId id = begin({"a"});
  const uint64_t ticket = asked("a");
  take("a", part(ticket, 0));
  take("a", part(ticket, 1));
  fetcher_.on_progress("a", {ticket, 16}, now_);
  EXPECT_EQ(fetcher_.metrics().blocks, 1u);
  EXPECT_TRUE(ready_.empty());
  fetcher_.on_progress("a", {ticket, 32}, now_);
  EXPECT_EQ(ready_, std::vector{id});
  EXPECT_EQ(fetcher_.metrics().complete, 1u);
  EXPECT_EQ(fetcher_.active(), 0);
}

// Others may wait for the memory, and nobody goes on with this one.
TEST_F(PrefixFetcherTest, TheEndOfAForgottenFetchIsTold) {
  const SequenceId id = begin({"a"});
  const auto places = fetcher_.begin_part("a", part(asked("a"), 0), now_);
  ASSERT_TRUE(places.ok());
  fetcher_.forget(id);
  EXPECT_EQ(freed_, 0) << "a block is being written";
  fetcher_.end_part(*places);
  EXPECT_EQ(freed_, 1);
  EXPECT_TRUE(ready_.empty());
}

// The block is written without the lock, and meanwhile its server is lost, whose step may have gone wrong.
TEST_F(PrefixFetcherTest, APartOfALostServerThatIsBeingWrittenDoesNotCount) {
  const SequenceId id = begin({"a", "b"});
  const uint64_t first = asked("a");
  const auto places = fetcher_.begin_part("a", part(first, 0), now_);
  ASSERT_TRUE(places.ok() && places->places.size() == 1);
  fetcher_.on_lost("a", "gone", now_);
  const auto second = next<ComputeMessage>("b").ticket;
  fetcher_.step_finished(1);
  EXPECT_TRUE(sent_["b"].empty()) << "b would write where a's part is being written";
  fetcher_.end_part(*places);
  EXPECT_EQ(next<SendMessage>("b").tiles, (std::vector<TileRange>{{0, 0, 2}}));
  take("b", part(second, 1));
  fetcher_.on_progress("b", {second, 40}, now_);
  EXPECT_EQ(fetcher_.metrics().blocks, 1u) << "of the first block b has sent nothing";
  EXPECT_TRUE(ready_.empty());
  take("b", part(second, 0));
  EXPECT_EQ(ready_, std::vector{id});
}

TEST_F(PrefixFetcherTest, WhatIsSureIsKeptWhenTheServerIsLost) {
  begin({"a", "b"});
  const uint64_t first = asked("a");
  take("a", part(first, 0, 2));
  fetcher_.on_progress("a", {first, 16}, now_);
  fetcher_.on_lost("a", "gone", now_);
  next<ComputeMessage>("b");
  EXPECT_EQ(next<SendMessage>("b").tiles, (std::vector<TileRange>{{0, 1, 1}}));
}

TEST_F(PrefixFetcherTest, PartsThatWereNotAskedForAreErrors) {
  begin({"a"});
  const uint64_t ticket = asked("a");
  const auto change = [&](auto member, uint32_t value) {
    PartMessage message = part(ticket, 0);
    message.*member = value;
    return message;
  };
  PartMessage short_one = part(ticket, 0), long_one = part(ticket, 0);
  short_one.content = std::span(content_).first(63), long_one.content = std::span(content_).first(65);
  for (const PartMessage& message :
       {change(&PartMessage::group, 1), change(&PartMessage::group, ~0u), change(&PartMessage::first_layer, 1),
        change(&PartMessage::first_layer, ~0u), change(&PartMessage::layers, 0), change(&PartMessage::layers, 2),
        change(&PartMessage::layers, ~0u), change(&PartMessage::first_tile, 2), change(&PartMessage::first_tile, ~0u),
        change(&PartMessage::tiles, 0), change(&PartMessage::tiles, ~0u), part(ticket, 1, 2), short_one, long_one}) {
    const auto places = fetcher_.begin_part("a", message, now_);
    ASSERT_FALSE(places.ok()) << "group " << message.group << ", layers " << message.first_layer << " + "
                              << message.layers << ", tiles " << message.first_tile << " + " << message.tiles;
    EXPECT_EQ(places.error().code(), Code::invalid_argument);
  }
  // Of other tickets and servers: late, and ignored.
  for (const auto& [server, number] : {std::pair<std::string, uint64_t>("a", ticket + 1), {"b", ticket}}) {
    const auto places = fetcher_.begin_part(server, part(number, 0), now_);
    ASSERT_TRUE(places.ok());
    EXPECT_TRUE(places->places.empty());
  }
}

TEST_F(PrefixFetcherTest, APromptThatNoMessageHoldsIsComputedHere) {
  const SequenceId id = begin({"a"}, std::string(5000, 'x'));
  EXPECT_EQ(ready_, std::vector{id});
  EXPECT_TRUE(connected_.empty() && sent_.empty());
  EXPECT_EQ(fetcher_.metrics().local, 1u);
}

TEST_F(PrefixFetcherTest, ALostServerIsNotAskedForAWhile) {
  begin({"a", "b"}, "one");
  fetcher_.on_lost("a", "gone", now_);
  begin({"a", "b"}, "two");
  EXPECT_EQ(connected_, (std::vector<std::string>{"a", "b", "b"}));
  fetcher_.tick(now_ += 5.1);
  begin({"a", "b"}, "three");
  EXPECT_EQ(connected_.back(), "a");
}

TEST_F(PrefixFetcherTest, WaitsEnd) {
  const SequenceId id = begin({"a", "b"});
  const uint64_t first = asked("a");
  fetcher_.tick(now_ += 9.9);
  EXPECT_TRUE(sent_["a"].empty());
  fetcher_.on_progress("a", {first, 0}, now_);
  fetcher_.tick(now_ += 9.9);
  EXPECT_TRUE(sent_["a"].empty()) << "something was heard";
  fetcher_.tick(now_ += 0.2);
  EXPECT_EQ(next<CancelMessage>("a").ticket, first);
  const uint64_t second = asked("b");
  for (; now_ < 219; now_ += 5) fetcher_.on_progress("b", {second, 0}, now_), fetcher_.tick(now_);
  EXPECT_TRUE(ready_.empty());
  fetcher_.tick(now_ = 220.1);  // 120 s in all
  EXPECT_EQ(next<CancelMessage>("b").ticket, second);
  EXPECT_EQ(ready_, std::vector{id});
  EXPECT_EQ(fetcher_.active(), 0);
}

}  // namespace
}  // namespace weft
