// What a layout of ranks holds, sends and is estimated to take, from a model's configuration alone.
#pragma once

#include <string>
#include <vector>

#include "api/recorded_plan.h"
#include "arguments.h"
#include "plan/cost.h"

namespace weft {

// One kind of step. With attention data parallelism every home has its share of the sequences.
struct StepEstimate {
  std::string name;
  StepShape shape;
  std::vector<StepCost> ranks;  // by rank
  std::vector<int> slowest;     // of each stage: its rank that takes longest
  Traffic sent;                 // by all ranks
  double seconds = 0;           // through all stages, each at its slowest rank
  double stage_seconds = 0;     // of the slowest stage
  int64_t tokens() const { return shape.sequences * shape.rows; }
};

struct Estimate {
  RankPlaces places;
  MachineModel machine;
  std::vector<LayerRange> stages;  // the layers of each
  std::vector<HeldBytes> held;     // by rank
  StepEstimate decode, prompt;
  std::string ops;  // of rank 0, printed
};

// The machine that the options describe, and as JSON.
MachineModel machine_of(const EstimateArguments& options);
Json machine_json(const MachineModel& machine);

// Errors: those of split_plan(), and nodes that do not divide the ranks.
Result<Estimate> make_estimate(const RecordedPlan& recorded, const EngineOptions& engine,
                               const EstimateArguments& options);

// As lines, and as JSON (docs/contract.md).
std::string report_text(const Estimate& estimate);
Json report_json(const Estimate& estimate);

// Reads the model's configuration and prints the plan of rank 0 and the estimate.
Status estimate_plan(const Arguments& arguments);

}  // namespace weft
