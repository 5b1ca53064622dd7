#include "base/available_memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace weft {
namespace {

class AvailableMemory : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "weft-memory-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name;
    write("/proc/meminfo", "MemTotal: 2000 kB\nMemFree: 100 kB\nMemAvailable: 1000 kB");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text << "\n";
  }

  std::string root_;
};

TEST_F(AvailableMemory, OfTheSystemWithoutGroups) { EXPECT_EQ(available_memory(root_), 1000u * 1024); }

TEST_F(AvailableMemory, WithinTheGroupsOfVersion2) {
  write("/proc/self/cgroup", "0::/slice/job");
  write("/sys/fs/cgroup/slice/job/memory.max", "max");
  write("/sys/fs/cgroup/slice/job/memory.current", "5000");
  EXPECT_EQ(available_memory(root_), 1000u * 1024);
  // The group above has a limit; what it holds of files can be had.
  write("/sys/fs/cgroup/slice/memory.max", "100000");
  write("/sys/fs/cgroup/slice/memory.current", "60000");
  write("/sys/fs/cgroup/slice/memory.stat", "anon 30000\nfile 30000\ninactive_file 20000\nactive_file 5000");
  EXPECT_EQ(available_memory(root_), 65000u);
  write("/sys/fs/cgroup/slice/memory.current", "200000");
  EXPECT_EQ(available_memory(root_), 0u);
}

// In a container the group is what is mounted, whatever the path says.
TEST_F(AvailableMemory, WithinAContainer) {
  write("/proc/self/cgroup", "0::/docker/0123");
  write("/sys/fs/cgroup/memory.max", "70000");
  write("/sys/fs/cgroup/memory.current", "10000");
  EXPECT_EQ(available_memory(root_), 60000u);
}

TEST_F(AvailableMemory, WithinTheGroupsOfVersion1) {
  write("/proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/a");
  write("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "90000");
  write("/sys/fs/cgroup/memory/a/memory.usage_in_bytes", "40000");
  write("/sys/fs/cgroup/memory/a/memory.stat", "total_inactive_file 1000\ntotal_active_file 2000");
  EXPECT_EQ(available_memory(root_), 53000u);
}

}  // namespace
}  // namespace weft
