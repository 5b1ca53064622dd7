#include "base/cpu_layout.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <thread>

#include "base/control_groups.h"

namespace weft {
namespace {

using Core = std::pair<int, int>;  // package, core

Core core_of(const Cpu& cpu) { return {cpu.package, cpu.core}; }

std::optional<int> read_number(const std::string& path) {
  std::ifstream file(path);
  int value = 0;
  if (!(file >> value)) return std::nullopt;
  return value;
}

// "0-3,8,10-11"
std::vector<int> read_list(const std::string& path) {
  std::ifstream file(path);
  std::vector<int> ids;
  for (std::string part; std::getline(file, part, ',');) {
    int first = 0, last = 0;
    char dash = 0;
    std::istringstream text(part);
    if (!(text >> first)) break;
    if (!(text >> dash >> last)) last = first;
    for (int id = first; id <= last && last < (1 << 16); ++id) ids.push_back(id);
  }
  return ids;
}

std::vector<int> own_affinity() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> ids;
  if (::sched_getaffinity(0, sizeof set, &set) == 0) {
    for (int id = 0; id < CPU_SETSIZE; ++id)
      if (CPU_ISSET(id, &set)) ids.push_back(id);
  } else {
    for (int id = 0; id < static_cast<int>(std::thread::hardware_concurrency()); ++id) ids.push_back(id);
  }
  return ids;
}

// Node of each processor; those that no node claims are absent.
std::map<int, int> read_nodes(const std::string& root) {
  std::map<int, int> nodes;
  const std::string folder = root + "/sys/devices/system/node/";
  for (const int node : read_list(folder + "online"))
    for (const int cpu : read_list(folder + "node" + std::to_string(node) + "/cpulist")) nodes[cpu] = node;
  return nodes;
}

// cpu.max: "QUOTA PERIOD" or "max PERIOD" in microseconds.
double quota_v2(const std::string& folder) {
  std::ifstream file(folder + "/cpu.max");
  double quota = 0, period = 0;
  return file >> quota >> period && quota > 0 && period > 0 ? quota / period : 0;
}

double quota_v1(const std::string& folder) {
  std::ifstream quota_file(folder + "/cpu.cfs_quota_us"), period_file(folder + "/cpu.cfs_period_us");
  double quota = 0, period = 0;  // -1: none
  return quota_file >> quota && period_file >> period && quota > 0 && period > 0 ? quota / period : 0;
}

// Physical cores with the processors of each, by node, package and core.
std::vector<std::vector<int>> cores_of(const std::vector<Cpu>& cpus) {
  std::map<std::tuple<int, int, int>, std::vector<int>> cores;
  for (const Cpu& cpu : cpus) cores[{cpu.node, cpu.package, cpu.core}].push_back(cpu.id);
  std::vector<std::vector<int>> list;
  for (auto& [key, ids] : cores) list.push_back(std::move(ids));
  return list;
}

std::vector<std::vector<int>> place_on_nodes(const CpuLayout& layout, int threads) {
  std::vector<std::pair<int, int>> cores;  // node and a processor of it, once per core, by node
  for (const int node : layout.nodes()) {
    std::vector<Cpu> own;
    for (const Cpu& cpu : layout.cpus)
      if (cpu.node == node) own.push_back(cpu);
    for (const std::vector<int>& core : cores_of(own)) cores.emplace_back(node, core.front());
  }
  std::vector<std::vector<int>> places(static_cast<size_t>(threads));
  for (size_t thread = 0; thread < places.size(); ++thread) {
    const int node = cores[thread * cores.size() / places.size()].first;
    for (const Cpu& cpu : layout.cpus)
      if (cpu.node == node) places[thread].push_back(cpu.id);
  }
  return places;
}

}  // namespace

int CpuLayout::cores() const {
  std::set<Core> cores;
  for (const Cpu& cpu : cpus) cores.insert(core_of(cpu));
  return static_cast<int>(cores.size());
}

bool CpuLayout::whole_cores() const {
  std::set<Core> cores;
  for (const Cpu& cpu : cpus) cores.insert(core_of(cpu));
  return std::none_of(forbidden.begin(), forbidden.end(), [&](const Cpu& cpu) { return cores.contains(core_of(cpu)); });
}

std::vector<int> CpuLayout::nodes() const {
  std::set<int> nodes;
  for (const Cpu& cpu : cpus) nodes.insert(cpu.node);
  return {nodes.begin(), nodes.end()};
}

double cgroup_cpu_quota(const std::string& root) {
  double least = 0;
  for_each_control_group(root, "cpu", [&](const std::string& folder, int version) {
    const double quota = version == 2 ? quota_v2(folder) : quota_v1(folder);
    if (quota > 0 && (least == 0 || quota < least)) least = quota;
  });
  return least;
}

CpuLayout read_cpu_layout(const std::string& root, std::optional<std::vector<int>> affinity) {
  CpuLayout layout;
  const std::vector<int> allowed = affinity ? std::move(*affinity) : own_affinity();
  std::set<int> all(allowed.begin(), allowed.end());
  for (const int id : read_list(root + "/sys/devices/system/cpu/online")) all.insert(id);
  const std::map<int, int> nodes = read_nodes(root);
  for (const int id : all) {
    const std::string topology = root + "/sys/devices/system/cpu/cpu" + std::to_string(id) + "/topology/";
    const auto core = read_number(topology + "core_id"), package = read_number(topology + "physical_package_id");
    Cpu cpu{id, id, -1, 0};  // a core of its own if the system does not say
    if (core && package) cpu.core = *core, cpu.package = *package;
    if (const auto node = nodes.find(id); node != nodes.end()) cpu.node = node->second;
    const bool usable = std::find(allowed.begin(), allowed.end(), id) != allowed.end();
    (usable ? layout.cpus : layout.forbidden).push_back(cpu);
  }
  layout.quota = cgroup_cpu_quota(root);
  return layout;
}

int default_threads(const CpuLayout& layout) {
  int threads = std::max(1, layout.cores());
  if (layout.quota > 0) threads = std::min(threads, std::max(1, static_cast<int>(std::floor(layout.quota + 1e-6))));
  return threads;
}

Result<std::vector<std::vector<int>>> place_threads(const CpuLayout& layout, int threads, Pinning pinning) {
  std::vector<std::vector<int>> anywhere(static_cast<size_t>(std::max(threads, 0)));
  if (pinning == Pinning::off || threads < 1 || layout.cpus.empty()) return anywhere;
  if (pinning == Pinning::automatic) {
    if (layout.nodes().size() > 1) return place_on_nodes(layout, threads);
    const bool set_aside = !layout.forbidden.empty() && layout.whole_cores() && layout.cores() == threads;
    if (!set_aside || (layout.quota > 0 && layout.quota < threads)) return anywhere;
  }
  std::vector<std::vector<int>> cores = cores_of(layout.cpus);
  if (static_cast<size_t>(threads) > cores.size()) {
    if (static_cast<size_t>(threads) > layout.cpus.size())
      return fail(Code::invalid_argument, threads, " threads cannot be pinned: this process may use ",
                  layout.cpus.size(), " processors; lower --threads, or leave --pin-threads at auto")
          .about("pin-threads");
    cores.clear();
    for (const Cpu& cpu : layout.cpus) cores.push_back({cpu.id});
  }
  // With fewer threads than cores, spread over all of them: packages and nodes have caches and memory of their own.
  for (size_t thread = 0; thread < anywhere.size(); ++thread)
    anywhere[thread] = cores[thread * cores.size() / anywhere.size()];
  return anywhere;
}

}  // namespace weft
