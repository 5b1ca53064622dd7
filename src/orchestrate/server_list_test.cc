#include "orchestrate/server_list.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

ServerEntry entry(const char* host, std::optional<ServerRole> role = std::nullopt) { return {{host, 1, ""}, role}; }
std::string url(const std::string& host) { return "http://" + host + ":1"; }

ServerInfo info(ServerRole role = ServerRole::both, const char* transfer = "") {
  ServerInfo made;
  made.version = "1", made.instance = "first", made.role = role, made.model = "m", made.identity = "digest";
  made.transfer = transfer, made.tokens_per_block = 4, made.kv_cache_events = 100;
  return made;
}

std::string key(int number) {
  const std::string digits = std::to_string(number);
  return std::string(32 - digits.size(), '0') + digits + std::string(32, '0');
}
Json events_of(const char* instance, const std::vector<int>& stored, long next) {
  Json::Array list;
  for (const int number : stored) list.push_back(Json::object({{"type", "stored"}, {"block_hash", key(number)}}));
  return Json::object(
      {{"events", Json(std::move(list))}, {"lost", 0}, {"next_event_id", next}, {"instance", instance}});
}

class ServerListTest : public ::testing::Test {
 protected:
  ServerStatus status(const std::string& host) const {
    for (const ServerStatus& server : list().status())
      if (server.url == url(host)) return server;
    ADD_FAILURE() << host;
    return {};
  }
  ServerState state(const std::string& host) const { return status(host).state; }
  // Where a request goes that ends at once.
  std::string choice(const RequestNeeds& needs = {}) {
    const auto ticket = list().choose(needs);
    return ticket ? ticket->url() : "none";
  }
  ServerList& list() const { return *list_; }
  void use(RouterKind generation, RouterKind context = RouterKind::round_robin) {
    list_ = std::make_unique<ServerList>(generation, context);
  }
  std::unique_ptr<ServerList> list_ = std::make_unique<ServerList>(RouterKind::load_balancing, RouterKind::round_robin);
};

TEST_F(ServerListTest, ServersAreUsedWhileTheyAnswer) {
  list().set_members({entry("a"), entry("b"), entry("a")});
  EXPECT_EQ(list().status().size(), 2u) << "each address once";
  EXPECT_EQ(choice(), "none");
  EXPECT_EQ(list().ready().error().message(),
            "no server for generations is up: http://a:1: starting (it has not been asked yet), http://b:1: "
            "starting (it has not been asked yet)");
  list().take_info(url("b"), info());
  EXPECT_TRUE(list().ready().ok());
  EXPECT_EQ(choice(), url("b"));
  list().take_failure(url("b"), "it burns");
  EXPECT_EQ(choice(), "none");
  EXPECT_NE(list().ready().error().message().find("http://b:1: down (it burns)"), std::string::npos);
  list().take_info(url("b"), info());
  EXPECT_EQ(choice(), url("b")) << "it comes back by itself";
  list().take_info("http://stranger:1", info());
  EXPECT_EQ(list().status().size(), 2u);
}

TEST_F(ServerListTest, RolesDecideWhoIsAsked) {
  list().set_members({entry("c", ServerRole::context), entry("g", ServerRole::generation), entry("own")});
  list().take_info(url("c"), info(ServerRole::context, "c:9"));
  EXPECT_EQ(choice(), "none") << "a context server generates nothing";
  EXPECT_EQ(choice({.generation = false}), url("c"));
  list().take_info(url("own"), info(ServerRole::generation));
  EXPECT_EQ(choice(), url("own"));
  list().take_info(url("g"), info(ServerRole::context));
  EXPECT_EQ(state("g"), ServerState::differs);
  EXPECT_EQ(status("g").reason, "it is listed as a server of role generation, but was started with --role context");
  list().take_info(url("g"), info(ServerRole::both));
  EXPECT_EQ(state("g"), ServerState::up);
  EXPECT_EQ(status("g").role, ServerRole::generation) << "as listed";
}

