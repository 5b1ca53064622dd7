#include "base/cpu_layout.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace weft {
namespace {

using Places = std::vector<std::vector<int>>;

// A /sys and /proc of our own.
class FakeRoot : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "weft-cpus-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text << "\n";
  }
  void cpu(int id, int core, int package) const {
    const std::string folder = "/sys/devices/system/cpu/cpu" + std::to_string(id) + "/topology/";
    write(folder + "core_id", std::to_string(core)), write(folder + "physical_package_id", std::to_string(package));
  }
  // Two packages of four cores with two hyperthreads each, a NUMA node per package: processors 0-7 are first threads,
  // 8-15 second.
  void two_packages() const {
    write("/sys/devices/system/cpu/online", "0-15");
    for (int id = 0; id < 16; ++id) cpu(id, id % 4, id % 8 / 4);
    write("/sys/devices/system/node/online", "0-1");
    write("/sys/devices/system/node/node0/cpulist", "0-3,8-11");
    write("/sys/devices/system/node/node1/cpulist", "4-7,12-15");
  }
  // Four cores with two hyperthreads each and one node.
  void one_package() const {
    write("/sys/devices/system/cpu/online", "0-7");
    for (int id = 0; id < 8; ++id) cpu(id, id % 4, 0);
  }

  std::string root_;
};

TEST_F(FakeRoot, HyperthreadsAreNoCores) {
  one_package();
  const CpuLayout all = read_cpu_layout(root_, {{0, 1, 2, 3, 4, 5, 6, 7}});
  EXPECT_EQ(all.cores(), 4);
  EXPECT_TRUE(all.whole_cores());
  EXPECT_EQ(default_threads(all), 4);
  const CpuLayout part = read_cpu_layout(root_, {{0, 1, 4}});  // 4 is the second thread of core 0
  EXPECT_EQ(part.cores(), 2);
  EXPECT_FALSE(part.whole_cores());
  EXPECT_EQ(part.forbidden.size(), 5u);
  EXPECT_EQ(default_threads(part), 2);
}

TEST_F(FakeRoot, WithoutTopologyEveryProcessorIsACore) {
  const CpuLayout layout = read_cpu_layout(root_, {{0, 1, 2}});
  EXPECT_EQ(default_threads(layout), 3);
  EXPECT_EQ(layout.nodes(), std::vector<int>{0});
  EXPECT_EQ(default_threads(read_cpu_layout(root_, std::vector<int>{})), 1);
}

TEST_F(FakeRoot, QuotaOfVersion2IsTheLeastOfTheGroupAndThoseAbove) {
  one_package();
  const auto threads = [&] { return default_threads(read_cpu_layout(root_, {{0, 1, 2, 3}})); };
  write("/proc/self/cgroup", "0::/slice/box");
  EXPECT_EQ(cgroup_cpu_quota(root_), 0);
  write("/sys/fs/cgroup/slice/box/cpu.max", "max 100000");
  EXPECT_EQ(cgroup_cpu_quota(root_), 0);
  EXPECT_EQ(threads(), 4);
  write("/sys/fs/cgroup/slice/box/cpu.max", "350000 100000");
  EXPECT_EQ(cgroup_cpu_quota(root_), 3.5);
  EXPECT_EQ(threads(), 3);
  write("/sys/fs/cgroup/slice/cpu.max", "200000 100000");
  EXPECT_EQ(threads(), 2);
  write("/sys/fs/cgroup/slice/cpu.max", "50000 100000");
  EXPECT_EQ(threads(), 1);
  for (const char* broken : {"", "x", "100000", "-1 100000", "100000 0"}) {
    write("/sys/fs/cgroup/slice/cpu.max", broken);
    EXPECT_EQ(threads(), 3) << broken;
  }
}

TEST_F(FakeRoot, QuotaInAContainerLiesAtTheMount) {
  write("/proc/self/cgroup", "0::/../../other");
  write("/sys/fs/cgroup/cpu.max", "150000 100000");
  EXPECT_EQ(cgroup_cpu_quota(root_), 1.5);
  // Version 1: the path is the host's.
  write("/proc/self/cgroup", "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc");
  EXPECT_EQ(cgroup_cpu_quota(root_), 0);
  write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "250000");
  write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000");
  EXPECT_EQ(cgroup_cpu_quota(root_), 2.5);
}

