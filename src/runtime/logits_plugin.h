// Loads plugins with logits processors: shared objects with the C interface of include/weft/logits_processor.h.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "core/sampling_params.h"
#include "sampling/logits_processor.h"

namespace weft {

using ProcessorKinds = std::vector<std::shared_ptr<const LogitsProcessorKind>>;

// The processors of one file. Errors name the file and what is wrong with it: it cannot be loaded, is no plugin, has
// another version of the interface, or an incomplete table. The file stays loaded while a kind or a processor of it
// lives.
Result<ProcessorKinds> load_logits_plugin(const std::string& file);
// Those of several files and `more`, whose names must differ.
Result<ProcessorKinds> load_logits_plugins(const std::vector<std::string>& files, ProcessorKinds more);

// Makes the processors of a request in their order; an error is about "logits_processors[i].name" or ".params".
struct NamedProcessor {
  std::shared_ptr<const LogitsProcessorKind> kind;
  std::shared_ptr<LogitsProcessor> processor;
};
Result<std::vector<NamedProcessor>> create_processors(const ProcessorKinds& kinds,
                                                      const std::vector<ProcessorChoice>& choices, int vocab_size);

}  // namespace weft