TEST_F(ServerListTest, WhatMostServeCounts) {
  list().set_members({entry("a"), entry("b"), entry("c")});
  ServerInfo other = info();
  other.identity = "0123456789abcdef";
  list().take_info(url("a"), other);
  EXPECT_EQ(state("a"), ServerState::up) << "alone";
  list().take_info(url("b"), info());
  EXPECT_EQ(state("a"), ServerState::up) << "at a tie what was served so far";
  EXPECT_EQ(state("b"), ServerState::differs);
  EXPECT_EQ(status("b").reason, "it computes with identity digest, http://a:1 with 0123456789ab");
  list().take_info(url("c"), info());
  EXPECT_EQ(state("a"), ServerState::differs);
  EXPECT_EQ(state("b"), ServerState::up);
  EXPECT_EQ(state("c"), ServerState::up);
  for (int i = 0; i < 4; ++i) EXPECT_NE(choice(), url("a"));
  ServerInfo renamed = info();
  renamed.model = "n";
  list().take_info(url("a"), renamed);
  EXPECT_EQ(status("a").reason, "it serves n, http://b:1 serves m");
  list().take_failure(url("b"), "x"), list().take_failure(url("c"), "x");
  EXPECT_EQ(state("a"), ServerState::differs) << "those that are down may come back";
  EXPECT_FALSE(list().ready().ok());
  list().set_members({entry("a")});
  EXPECT_EQ(state("a"), ServerState::up) << "the others have left";
}

// Who answers first is chance; the order of the list is not.
TEST_F(ServerListTest, AtTheStartTheFirstOfTheListCounts) {
  list().set_members({entry("a"), entry("b"), entry("c")});
  ServerInfo other = info();
  other.identity = "0123456789abcdef";
  list().take_info(url("c"), other);
  list().take_failure(url("a"), "x");
  EXPECT_EQ(state("c"), ServerState::up);
  list().take_info(url("b"), info());
  EXPECT_EQ(state("b"), ServerState::up);
  EXPECT_EQ(state("c"), ServerState::differs);
  list().take_info(url("a"), other);
  list().take_failure(url("b"), "x"), list().take_failure(url("c"), "x");
  EXPECT_EQ(state("a"), ServerState::up) << "two of three now";
}

TEST_F(ServerListTest, LoadIsWhatIsStillToBeComputed) {
  list().set_members({entry("a"), entry("b")});
  list().take_info(url("a"), info()), list().take_info(url("b"), info());
  auto first = list().choose({.prompt_tokens = 1000});
  EXPECT_EQ(first->url(), url("a"));
  EXPECT_EQ(status("a").load, 1064);
  EXPECT_EQ(status("a").in_flight, 1);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(choice({.prompt_tokens = 10}), url("b"));
  first->prompt_done();
  EXPECT_EQ(status("a").load, 64);
  const auto second = list().choose({.prompt_tokens = 10});
  EXPECT_EQ(second->url(), url("b"));
  EXPECT_EQ(choice(), url("a")) << "64 against 74";
  first.reset();
  EXPECT_EQ(status("a").load, 0);
  EXPECT_EQ(status("a").in_flight, 0);
  // What the server tells of beyond this front's own requests counts as well: here 2 of 3 are of others.
  ServerInfo busy = info();
  busy.running = 1, busy.waiting = 2;
  list().asking(url("b"));
  list().take_info(url("b"), busy);
  EXPECT_EQ(status("b").load, 74 + 2 * 256);
}

// What a server tells is from some time between the question and the answer.
TEST_F(ServerListTest, OwnRequestsThatComeAndGoMeanwhileAreNotWorkOfOthers) {
  list().set_members({entry("a")});
  list().take_info(url("a"), info());
  auto first = list().choose({.prompt_tokens = 10});
  list().asking(url("a"));
  first.reset();
  auto second = list().choose({.prompt_tokens = 10});
  second.reset();
  ServerInfo then = info();
  then.running = 3;
  list().take_info(url("a"), then);
  EXPECT_EQ(status("a").load, 256);
  list().asking(url("a"));
  list().take_info(url("a"), then);
  EXPECT_EQ(status("a").load, 3 * 256);
}

