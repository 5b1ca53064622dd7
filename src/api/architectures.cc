#include "api/engine.h"
#include "models/models.h"
#include "runtime/model.h"

namespace weft {

std::vector<SupportedArchitecture> supported_architectures() {
  std::vector<SupportedArchitecture> list;
  for (const models::Architecture& a : models::architectures())
    list.push_back({std::string(a.name), std::string(a.gives), std::string(a.example), std::string(a.features)});
  return list;
}

Result<CacheShape> cache_shape(const Checkpoint& checkpoint) {
  WEFT_TRY(const Plan plan, plan_of(checkpoint));
  const HfConfig text = models::text_config(HfConfig::of(checkpoint));
  CacheShape shape{0, 0, text.count("num_hidden_layers"), models::context_limit(HfConfig::of(checkpoint)).positions};
  for (const LayerGroup& group : plan.groups) {
    CacheSpec spec = group.spec;
    spec.dtype = DType::i8;
    shape.values_per_token += int64_t{group.layers} * spec.kv_heads * values_per_token(spec);
    shape.int8_bytes_per_token += int64_t{group.layers} * spec.kv_heads * bytes_per_token(spec);
  }
  WEFT_RETURN_IF_ERROR(text.status());
  return shape;
}

}  // namespace weft
