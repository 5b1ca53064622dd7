#include "base/available_memory.h"

#include <sys/sysinfo.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>

namespace weft {
namespace {

constexpr size_t kNoLimit = std::numeric_limits<size_t>::max();

size_t system_memory(const std::string& root) {
  std::ifstream info(root + "/proc/meminfo");
  std::string key, unit;
  size_t kib = 0;
  while (info >> key >> kib >> unit)
    if (key == "MemAvailable:") return kib * 1024;
  struct sysinfo system;
  return ::sysinfo(&system) == 0 ? static_cast<size_t>(system.freeram) * system.mem_unit : size_t{1} << 30;
}

// How the two versions of control groups name their files.
struct GroupFiles {
  const char *limit, *used, *active, *inactive;  // the last two in memory.stat
};
constexpr GroupFiles kVersion2{"memory.max", "memory.current", "active_file", "inactive_file"};
constexpr GroupFiles kVersion1{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_active_file",
                               "total_inactive_file"};

// What one group leaves; kNoLimit for "max" and where there is no such file.
size_t left_in(const std::string& folder, const GroupFiles& files) {
  std::ifstream limit_file(folder + "/" + files.limit), used_file(folder + "/" + files.used);
  size_t limit = 0, used = 0;
  if (!(limit_file >> limit) || !(used_file >> used)) return kNoLimit;
  std::ifstream stat(folder + "/memory.stat");
  std::string key;
  size_t bytes = 0, of_files = 0;
  while (stat >> key >> bytes)
    if (key == files.active || key == files.inactive) of_files += bytes;
  used -= std::min(used, of_files);
  return limit - std::min(limit, used);
}

// The least along `path` below `mount`. In a container the path may be the host's: then the mount itself is its group.
size_t least_left(const std::string& mount, const std::string& path, const GroupFiles& files) {
  size_t least = left_in(mount, files);
  std::error_code error;
  std::string folder = mount;
  for (const auto& part : std::filesystem::path(path)) {
    if (part == "/" || part.empty() || part == "..") continue;
    folder += "/" + part.string();
    if (!std::filesystem::is_directory(folder, error)) break;
    least = std::min(least, left_in(folder, files));
  }
  return least;
}

bool names_memory(const std::string& controllers) {
  std::istringstream list(controllers);
  for (std::string name; std::getline(list, name, ',');)
    if (name == "memory") return true;
  return false;
}

}  // namespace

size_t available_memory(const std::string& root) {
  const std::string top = root + "/sys/fs/cgroup";
  size_t least = system_memory(root);
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // "4:memory:/path"; version 2: "0::/path"
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
    if (controllers.empty()) least = std::min(least, least_left(top, path, kVersion2));
    else if (names_memory(controllers)) least = std::min(least, least_left(top + "/memory", path, kVersion1));
  }
  return least;
}

}  // namespace weft
