#include "base/available_memory.h"

#include <sys/sysinfo.h>

#include <fstream>
#include <string>

namespace weft {

size_t available_memory() {
  std::ifstream info("/proc/meminfo");
  std::string key, unit;
  size_t kib = 0;
  while (info >> key >> kib >> unit)
    if (key == "MemAvailable:") return kib * 1024;
  struct sysinfo system;
  return ::sysinfo(&system) == 0 ? static_cast<size_t>(system.freeram) * system.mem_unit : size_t{1} << 30;
}

}  // namespace weft
