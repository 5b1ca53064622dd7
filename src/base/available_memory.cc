#include "base/available_memory.h"

#include <sys/sysinfo.h>

#include <algorithm>
#include <fstream>
#include <limits>

#include "base/control_groups.h"

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

}  // namespace

size_t available_memory(const std::string& root) {
  size_t least = system_memory(root);
  for_each_control_group(root, "memory", [&](const std::string& folder, int version) {
    least = std::min(least, left_in(folder, version == 2 ? kVersion2 : kVersion1));
  });
  return least;
}

}  // namespace weft