TEST_F(ServerListTest, FailedServersAreAvoidedAndCounted) {
  list().set_members({entry("a"), entry("b")});
  list().take_info(url("a"), info()), list().take_info(url("b"), info());
  EXPECT_EQ(choice({.avoid = {url("a")}}), url("b"));
  EXPECT_EQ(choice({.avoid = {url("a"), url("b")}}), "none");
  const auto ticket = list().choose({.avoid = {url("b")}});
  ticket->failed("slow", false);
  EXPECT_EQ(state("a"), ServerState::up);
  ticket->failed("gone", true);
  EXPECT_EQ(state("a"), ServerState::down);
  EXPECT_EQ(status("a").failures, 2u);
}

TEST_F(ServerListTest, ContextServersComeWithASecondChoice) {
  list().set_members({entry("g"), entry("c"), entry("d"), entry("e"), entry("mute", ServerRole::context)});
  list().take_info(url("g"), info());
  EXPECT_TRUE(list().choose({})->context_servers().empty());
  list().take_info(url("mute"), info(ServerRole::both));
  EXPECT_TRUE(list().choose({})->context_servers().empty()) << "it has no transfer address";
  list().take_info(url("c"), info(ServerRole::context, "c:9"));
  EXPECT_EQ(list().choose({})->context_servers(), std::vector<std::string>{"c:9"});
  list().take_info(url("d"), info(ServerRole::context, "d:9"));
  list().take_info(url("e"), info(ServerRole::context, "e:9"));
  std::set<std::string> firsts;
  for (int i = 0; i < 3; ++i) {
    const auto ticket = list().choose({});
    ASSERT_EQ(ticket->context_servers().size(), 2u);
    EXPECT_NE(ticket->context_servers()[0], ticket->context_servers()[1]);
    firsts.insert(ticket->context_servers()[0]);
  }
  EXPECT_EQ(firsts.size(), 3u) << "in turn";
  EXPECT_TRUE(list().choose({.generation = false})->context_servers().empty());
  // The prompt is work of the context server until the answer begins.
  const auto ticket = list().choose({.prompt_tokens = 500});
  double context_load = 0;
  for (const char* host : {"c", "d", "e"}) context_load += status(host).load;
  EXPECT_EQ(context_load, 500);
  EXPECT_EQ(status("g").load, 64);
  ticket->prompt_done();
  for (const char* host : {"c", "d", "e"}) EXPECT_EQ(status(host).load + status(host).in_flight, 0);
}

TEST_F(ServerListTest, CachedBlocksDrawRequests) {
  use(RouterKind::kv_cache_aware, RouterKind::load_balancing);
  list().set_members({entry("a"), entry("b")});
  list().take_info(url("a"), info());
  EXPECT_FALSE(list().wants_blocks()) << "there is no choice";
  list().take_info(url("b"), info());
  EXPECT_TRUE(list().wants_blocks());
  EXPECT_EQ(list().wanted_event(url("b")), 0u);
  EXPECT_TRUE(*list().take_events(url("b"), events_of("first", {1, 2, 3}, 3)));
  EXPECT_FALSE(*list().take_events(url("b"), events_of("first", {}, 3)));
  EXPECT_EQ(list().wanted_event(url("b")), 3u);
  RequestNeeds needs{.prompt_tokens = 18, .tokens_per_block = 4};
  for (const int number : {1, 2, 3, 4}) needs.blocks.push_back(*read_block_name(key(number)));
  for (int i = 0; i < 3; ++i) EXPECT_EQ(choice(needs), url("b"));
  const auto held = list().choose(needs);
  EXPECT_EQ(held->cached_tokens(), 12);
  EXPECT_EQ(status("b").load, 64 + 6);
  EXPECT_EQ(choice(needs), url("a")) << "12 tokens are not worth 70 of load";
  // After a new start nothing is there.
  ServerInfo restarted = info();
  restarted.instance = "second";
  EXPECT_FALSE(*list().take_events(url("b"), events_of("second", {1}, 1))) << "its info has to come first";
  list().take_info(url("b"), restarted);
  EXPECT_EQ(status("b").cached_blocks, 0u);
  EXPECT_EQ(list().wanted_event(url("b")), 0u);
  restarted.kv_cache_events = 0;
  list().take_info(url("b"), restarted);
  EXPECT_EQ(list().wanted_event(url("b")), std::nullopt) << "it keeps none";
}

