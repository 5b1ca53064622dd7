#include "base/control_groups.h"

#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

#include "base/folder.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

// Whether a list such as "cpu,cpuacct" names the controller.
bool lists(const std::string& names, std::string_view controller) {
  std::istringstream list(names);
  for (std::string name; std::getline(list, name, ',');)
    if (name == controller) return true;
  return false;
}

// Where the groups of version 1 with this controller are mounted: its name is in the folder's ("cpu,cpuacct").
std::vector<std::string> mounts(const std::string& top, std::string_view controller) {
  std::vector<std::string> found;
  for (const std::string& name : names_in(top))
    if (lists(name, controller)) found.push_back(top + "/" + name);
  return found;
}

// The groups along `path` below `mount`. In a container the path may be the host's, of which only the end is mounted:
// then the mount itself is the container's group.
void walk(const std::string& mount, const std::string& path, int version,
          const std::function<void(const std::string&, int)>& read) {
  read(mount, version);
  std::error_code error;
  std::string folder = mount;
  for (const auto& part : fs::path(path)) {
    if (part == "/" || part.empty() || part == "..") continue;
    folder += "/" + part.string();
    if (!fs::is_directory(folder, error)) break;
    read(folder, version);
  }
}

}  // namespace

void for_each_control_group(const std::string& root, std::string_view controller,
                            const std::function<void(const std::string& folder, int version)>& read) {
  const std::string top = root + "/sys/fs/cgroup";
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {  // "4:cpu,cpuacct:/path"; version 2: "0::/path"
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
    if (controllers.empty()) {
      walk(top, path, 2, read);
      walk(top + "/unified", path, 2, read);  // beside version 1
    } else if (lists(controllers, controller)) {
      for (const std::string& mount : mounts(top, controller)) walk(mount, path, 1, read);
    }
  }
}

}  // namespace weft
