// `weft plan --disaggregated`: how many servers of each kind a stream of requests needs (plan/deployment.h), from a
// model's configuration alone.
#pragma once

#include <optional>
#include <string>

#include "api/recorded_plan.h"
#include "arguments.h"
#include "base/json.h"
#include "plan/cost.h"
#include "plan/deployment.h"

namespace weft {

struct DeploymentEstimate {
  DeploymentInput input;
  MachineModel machine;
  int context_tp = 1, generation_tp = 1, both_tp = 1;
  double mean_input = 0, mean_output = 0;  // tokens
  DisaggregatedPlan disaggregated;
  std::optional<AggregatedPlan> aggregated;
  std::string aggregated_problem;  // why there is none
};

// `recorded` must outlive the result, whose functions count its steps. Errors: what the options contradict each other
// in, those of split_plan() and of plan_disaggregated().
Result<DeploymentEstimate> make_deployment_estimate(const RecordedPlan& recorded, const Arguments& arguments);

// As lines, and as JSON (docs/contract.md).
std::string deployment_text(const DeploymentEstimate& estimate);
Json deployment_json(const DeploymentEstimate& estimate);

// Reads the model's configuration and prints the estimate.
Status estimate_deployment(const Arguments& arguments);

}  // namespace weft
