// Adapters of an engine, see api/engine.h.
#include "api/core_engine.h"

namespace weft {

Status CoreEngine::load_adapter(const std::string& name, const std::string& path) {
  if (!options_.lora.allow_loading)
    return fail(Code::unsupported, "adapters are not loaded at run time; --allow-lora-loading on allows it");
  try {
    return core_->adapters()->add(name, path);
  } catch (const std::bad_alloc&) {
    return Error(Code::resource_exhausted, "memory ran out for the adapter");
  }
}

Status CoreEngine::unload_adapter(const std::string& name) {
  if (!options_.lora.allow_loading)
    return fail(Code::unsupported, "adapters are not unloaded at run time; --allow-lora-loading on allows it");
  return core_->adapters()->remove(name);
}

std::vector<AdapterInfo> CoreEngine::adapters() const {
  return core_->adapters() ? core_->adapters()->list() : std::vector<AdapterInfo>();
}

}  // namespace weft
