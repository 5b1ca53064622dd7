// Members and those who watch them, through a gateway of this process with faults on demand, and through etcd itself
// where it is installed.
#include "server/cluster.h"

#include <gtest/gtest.h>

#include <optional>

#include "server/fake_etcd.h"

namespace weft {
namespace {

using std::chrono::milliseconds;
using testing::FakeEtcd;
using testing::RealEtcd;

// Quick, so that nothing has to be waited for long.
constexpr ClusterTimes kQuick{
    .lease_seconds = 1, .renew = milliseconds(30), .again = milliseconds(20), .poll = milliseconds(15)};

const ClusterEntry kContext{"h:1", "http://h:1", ServerRole::context};
const ClusterEntry kGeneration{"h:2", "http://h:2", ServerRole::generation};

std::string ids(const std::vector<ClusterEntry>& members) {
  std::string text;
  for (const ClusterEntry& member : members) text += member.id + " ";
  return text;
}

// Whether it becomes true within ten seconds.
template <class Condition>
bool soon(Condition condition) {
  for (int i = 0; i < 1000 && !condition(); ++i) std::this_thread::sleep_for(milliseconds(10));
  return condition();
}

// The lists that a watch has told.
class Lists {
 public:
  ClusterWatch::Changed changed() {
    return [this](std::vector<ClusterEntry> members) {
      const std::lock_guard lock(mutex_);
      lists_.push_back(std::move(members));
    };
  }
  size_t count() const {
    const std::lock_guard lock(mutex_);
    return lists_.size();
  }
  std::optional<std::string> last() const {
    const std::lock_guard lock(mutex_);
    return lists_.empty() ? std::nullopt : std::optional(ids(lists_.back()));
  }
  std::vector<ClusterEntry> last_list() const {
    const std::lock_guard lock(mutex_);
    return lists_.back();
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::vector<ClusterEntry>> lists_;
};

ClusterAddress cluster_at(const ServerAddress& etcd) { return {etcd, "demo"}; }

TEST(ClusterMember, JoinsRenewsAndLeaves) {
  FakeEtcd etcd;
  {
    ClusterMember member(cluster_at(etcd.address()), kContext, kQuick);
    std::this_thread::sleep_for(milliseconds(60));
    EXPECT_EQ(etcd.calls, 0) << "before start()";
    member.start();
    ASSERT_TRUE(soon([&] { return member.registered(); }));
    EXPECT_EQ(etcd.keys(), (std::map<std::string, std::string>{
                               {"/weft/demo/servers/h:1", R"({"id":"h:1","url":"http://h:1","role":"context"})"}}));
    ASSERT_TRUE(soon([&] { return etcd.calls >= 5; })) << "renewals";
    EXPECT_EQ(etcd.leases(), 1u);
    member.leave();
    ASSERT_TRUE(soon([&] { return etcd.leases() == 0; }));
    EXPECT_TRUE(etcd.keys().empty());
    const int calls = etcd.calls;
    std::this_thread::sleep_for(milliseconds(100));
    EXPECT_EQ(etcd.calls, calls);
  }
  EXPECT_TRUE(etcd.keys().empty());
}

TEST(ClusterMember, ItsEndIsItsLeaving) {
  FakeEtcd etcd;
  {
    ClusterMember member(cluster_at(etcd.address()), kContext, kQuick);
    member.start();
    ASSERT_TRUE(soon([&] { return member.registered(); }));
  }
  EXPECT_EQ(etcd.leases(), 0u);
}

TEST(ClusterMember, WhoHasLeftDoesNotJoin) {
  FakeEtcd etcd;
  ClusterMember member(cluster_at(etcd.address()), kContext, kQuick);
  member.leave();
  member.start();
  std::this_thread::sleep_for(milliseconds(100));
  EXPECT_EQ(etcd.calls, 0);
}

TEST(ClusterMember, RegistersAgain) {
  FakeEtcd etcd;
  ClusterMember member(cluster_at(etcd.address()), kContext, kQuick);
  member.start();
  ASSERT_TRUE(soon([&] { return etcd.keys().size() == 1; }));
  etcd.expire_leases();
  EXPECT_TRUE(soon([&] { return etcd.keys().size() == 1; })) << "a lost lease";
  etcd.lose_data();
  EXPECT_TRUE(soon([&] { return etcd.keys().size() == 1; })) << "lost data";
  // Faults of all kinds, after each of which it is there again.
  for (const auto fault : {FakeEtcd::Fault::error, FakeEtcd::Fault::not_etcd, FakeEtcd::Fault::no_json}) {
    const int calls = etcd.calls;
    etcd.fault = fault;
    etcd.expire_leases();
    ASSERT_TRUE(soon([&] { return etcd.calls > calls + 2; }));
    EXPECT_TRUE(etcd.keys().empty());
    etcd.fault = FakeEtcd::Fault::none;
    EXPECT_TRUE(soon([&] { return etcd.keys().size() == 1; }));
  }
}

TEST(ClusterMember, NeverWaitsForEtcd) {
  FakeEtcd etcd;
  etcd.fault = FakeEtcd::Fault::silent;
  const auto begin = std::chrono::steady_clock::now();
  ClusterMember member(cluster_at(etcd.address()), kContext, kQuick);
  member.start();
  ASSERT_TRUE(soon([&] { return etcd.calls > 0; }));
  EXPECT_FALSE(member.registered());
  member.leave();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, EtcdClient::kPatience - milliseconds(200));
}

TEST(ClusterWatch, TellsEveryChangeOnce) {
  FakeEtcd etcd;
  Lists lists;
  ClusterWatch watch(cluster_at(etcd.address()), lists.changed(), kQuick);
  ASSERT_TRUE(soon([&] { return lists.last() == ""; })) << "the first list, though empty";
  ClusterMember context(cluster_at(etcd.address()), kContext, kQuick);
  context.start();
  ASSERT_TRUE(soon([&] { return lists.last() == "h:1 "; }));
  {
    ClusterMember generation(cluster_at(etcd.address()), kGeneration, kQuick);
    generation.start();
    ASSERT_TRUE(soon([&] { return lists.last() == "h:1 h:2 "; }));
    EXPECT_EQ(lists.last_list(), (std::vector{kContext, kGeneration}));
  }
  ASSERT_TRUE(soon([&] { return lists.last() == "h:1 "; }));
  std::this_thread::sleep_for(milliseconds(100));
  EXPECT_EQ(lists.count(), 4u) << "nothing is told twice";
  // Of the same server with another role.
  etcd.put("/weft/demo/servers/h:1", entry_json({"h:1", "http://h:1", ServerRole::both}));
  ASSERT_TRUE(soon([&] { return lists.count() == 5; }));
  EXPECT_EQ(lists.last_list().front().role, ServerRole::both);
}

TEST(ClusterWatch, OtherDeploymentsAndMalformedValuesAreIgnored) {
  FakeEtcd etcd;
  etcd.put("/weft/demo2/servers/h:9", entry_json({"h:9", "http://h:9", ServerRole::both}));
  etcd.put("/weft/demo/servers/h:1", entry_json(kContext));
  etcd.put("/weft/demo/servers/h:3", "nonsense");
  etcd.put("/weft/demo/servers/h:4", R"({"id":"h:5","url":"http://h:5","role":"both"})");
  ::testing::internal::CaptureStderr();
  Lists lists;
  {
    ClusterWatch watch(cluster_at(etcd.address()), lists.changed(), kQuick);
    ASSERT_TRUE(soon([&] { return lists.last() == "h:1 "; }));
    etcd.put("/weft/demo/servers/h:3", entry_json({"h:3", "http://h:3", ServerRole::both}));
    ASSERT_TRUE(soon([&] { return lists.last() == "h:1 h:3 "; }));
    std::this_thread::sleep_for(milliseconds(100));
  }
  const std::string log = ::testing::internal::GetCapturedStderr();
  for (const char* text : {"key=/weft/demo/servers/h:3 problem=\"it is no JSON object\"",
                           "key=/weft/demo/servers/h:4 problem=\"id is h:5, unlike the key\""}) {
    const size_t first = log.find(text);
    ASSERT_NE(first, std::string::npos) << log;
    EXPECT_EQ(log.find(text, first + 1), std::string::npos) << "said once: " << log;
  }
}

TEST(ClusterWatch, TheLastListStaysWhileEtcdIsAway) {
  auto etcd = std::make_unique<FakeEtcd>();
  const ServerAddress address = etcd->address();
  etcd->put("/weft/demo/servers/h:1", entry_json(kContext));
  ::testing::internal::CaptureStderr();
  Lists lists;
  {
    ClusterWatch watch(cluster_at(address), lists.changed(), kQuick);
    ASSERT_TRUE(soon([&] { return lists.last() == "h:1 "; }));
    const int calls = etcd->calls;
    etcd->fault = FakeEtcd::Fault::error;
    ASSERT_TRUE(soon([&] { return etcd->calls > calls + 3; }));
    etcd.reset();
    std::this_thread::sleep_for(milliseconds(100));
    EXPECT_EQ(lists.count(), 1u);
    // It comes back without its data, and another server is the first to register.
    etcd = std::make_unique<FakeEtcd>(address.port);
    etcd->lose_data();
    EtcdClient(address).put("/weft/demo/servers/h:2", entry_json(kGeneration)).ok();
    ASSERT_TRUE(soon([&] { return lists.last() == "h:2 "; }));
  }
  const std::string log = ::testing::internal::GetCapturedStderr();
  const size_t first = log.find("state=unreachable");
  ASSERT_NE(first, std::string::npos) << log;
  EXPECT_EQ(log.find("state=unreachable", first + 1), std::string::npos) << "said once: " << log;
}

TEST(ClusterWatch, AfterLostDataMembersHaveTimeToComeBack) {
  FakeEtcd etcd;
  for (int i = 0; i < 5; ++i) etcd.put("/other", "x");  // so that the next store's revision is smaller
  etcd.put("/weft/demo/servers/h:1", entry_json(kContext));
  etcd.put("/weft/demo/servers/h:2", entry_json(kGeneration));
  Lists lists;
  ClusterWatch watch(cluster_at(etcd.address()), lists.changed(), kQuick);
  ASSERT_TRUE(soon([&] { return lists.last() == "h:1 h:2 "; }));
  etcd.lose_data();
  etcd.put("/weft/demo/servers/h:1", entry_json(kContext));
  std::this_thread::sleep_for(milliseconds(500));
  EXPECT_EQ(lists.count(), 1u) << "within a lease nobody is missed";
  ASSERT_TRUE(soon([&] { return lists.last() == "h:1 "; })) << "then who has not come back is";
  EXPECT_EQ(lists.count(), 2u);
}

// With etcd itself.
class RealCluster : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!RealEtcd::available()) GTEST_SKIP() << "etcd is not installed (Debian and Ubuntu: etcd-server)";
  }
};

TEST_F(RealCluster, MembersComeAndGo) {
  RealEtcd etcd;
  Lists lists;
  ClusterWatch watch(cluster_at(etcd.address()), lists.changed(), kQuick);
  ClusterMember context(cluster_at(etcd.address()), kContext, kQuick);
  context.start();
  {
    ClusterMember generation(cluster_at(etcd.address()), kGeneration, kQuick);
    generation.start();
    ASSERT_TRUE(soon([&] { return lists.last() == "h:1 h:2 "; }));
  }
  ASSERT_TRUE(soon([&] { return lists.last() == "h:1 "; }));
}

TEST_F(RealCluster, WhoDoesNotRenewIsGone) {
  RealEtcd etcd;
  EtcdClient client(etcd.address());
  const auto lease = client.grant(1);  // etcd makes it two seconds, its least
  ASSERT_TRUE(lease.ok());
  ASSERT_TRUE(client.put("/weft/demo/servers/h:1", entry_json(kContext), *lease).ok());
  Lists lists;
  ClusterWatch watch(cluster_at(etcd.address()), lists.changed(), kQuick);
  ASSERT_TRUE(soon([&] { return lists.last() == "h:1 "; }));
  EXPECT_TRUE(soon([&] { return lists.last() == ""; }));
}

TEST_F(RealCluster, RestartsOfEtcd) {
  RealEtcd etcd;
  Lists lists;
  ClusterWatch watch(cluster_at(etcd.address()), lists.changed(), kQuick);
  ClusterMember member(cluster_at(etcd.address()), kContext, kQuick);
  member.start();
  ASSERT_TRUE(soon([&] { return lists.last() == "h:1 "; }));
  EtcdClient client(etcd.address());
  const size_t told = lists.count();
  for (const bool fresh : {false, true}) {
    etcd.kill();
    etcd.start(fresh);
    EXPECT_TRUE(soon([&] {
      const auto found = client.list("/weft/demo/servers/");
      return found.ok() && found->entries.size() == 1;
    })) << (fresh ? "without its data" : "with its data");
    EXPECT_EQ(lists.last(), "h:1 ");
  }
  EXPECT_EQ(lists.count(), told) << "nobody was told of an empty list";
}

}  // namespace
}  // namespace weft