TEST_F(FakeRoot, QuotaOfVersion1) {
  write("/proc/self/cgroup", "2:cpuacct:/\n1:cpu:/jobs\n0::/");
  write("/sys/fs/cgroup/cpu/jobs/cpu.cfs_quota_us", "-1");
  write("/sys/fs/cgroup/cpu/jobs/cpu.cfs_period_us", "100000");
  EXPECT_EQ(cgroup_cpu_quota(root_), 0);
  write("/sys/fs/cgroup/cpu/jobs/cpu.cfs_quota_us", "400000");
  EXPECT_EQ(cgroup_cpu_quota(root_), 4);
}

TEST_F(FakeRoot, AutomaticPinningNeedsCoresOfItsOwn) {
  one_package();
  const Places anywhere2(2), anywhere4(4);
  const CpuLayout all = read_cpu_layout(root_, {{0, 1, 2, 3, 4, 5, 6, 7}});
  EXPECT_EQ(place_threads(all, 4, Pinning::automatic).value(), anywhere4) << "a machine that others may use";
  CpuLayout given = read_cpu_layout(root_, {{0, 1, 4, 5}});
  EXPECT_EQ(place_threads(given, 2, Pinning::automatic).value(), (Places{{0, 4}, {1, 5}}));
  EXPECT_EQ(place_threads(given, 2, Pinning::off).value(), anywhere2);
  EXPECT_EQ(place_threads(given, 1, Pinning::automatic).value(), Places(1)) << "may move to the free core";
  given.quota = 1.5;
  EXPECT_EQ(place_threads(given, 2, Pinning::automatic).value(), anywhere2);
  EXPECT_EQ(place_threads(read_cpu_layout(root_, {{0, 1}}), 2, Pinning::automatic).value(), anywhere2)
      << "others have the second threads";
}

TEST_F(FakeRoot, PinningOnTakesCoresThenProcessors) {
  one_package();
  const CpuLayout all = read_cpu_layout(root_, {{0, 1, 2, 3, 4, 5, 6, 7}});
  EXPECT_EQ(place_threads(all, 2, Pinning::on).value(), (Places{{0, 4}, {2, 6}}));
  EXPECT_EQ(place_threads(all, 4, Pinning::on).value(), (Places{{0, 4}, {1, 5}, {2, 6}, {3, 7}}));
  EXPECT_EQ(place_threads(all, 8, Pinning::on).value(), (Places{{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}}));
  const auto refused = place_threads(all, 9, Pinning::on);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().param(), "pin-threads");
}

TEST_F(FakeRoot, ThreadsStayAtTheNodeOfTheirWeights) {
  two_packages();
  std::vector<int> ids(16);
  for (int id = 0; id < 16; ++id) ids[static_cast<size_t>(id)] = id;
  const CpuLayout all = read_cpu_layout(root_, ids);
  EXPECT_EQ(all.cores(), 8);
  EXPECT_EQ(all.nodes(), (std::vector<int>{0, 1}));
  const std::vector<int> node0 = {0, 1, 2, 3, 8, 9, 10, 11}, node1 = {4, 5, 6, 7, 12, 13, 14, 15};
  EXPECT_EQ(place_threads(all, 2, Pinning::automatic).value(), (Places{node0, node1}));
  const Places eight = place_threads(all, 8, Pinning::automatic).value();
  for (size_t i = 0; i < 8; ++i) EXPECT_EQ(eight[i], i < 4 ? node0 : node1) << i;
  EXPECT_EQ(place_threads(read_cpu_layout(root_, {{0, 1, 2, 3}}), 4, Pinning::automatic).value(), Places(4))
      << "one node, half cores";
}

TEST(CpuLayout, OfThisMachine) {
  const CpuLayout layout = read_cpu_layout();
  EXPECT_GE(layout.cores(), 1);
  EXPECT_GE(default_threads(layout), 1);
  EXPECT_LE(default_threads(layout), static_cast<int>(layout.cpus.size()));
}

}  // namespace
}  // namespace weft
