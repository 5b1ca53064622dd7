// A configuration file: YAML with the names of the command line's options, underscores for dashes. yaml-cpp is included
// in config_file.cc alone.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace weft {

struct ConfigEntry {
  std::string option;               // "max-batch-size"
  std::vector<std::string> values;  // of a list several; a map as JSON text
  int line = 0;
};

// Errors name the file and the line.
Result<std::vector<ConfigEntry>> read_config_file(const std::string& path);

// What a YAML file holds, as JSON: of scalars without quotes, numbers and truth values become such. Errors name the
// file and the line.
Result<Json> read_yaml_file(const std::string& path);

}  // namespace weft