TEST_F(ServerListTest, EventsAreNotReadWhereTheyAreOfNoUse) {
  list().set_members({entry("a")});
  list().take_info(url("a"), info());
  EXPECT_EQ(list().wanted_event(url("a")), std::nullopt);
}

TEST_F(ServerListTest, MembersJoinAndLeave) {
  list().set_members({entry("a"), entry("b")});
  list().take_info(url("a"), info()), list().take_info(url("b"), info());
  auto ticket = list().choose({.prompt_tokens = 100, .avoid = {url("b")}});
  list().set_members({entry("b"), entry("c")});
  EXPECT_EQ(list().status().size(), 2u);
  EXPECT_EQ(ticket->address().host, "a") << "what it has begun goes on";
  EXPECT_EQ(state("b"), ServerState::up) << "what was known stays";
  EXPECT_EQ(state("c"), ServerState::starting);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(choice(), url("b"));
  ticket->failed("gone", true), ticket.reset();
  list().set_members({entry("a")});
  EXPECT_EQ(state("a"), ServerState::starting) << "another one at the same address";
}

TEST(ServerInfo, ATransferAddressIsOneThatOthersReach) {
  EXPECT_EQ(reachable_address("10.0.0.7:9100", "node7"), "10.0.0.7:9100");
  EXPECT_EQ(reachable_address("0.0.0.0:9100", "node7"), "node7:9100");
  EXPECT_EQ(reachable_address("[::]:9100", "fd00::7"), "[fd00::7]:9100");
  EXPECT_EQ(reachable_address("", "node7"), "");
}

TEST(ServerInfo, IsRead) {
  const char* const good = R"({"version": "1", "instance": "i", "role": "context", "model": "m", "generative": true,
      "identity": "d", "tokens_per_block": 32, "kv_cache_events": 7, "transfer": "h:9",
      "load": {"running": 1, "waiting": 2, "kv_used": 3, "kv_total": 4}})";
  const auto read = read_server_info(*parse_json(good));
  ASSERT_TRUE(read.ok()) << read.error().message();
  EXPECT_EQ(read->role, ServerRole::context);
  EXPECT_EQ(read->transfer, "h:9");
  EXPECT_EQ(read->running + 10 * read->waiting + 100 * read->kv_used + 1000 * read->kv_total, 4321);
  for (const char* name : {"version", "role", "generative", "tokens_per_block", "load"}) {
    Json without = *parse_json(good);
    without.set(name, Json());
    const auto failed = read_server_info(without);
    ASSERT_FALSE(failed.ok()) << name;
    EXPECT_NE(failed.error().message().find("/server_info"), std::string::npos);
  }
  Json strange = *parse_json(good);
  strange.set("role", "king");
  for (const char* address : {"a:1\r\nX: y", "a:1,b:2", "a b"}) {
    Json split = *parse_json(good);
    split.set("transfer", address);
    EXPECT_FALSE(read_server_info(split).ok()) << address;
  }
  EXPECT_EQ(read_server_info(strange).error().message(), "its /server_info has an unknown role \"king\"");
}

}  // namespace
}  // namespace weft
