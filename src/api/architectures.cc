#include "api/engine.h"
#include "models/models.h"

namespace weft {

std::vector<SupportedArchitecture> supported_architectures() {
  std::vector<SupportedArchitecture> list;
  for (const models::Architecture& a : models::architectures())
    list.push_back({std::string(a.name), std::string(a.gives), std::string(a.example), std::string(a.features)});
  return list;
}

}  // namespace weft
