// A configuration file: YAML with the names of the command line's options, underscores for dashes. yaml-cpp is included
// in config_file.cc alone.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace weft {

struct ConfigEntry {
  std::string option;               // "max-batch-size"
  std::vector<std::string> values;  // of a list several; a map as JSON text
  int line = 0;
};

// Errors name the file and the line.
Result<std::vector<ConfigEntry>> read_config_file(const std::string& path);

}  // namespace weft
