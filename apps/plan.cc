// `weft plan`: the step plan that the model recorded, as text.
#include "terminal.h"

namespace weft {

Status plan_command(const Arguments& arguments, const EngineLoader& load) {
  WEFT_TRY(const std::unique_ptr<Engine> engine, load_model(arguments, load));
  print_out(engine->plan_text());
  return {};
}

}  // namespace weft
