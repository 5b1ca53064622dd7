// Which processors this process may use, read from the system, and what follows for a team of compute threads: how
// many, and where.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/named_enum.h"
#include "base/result.h"

namespace weft {

// A logical processor: those with the same core and package are hyperthreads of one physical core.
struct Cpu {
  int id = 0, core = 0, package = 0;
  int node = 0;  // NUMA node
  bool operator==(const Cpu&) const = default;
};

struct CpuLayout {
  std::vector<Cpu> cpus;       // that the affinity mask allows, by id
  std::vector<Cpu> forbidden;  // the others that are online
  double quota = 0;            // processors' worth of time that the control group grants; 0: no limit

  // Physical cores that have an allowed processor.
  int cores() const;
  // Whether no processor outside the mask is a hyperthread of an allowed one.
  bool whole_cores() const;
  std::vector<int> nodes() const;  // of the allowed processors, ascending
};

// `affinity`: ids of the processors that the calling thread may run on; absent: asks the system. `root` is put in front
// of /sys and /proc (for tests). What cannot be read is taken for one core per processor, one node, and no quota.
CpuLayout read_cpu_layout(const std::string& root = "", std::optional<std::vector<int>> affinity = std::nullopt);

// Control groups, versions 1 and 2: the least quota of this process's group and those above it, in processors; 0: none.
double cgroup_cpu_quota(const std::string& root = "");

// Physical cores in the mask, but not more than the quota (rounded down: threads beyond it would be stopped in the
// middle of a step, and all wait for the slowest) and at least 1.
int default_threads(const CpuLayout& layout);

enum class Pinning : unsigned char { automatic, on, off };
template <>
inline constexpr auto kNames<Pinning> = names_of_all<Pinning>("auto", "on", "off");

// For each thread of a team, the ids of the processors that it is pinned to; empty: not pinned.
//   on         a physical core for each, or a logical processor where there are more threads than cores
//   automatic  with several NUMA nodes, the node whose weights the thread reads (threads in equal shares of each node's
//              cores). Otherwise a core each if the mask leaves out a part of the machine and its cores are whole and
//              as many as threads: then somebody has set them aside for this process. Else nowhere: another process on
//              a pinned thread's core would hold up all
// Errors: `on` with more threads than processors.
Result<std::vector<std::vector<int>>> place_threads(const CpuLayout& layout, int threads, Pinning pinning);

}  // namespace weft
